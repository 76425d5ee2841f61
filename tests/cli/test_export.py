"""`quala export`: from a checkpoint or an export to a folder that answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from quala.cli import export
from quala.cli.export import main
from quala.durable import disk_trouble
from quala.errors import QualaError
from quala.lengths import layers_name
from quala.manifest import check_folder
from quala.runtime.answerer import load
from quala.runtime.card import LOADED, Card
from quala.runtime.texts import Classifier


def test_a_checkpoint_becomes_an_export(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "checkpoint"
    card.mkdir()
    for file in tiny_checkpoint.iterdir():
        (card / file.name).write_bytes(file.read_bytes())
    facts = {"format": 1, "task": "question-answering", "num_labels": 2, "sequence_length": 128,
             "significance": "span", "semantics": "natural"}  # fmt: skip
    (card / "quala.json").write_text(json.dumps(facts), encoding="utf-8")
    out = tmp_path / "out"
    argv = [str(card), "--out", str(out), "--repeats", "1", "--json"]
    assert main(argv) == 0
    shown = capsys.readouterr()
    assert "no scores" in shown.err
    assert json.loads(shown.out)["sequence_length"] == 128
    assert load(out).answer("Who?", "It was Anna.", keep=0.6).answers


def test_an_export_is_copied(
    export_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(export_folder), "--out", str(tmp_path / "copy")]) == 0
    assert "3 points" in capsys.readouterr().out
    assert (tmp_path / "copy" / "model.onnx").read_bytes() == (
        export_folder / "model.onnx"
    ).read_bytes()
    check_folder(tmp_path / "copy", LOADED)


def test_a_copy_of_an_older_export_has_a_manifest(export_folder: Path, tmp_path: Path) -> None:
    old = shutil.copytree(export_folder, tmp_path / "old")
    (old / "manifest.json").unlink()
    assert main([str(old), "--out", str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy/manifest.json").read_bytes() == (
        export_folder / "manifest.json"
    ).read_bytes()


def test_a_damaged_export_is_not_copied(export_folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(export_folder, tmp_path / "damaged")
    with (damaged / "model.onnx").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(QualaError, match=r"model.onnx` has another content"):
        main([str(damaged), "--out", str(tmp_path / "copy")])
    assert not (tmp_path / "copy").exists()


def test_a_folder_with_something_in_it_is_left_alone(export_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(QualaError, match="exists already"):
        main([str(export_folder), "--out", str(tmp_path)])


def copied(checkpoint: Path, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint, folder / "checkpoint"))


def test_a_model_without_head_is_not_exported(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import BertModel

    folder = copied(tiny_checkpoint, tmp_path)
    BertModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(QualaError, match=r"no head for question-answering.*qa_outputs\.weight"):
        main([str(folder), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_classifier_of_another_tool_becomes_an_export_that_predicts(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import BertForSequenceClassification

    folder, out = copied(tiny_checkpoint, tmp_path), tmp_path / "out"
    names = {0: "bad", 1: "good"}
    labels = {name: number for number, name in names.items()}
    BertForSequenceClassification.from_pretrained(
        folder, id2label=names, label2id=labels
    ).save_pretrained(folder)
    assert main([str(folder), "--out", str(out), "--repeats", "0"]) == 0
    assert f"Try it: quala predict {out} --text" in capsys.readouterr().out.replace("\n", " ")
    model = load(out)
    assert isinstance(model, Classifier)
    assert model.predict("a good report", keep=0.9).label in labels
    assert (out / "MLmodel").is_file()


def test_a_model_without_tokenizer_is_not_exported(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(QualaError, match="has no tokenizer"):
        main([str(folder), "--out", str(tmp_path / "out")])


def test_windows_are_as_long_as_the_model_reads(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(tiny_checkpoint, tmp_path)  # 128 positions, and no quala.json
    argv = [str(folder), "--out", str(tmp_path / "out"), "--repeats", "0", "--json"]
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["sequence_length"] == 128
    facts = {"format": 1, "task": "question-answering", "sequence_length": 129}
    (folder / "quala.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(QualaError, match=r"at most 128 tokens.*got `max_length` 129"):
        main([str(folder), "--out", str(tmp_path / "other")])


def test_an_export_follows_no_options(export_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    argv = [str(export_folder), "--out", str(out), "--name", "foo", "--repeats", "0"]
    with pytest.raises(QualaError, match=r"an export already.*`--name`, `--repeats`"):
        main(argv)
    assert not out.exists()


def test_a_checkpoint_without_a_card_is_no_longer_than_its_positions(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = [str(tiny_checkpoint), "--out", str(out), "--name", "mine", "--repeats", "0", "--json"]
    assert main(argv) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["name"], card["sequence_length"]) == ("mine", 128)
    assert {point["lengths"][0] for point in card["front"][:1]} == {128}
    assert load(out).answer("Who?", "It was Anna. " * 90).answers


def test_a_folder_that_cannot_be_made_is_one_sentence(export_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(QualaError, match=r"`--out` names a folder.*file` cannot be one"):
        main([str(export_folder), "--out", str(tmp_path / "file/out")])


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_export_that_fails_leaves_nothing(
    there: bool,
    error: BaseException,
    export_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = shutil.copytree

    def cut(source: Path, folder: Path, **options: bool) -> None:
        copy(source, folder, **options)
        assert len(list(tmp_path.rglob("model.onnx"))) == 1
        raise error

    monkeypatch.setattr(shutil, "copytree", cut)
    out = tmp_path / "new" / "out"
    if there:
        out.mkdir(parents=True)
    with pytest.raises(type(error)):
        main([str(export_folder), "--out", str(out)])
    assert list(tmp_path.rglob("*")) == ([out.parent, out] if there else [])


def test_an_export_whose_registering_fails_leaves_nothing(
    export_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise QualaError("The store refuses.")

    monkeypatch.setattr(export, "locate_model", lambda *_, **__: export_folder)
    monkeypatch.setattr(export, "register", refused)
    with pytest.raises(QualaError, match="The store refuses"):
        main(["0" * 32, "--out", str(tmp_path / "out"), "--register", "name"])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_kept_and_filled(export_folder: Path, tmp_path: Path) -> None:
    kept = tmp_path.stat().st_ino
    assert main([str(export_folder), "--out", str(tmp_path)]) == 0
    assert tmp_path.stat().st_ino == kept  # it may be mounted, or the current folder
    names = {file.name for file in export_folder.iterdir()}
    assert {file.name for file in tmp_path.iterdir()} == names


def test_a_model_is_not_exported_into_itself(export_folder: Path) -> None:
    with pytest.raises(QualaError, match="must be outside of the model's own folder"):
        main([str(export_folder), "--out", str(export_folder / "copy")])
    assert not (export_folder / "copy").exists()


def test_a_place_that_takes_no_folder_is_one_sentence(export_folder: Path) -> None:
    with pytest.raises(QualaError, match="`/proc` takes no new folder: No such file"):
        main([str(export_folder), "--out", "/proc/out"])


@pytest.mark.parametrize(
    "failed", [OSError(28, "No space left on device"), Exception("No space left on device")]
)
def test_a_full_disk_is_named_by_out_though_the_draft_is_gone(
    failed: Exception, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(OSError, match="No space") as caught, export.drafted(out):
        raise failed
    assert disk_trouble(caught.value) == f"The disk is full: {out}."
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def elastic_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "elastic")
    facts = json.loads((folder / "config.json").read_text())
    facts["quala_elastic"] = ["", "1x32", "2x64,-"]
    (folder / "config.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


@pytest.mark.parametrize("layers", ["1x32", "2x64,-"])
def test_a_sub_network_is_saved_as_a_checkpoint_and_exported_alone(
    layers: str, elastic_checkpoint: Path, tmp_path: Path
) -> None:
    from quala.checkpoint import cut_out, load_any_model

    whole = load_any_model(elastic_checkpoint)
    own = next(one for one in whole.structures[1:] if layers_name(one) == layers)
    part, cut = cut_out(whole, own), tmp_path / "cut"
    argv = [str(elastic_checkpoint), "--layers", layers, "--out"]
    assert main([*argv, str(cut), "--checkpoint"]) == 0
    loaded = load_any_model(cut)
    assert loaded.structures == []
    assert loaded.arch == part.arch
    for name, item in part.hf.state_dict().items():
        assert torch.equal(item, loaded.hf.state_dict()[name])
    assert main([*argv, str(tmp_path / "small"), "--repeats", "0"]) == 0
    card = Card.read(tmp_path / "small")
    assert (card.arch, card.front[0].units) == (part.arch, None)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--layers", "1x16"], "only for: 1x32, 2x64,-"),
        (["--checkpoint"], "needs `--layers`"),
        (["--layers", "1x32", "--checkpoint", "--threads", "2"], "leave out `--threads`"),
    ],
)
def test_what_is_no_sub_network_is_refused(
    words: list[str], sentence: str, elastic_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(QualaError, match=sentence):
        main([str(elastic_checkpoint), "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_one_point_is_written_for_other_tools(
    export_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = [str(export_folder), "--out", str(out), "--license", "mit"]
    assert main([*argv, "--standard", "--lengths", "60,20"]) == 0
    assert "license: mit" in (out / "README.md").read_text()
    shown = capsys.readouterr().out
    assert "at 60,20" in shown
    assert "to start_logits, end_logits" in shown
    assert (out / "onnx/model_quantized.onnx").is_file()
    assert not (out / "quala.json").exists()


def test_a_checkpoint_is_written_for_other_tools(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = [str(tiny_checkpoint), "--out", str(out), "--standard", "--keep", "0.7", "--json"]
    assert main(argv) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["file"] == "onnx/model.onnx"
    assert facts["point"] != "full"
    assert {file.name for file in out.iterdir()} == {
        "README.md", "config.json", "manifest.json", "onnx", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep", "0.5"], "one point of `--standard`"),
        (["--standard", "--register", "x"], "goes without `--register`"),
        (["--standard", "--lengths", "60,20,10"], "Expected 2 lengths"),
        (["--standard", "--budget-ms", "0.0001", "--strict"], "No point of the front"),
    ],
)
def test_options_that_do_not_go_with_one_point(
    options: list[str], said: str, export_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(QualaError, match=said):
        main([str(export_folder), "--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()
