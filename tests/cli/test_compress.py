"""`quala compress`: from a toy model and data to an export, by each recipe; and its refusals."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commandline import quiet_logging

from quala.autocompress import pace
from quala.cli import compress
from quala.cli.entry import main
from quala.data.spec import DataSpec
from quala.errors import QualaError

TOY = [
    "data.selection_size=8", "stage.search.max_evaluations=4", "stage.search.population=2",
    "stage.search.step=8", "stage.measure.latency_inputs=2", "stage.measure.warmup=1",
    "stage.measure.front_points=2", "stage.export.repeats=1",
    "stage.quantize.calibration_batches=2",
]  # fmt: skip
FAST, MIDDLING, SLOW = 1e-6, 0.0165, 10.0
"""Seconds of a pass: there is time for the whole recipe, for a few steps, for none."""

Compress = Callable[..., Any]


@pytest.fixture(scope="module")
def classifier(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, sentences: DataSpec
) -> Path:
    """A toy classifier whose outputs are called `three` and `first`, at random weights."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

    config = AutoConfig.from_pretrained(tiny_checkpoint, num_labels=2)
    config.id2label, config.label2id = {0: "three", 1: "first"}, {"three": 0, "first": 1}
    folder = tmp_path_factory.mktemp("classifier") / "my bert"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory, sentences: DataSpec) -> Path:
    """The toy sentences with names for labels, and a column of another name."""
    lines = Path(str(sentences.path)).read_text().splitlines()[1:]
    rows = (line.rpartition("\t") for line in lines)
    text = [f"{one[0]},{('three', 'first')[int(one[2])]}" for one in rows]
    file = tmp_path_factory.mktemp("named") / "reviews.csv"
    file.write_text("\n".join(["review,label", *text]) + "\n")
    return file


@pytest.fixture
def run(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Compress]:
    """Return the command, whose model takes `seconds` for a pass."""
    store, measured = tmp_path / "mlruns", pace.measured
    store.mkdir()
    shutil.copy(migrated_database, store / "mlflow.db")
    monkeypatch.setattr("quala.workflow.lease.SECONDS_TO_SETTLE", 0.05)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)

    def command(*words: str, seconds: float = FAST, code: int = 0) -> Any:
        monkeypatch.setattr(pace, "_timed", lambda *_: (seconds, 3 * seconds, "fp32"))
        monkeypatch.setattr(pace, "measured", lambda subject: steady(measured(subject)))
        said = io.StringIO()
        with quiet_logging(), redirect_stdout(said):
            found = main(["compress", *words, f"tracking.folder={store}"])
        assert found == code, said.getvalue()
        return json.loads(said.getvalue()) if "--json" in words else said.getvalue()

    return command


def steady(found: tuple[pace.Pace, pace.Sizes]) -> tuple[pace.Pace, pace.Sizes]:
    """Return what was measured, with times that do not depend on the machine."""
    return replace(found[0], read=1.0, tokenize=0.0), found[1]


def statuses(result: Any) -> dict[str, str]:
    return {one["stage"]: one["status"] for one in result["stages"]}


