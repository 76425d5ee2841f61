"""`quala compress`: from a toy model and data to an export, by each recipe; and its refusals."""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commandline import quiet_logging
from unanswerable import write_official

from quala.autocompress import pace
from quala.cli import compress
from quala.cli.entry import main
from quala.data.spec import DataSpec
from quala.data.taskdata import TaskData
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
    assert "fewer tokens, heads, neurons and layers" in text
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


def test_too_few_data_are_refused(
    run: Compress, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few").mkdir()
    for name in ("train", "validation"):
        (tmp_path / "few" / f"{name}.csv").write_text(f"text,label\n{name},three\nb,first\n")
    words = [str(classifier), "--data", str(tmp_path / "few"), "--plan"]
    assert "leave none to search with" in refusal(run, capsys, *words)
    floats = ["stage.search.enabled=false", "stage.quantize.enabled=false"]
    assert [one["stage"] for one in plan_of(run, *words, *floats)["stages"]][-1] == "export"
    text = refusal(run, capsys, *words, "--task", "embedding")
    assert "`--task embedding` wants text_pair, label" in text
    assert "`data.columns.text_pair=NAME`" in text


def test_a_full_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(QualaError, match="wants a folder that is new or empty"):
        compress.main(["model", "--data", "demo", "--out", str(tmp_path)])


WORDS = ("the", "of", "and", "in", "was", "to", "first", "three", "year", "would")


def model_of(folder: Path, source: Path, name: str, **options: Any) -> Path:
    """Write a toy model of a class of transformers, with the tokenizer of `source`."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(source, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, name)(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def tagged(folder: Path) -> Path:
    """Write CoNLL files in which one word is an entity."""
    folder.mkdir()
    draw = random.Random(0)
    for name, count in (("train", 60), ("validation", 16)):
        lines = []
        for _ in range(count):
            words = draw.sample(WORDS, 5)
            lines += [*(f"{one} NN {'B-A' if one == 'first' else 'O'}" for one in words), ""]
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose score is how many words they share, as half points."""
    folder, draw = tmp_path_factory.mktemp("pairs"), random.Random(0)
    for name, count in (("train", 60), ("validation", 16)):
        rows = []
        for number in range(count):
            one, other = draw.sample(WORDS, 5), draw.sample(WORDS, 5)
            rows.append({"sentence1": f"{' '.join(one)} {number}", "sentence2": " ".join(other),
                         "score": len({*one} & {*other}) / 2})  # fmt: skip
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.mark.slow
def test_tagged_words_are_compressed(run: Compress, tiny_checkpoint: Path, tmp_path: Path) -> None:
    names = {0: "B-A", 1: "O"}
    model = model_of(tmp_path / "tagger", tiny_checkpoint, "BertForTokenClassification",
                     num_labels=2, id2label=names, label2id={"B-A": 0, "O": 1})  # fmt: skip
    out = tmp_path / "small"
    found = run(str(model), "--data", str(tagged(tmp_path / "data")), "--out", str(out), *TOY,
                "--json", seconds=SLOW)  # fmt: skip
    card = json.loads((out / "quala.json").read_text())
    assert (card["task"], card["labels"]) == ("token-classification", ["B-A", "O"])
    assert card["significance"] == "cls"  # the task's own, without any training
    assert {"f1", "lost_interval"} <= found["chosen"].keys()
    assert found["chosen"]["lost_interval"] is not None
    assert "--text" in found["commands"][0]
    assert "--pair" not in found["commands"][0]


@pytest.mark.slow
def test_a_sentence_encoder_is_compressed_on_scored_pairs(
    run: Compress, tiny_checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    model, out = model_of(tmp_path / "encoder", tiny_checkpoint, "BertModel"), tmp_path / "small"
    words = [str(model), "--data", str(pairs), "--out", str(out), *TOY, "--json"]
    found = run(*words, "--minutes", "2", seconds=1e-3)
    assert found["plan"]["recipe"] == "whole recipe"
    assert "experiment=compress_embeddings" in found["plan"]["command"]
    assert any("`--task regression`" in note for note in found["plan"]["notes"])
    assert statuses(found)["length_adapt"] == "done"
    card = json.loads((out / "quala.json").read_text())
    assert (card["task"], card["significance"]) == ("embedding", "column_sum")
    assert found["own"]["examples"] == 16
    assert found["chosen"]["lost_interval"] is not None


def test_the_model_decides_what_scored_pairs_are_for(
    run: Compress, tiny_checkpoint: Path, pairs: Path, tmp_path: Path
) -> None:
    def commanded(name: str, *words: str, **options: Any) -> str:
        model = model_of(tmp_path / f"{name}{len(options)}", tiny_checkpoint, name, **options)
        return str(plan_of(run, str(model), "--data", str(pairs), *words)["command"])

    crossed = commanded("BertForSequenceClassification", num_labels=1)
    assert "data=glue" in crossed
    assert "data.metric=pearson_spearman" in crossed
    assert "stage.finetune.given" in crossed
    raw = commanded("BertForMaskedLM")  # knows no sentences yet
    assert "data=glue" in raw
    assert "model.teacher" in raw
    assert "data=glue" in commanded("BertModel", "--task", "regression")
    assert "data=sts" in commanded("BertForMaskedLM", "--task", "embedding")


def test_a_pair_and_a_ranking_are_in_the_commands(
    pairs: Path, tiny_tokenizer_folder: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    arguments = argparse.Namespace(out="small", budget_ms=None)
    row = SimpleNamespace(lengths=(8, 4), tokens="8,4", layers="")
    outcome: Any = SimpleNamespace(chosen=SimpleNamespace(row=row))

    def first(**options: Any) -> str:
        data = TaskData(DataSpec(path=str(pairs), **options), tokenizer)
        return compress._commands(arguments, data, outcome)[0]

    assert first(task="glue") == 'quala predict small --text "..." --pair "..." --lengths 8,4'
    ranked = first(task="glue", metric="ndcg_10")
    assert ranked == 'quala predict small --query "..." --passages passages.txt --lengths 8,4'
    assert first(task="embed") == 'quala predict small --text "..." --lengths 8,4'
    arguments.budget_ms = 5.0
    assert first(task="embed") == 'quala predict small --text "..." --budget-ms 5'


def test_questions_without_an_answer_are_kept_and_said(
    run: Compress, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_official(tmp_path, train=24, test=8)
    words = [str(tiny_checkpoint), "--data", str(data)]
    plan = plan_of(run, *words)
    assert "data.unanswerable=keep" in plan["command"]
    assert any("Some questions have no answer (SQuAD 2.0)" in note for note in plan["notes"])
    assert "unanswerable" not in plan_of(run, str(tiny_checkpoint), "--data", "demo")["command"]
    assert "keep" not in plan_of(run, *words, "data.unanswerable=drop")["command"]
    known = tmp_path / "known"
    shutil.copytree(tiny_checkpoint, known)
    facts = {"format": 1, "task": "question-answering", "num_labels": 2}
    (known / "quala.json").write_text(json.dumps(facts))
    text = refusal(run, capsys, str(known), "--data", str(data), "--plan")
    assert "was trained without such ones: `data.unanswerable=drop` leaves them out" in text


OTHERS: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "deberta-v2": {"relative_attention": True, "position_buckets": 8, "share_att_key": True,
                   "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm",
                   "type_vocab_size": 0},
    "modernbert": {},
    "mpnet": {"type_vocab_size": 1},
}  # fmt: skip


def family_config(family: str, words: int, **options: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(
        family, vocab_size=words, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=130, num_labels=2, pad_token_id=1,
        **{**OTHERS[family], **options},
    )  # fmt: skip


@pytest.mark.parametrize("family", sorted(OTHERS))
def test_a_model_of_each_family_is_planned(
    run: Compress, tiny_tokenizer_folder: Path, sentences: DataSpec, tmp_path: Path, family: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    config = family_config(family, len(tokenizer))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = [str(tmp_path / "model"), "--data", str(sentences.path)]
    plan = plan_of(run, *words)
    told = plan["notes"]
    assert f"classification, {family}, 2 layers of width 32" in told[0]
    narrows = family in ("deberta-v2", "modernbert")
    assert ("stage/length_adapt=elastic" in plan["command"]) == narrows
    assert ("fewer tokens, heads, neurons and layers" in " ".join(told)) == narrows
    own = "stage.length_adapt.significance=cls"
    assert "elastic" not in plan_of(run, *words, own)["command"]
    assert any(note.startswith("The data are one file") for note in told)
    if family in ("albert", "mpnet"):  # said before the model is timed, and by the plan too
        narrow = [
            "stage.distill.enabled=true",
            "stage.distill.width=0.5",
            "stage.distill.layers=1",
        ]
        assert "cannot be" in refusal(run, capsys, *words, "--plan", *narrow)
    if family == "deberta-v2":
        config.conv_kernel_size = 3
        config.save_pretrained(tmp_path / "model")
        assert "`conv_kernel_size` must be" in refusal(run, capsys, *words, "--plan")


def test_the_data_of_a_start_model_are_its_own_affair(
    run: Compress, classifier: Path, named: Path, tmp_path: Path
) -> None:
    """quala.json and origin.json make it a model of quala's, trained on other data."""
    model = tmp_path / "made"
    shutil.copytree(classifier, model)
    origin = {"data": {"is": "x", "detail": {"max_train": 5}}}
    (model / "origin.json").write_text(json.dumps(origin))
    words = ["experiment=compress", "data=glue", f"data.path={named}", "data.columns.text=review",
             f"stage.finetune.given={model}"]  # fmt: skip
    from quala.autocompress.subject import settings_of, workflow
    from quala.workflow.plan import make_plan
    from quala.workflow.sources import Sources
    from quala.workflow.store import Store

    settings = settings_of([*words, f"tracking.folder={tmp_path / 'mlruns'}"])
    store = Store.open(settings.tracking)
    assert not make_plan(workflow(), settings, store, Sources(store)).notes