@pytest.mark.slow
def test_a_classifier_is_compressed_by_the_whole_recipe_and_the_same_command_goes_on(
    run: Compress, classifier: Path, named: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small"
    words = [str(classifier), "--data", str(named), "--out", str(out), "data.columns.text=review"]
    found = run(*words, *TOY, "--json")
    plan = found["plan"]
    assert plan["recipe"] == "whole recipe"
    assert "stage.length_adapt.teacher=1.0" in plan["command"]
    assert "data.columns.text=review" in plan["command"]
    assert {"length_adapt": "done", "quantize": "done", "export": "done"}.items() <= statuses(
        found
    ).items()
    card = json.loads((out / "quala.json").read_text())
    assert card["labels"] == ["three", "first"]
    assert len(card["front"]) == len(found["front"])
    assert found["own"]["examples"] == found["chosen"]["examples"] == 16
    assert found["own"]["lost"] is None
    low, high = found["chosen"]["lost_interval"]
    assert low <= found["chosen"]["lost"] <= high
    assert any("cannot" in note for note in plan["notes"])  # 16 examples promise nothing
    assert not found["kept"]
    assert any("too few to promise `--max-loss 1`" in one for one in found["said"])
    assert found["commands"][0].startswith("quala predict ")
    before = (out / "quala.json").stat().st_mtime_ns
    again = run(*words, *TOY, "--json", seconds=SLOW)  # the plan of the first time counts
    assert again["plan"] == plan
    assert again["run_id"] == found["run_id"]
    assert (out / "quala.json").stat().st_mtime_ns == before
    refused = run(*words, *TOY, "--minutes", "7", seconds=FAST, code=2)  # of another plan
    assert refused == ""


@pytest.mark.slow
def test_a_question_answering_model_is_calibrated_and_searched_within_a_budget(
    run: Compress, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small"
    words = [str(tiny_checkpoint), "--data", "demo", "--out", str(out), "--budget-ms", "1000"]
    text = run(*words, *TOY, "data.max_test=8", "data.search_size=8", seconds=SLOW)
    assert "calibration and search" in text
    assert "length_adapt" not in text.partition("It stands for")[0]
    assert "`--budget-ms 1000` is kept" in text
    assert f'quala answer {out} --question "..." --context @page.txt --budget-ms 1000' in text
    assert f"quala serve {out} --budget-ms 1000" in text
    assert (out / "model.onnx").is_file()


def plan_of(run: Compress, *words: str, **options: Any) -> Any:
    return run(*words, "--plan", "--json", **options)


def test_the_time_chooses_the_recipe(run: Compress, classifier: Path, named: Path) -> None:
    words = [str(classifier), "--data", str(named), "data.columns.text=review"]
    recipes = [
        plan_of(run, *words, "--minutes", "2", f"seed={number}", seconds=seconds)["recipe"]
        for number, seconds in enumerate((FAST, MIDDLING, SLOW))
    ]
    assert recipes == ["whole recipe", "short adaptation", "calibration and search"]


def test_a_plan_writes_no_model_and_says_the_command(
    run: Compress, classifier: Path, named: Path, tmp_path: Path
) -> None:
    text = run(
        str(classifier), "--data", str(named), "--plan", "data.columns.text=review",
        "stage.quantize.enabled=false",
    )  # fmt: skip
    assert "classification, bert, 2 layers of width 32" in text
    assert "the default of `--minutes`" in text
    assert "It stands for: quala run quala_minilm experiment=compress data=glue" in text
    assert "stage.quantize.method" not in text
    assert not list((tmp_path / "mlruns").rglob("*.safetensors"))


def refusal(run: Compress, capsys: pytest.CaptureFixture[str], *words: str, **options: Any) -> str:
    run(*words, code=2, **options)
    return capsys.readouterr().err


def test_a_bare_encoder_is_trained_first_or_refused_with_what_trains_it(
    run: Compress,
    classifier: Path,
    named: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoTokenizer, BertModel

    bare = tmp_path / "bare"
    BertModel.from_pretrained(classifier).save_pretrained(bare)
    AutoTokenizer.from_pretrained(classifier).save_pretrained(bare)
    words = [str(bare), "--data", str(named), "data.columns.text=review"]
    plan = plan_of(run, *words)
    assert plan["stages"][0]["stage"] == "finetune"
    assert f"model.teacher={bare}" in plan["command"]
    text = refusal(run, capsys, *words, "--plan", "--minutes", "1", seconds=SLOW)
    assert "there is no time to train one" in text
    assert "flow.until=finetune" in text


def test_what_contradicts_is_refused_in_one_sentence(
    run: Compress,
    classifier: Path,
    tiny_checkpoint: Path,
    named: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ["--out", str(tmp_path / "small")]
    said = [
        refusal(run, capsys, str(tiny_checkpoint), "--data", str(named), *out),
        refusal(run, capsys, str(classifier), "--data", "demo", *out),
        refusal(run, capsys, str(classifier), "--data", str(named), "--task", "regression", *out),
        refusal(run, capsys, str(classifier), "--data", "nothing.csv", *out),
        refusal(run, capsys, "minilm-squad", "--data", "demo", *out),
        refusal(run, capsys, str(classifier), "--data", str(named)),
        refusal(run, capsys, str(classifier), "--data", str(named), "more", *out),
        refusal(run, capsys, str(classifier), "--data", str(named), "--minutes", "0", *out),
        refusal(run, capsys, str(classifier), "--data", str(named), "stage.nothing=1", *out),
    ]  # fmt: skip
    told = [
        "is a model for question-answering", "is a model for classification",
        "is a model for classification", "There are no data at `nothing.csv`",
        "is an export, which is compressed already", "`--out` is missing",
        "takes no word more, got `more`", "`--minutes` must be above 0",
        "Unknown configuration key",
    ]  # fmt: skip
    for text, wanted in zip(said, told, strict=True):
        assert wanted in text, text
        assert text.count("\n") == 1, text
    assert not Path(out[1]).exists()


def test_labels_that_the_model_does_not_have_are_refused_before_any_work(
    run: Compress, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.csv"
    rows = (f"text {n},{('cat', 'dog')[n % 2]}" for n in range(40))
    file.write_text("\n".join(["text,label", *rows]) + "\n")
    text = refusal(run, capsys, str(classifier), "--data", str(file), "--plan")
    assert "cat" in text
    assert "three" in text


def test_a_full_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(QualaError, match="wants a folder that is new or empty"):
        compress.main(["model", "--data", "demo", "--out", str(tmp_path)])
