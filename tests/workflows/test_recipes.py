"""Each recipe from end to end at toy size: its report's row and the bytes of its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import QUESTIONS, Toy, output, quiet_logging
from omegaconf import OmegaConf

from quala.cli.entry import main as quala
from quala.models.load import weights_file

pytestmark = pytest.mark.slow

BITS = "stage.distill.quantizers.weight_bits"
METHOD = "stage.distill.quantizers.weight_quantizer"
REFINE = [
    f"stage.refine.{option}"
    for option in ("max_steps=2", "batch_size=8", "epochs=1", "precision=fp32")
]
RUNS = {
    "binarybert": ("binarybert", REFINE, "w1e1a8"),
    "binarybert from loss-aware ternary weights": (
        "binarybert", [*REFINE, f"{METHOD}=lat", "stage.distill.layers=null"], "w1e1a8"
    ),
    "kdlsq": ("kdlsq", ["stage.distill.precision=bf16", "stage.distill.layers=null"], "w2e2a8"),
    "kdlsq at 4 bits": ("kdlsq", [f"{BITS}=4"], "w4e4a8"),
    "kdlsq at 8 bits without distillation, scales from the largest value": (
        "kdlsq",
        [f"{BITS}=8", f"{METHOD}=minmax", "stage.distill.quantizers.activation_range=minmax",
         "stage.distill.soft=0", "stage.distill.hidden=0", "stage.distill.attention=0"],
        "int8",
    ),
    "kdlsq from a cached teacher": (
        "kdlsq", ["+cache@stage.distill.cache=hsk", "stage.distill.attention=0"], "w2e2a8"
    ),
    "ternarybert": ("ternarybert", [f"{METHOD}=lat", "stage.distill.layers=null"], "w2e2a8"),
    "xtc": ("xtc", REFINE, "w1e1a8"),
    "xtc at 2 bits": (
        "xtc",
        [*REFINE, "stage.refine.quantizers.weight_quantizer=twn",
         "stage.refine.quantizers.weight_bits=2"],
        "w2e2a8",
    ),
    "xtc in one training": ("xtc", ["stage/distill=xtc", "stage.refine.enabled=false"], "w1e1a8"),
}  # fmt: skip


@pytest.fixture(scope="module", params=RUNS.values(), ids=RUNS.keys())
def done(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    migrated_database: Path,
    fast: None,
) -> tuple[str, str, Any]:
    """A recipe's name, the precision that it promises, and what its run says."""
    name, words, precision = request.param
    folder = tmp_path_factory.mktemp(name)
    toy = Toy(folder, tiny_checkpoint, migrated_database, [*QUESTIONS, *words], workflow=name)
    return name, precision, toy("run")


def last(result: Any) -> str:
    """Return the stage that made the model."""
    done = [one["stage"] for one in result["stages"] if one["status"] == "done"]
    return str(done[done.index("measure") - 1])


def test_a_recipe_ends_in_a_row_of_its_precision(done: tuple[str, str, Any]) -> None:
    name, precision, result = done
    stages = [
        (one["stage"], one["status"]) for one in result["stages"] if one["status"] != "disabled"
    ]
    trained = list(dict.fromkeys(["finetune", "distill", last(result)]))
    assert stages == [(stage, "done") for stage in (*trained, "measure", "report", "export")]
    rows = json.loads((output(result, "report") / "report.json").read_text())["rows"]
    assert [(row["model"], row["role"], row["precision"]) for row in rows] == [
        ("fine-tuned", "baseline", "fp32"), (name, "full", precision),
    ]  # fmt: skip
    assert rows[1]["score"] is not None
    stored = weights_file(output(result, last(result))).stat().st_size
    assert rows[1]["size_bytes"] == stored


def test_the_file_is_as_wide_as_its_bits(done: tuple[str, str, Any]) -> None:
    name, precision, result = done
    folder = output(result, last(result))
    bits = {"int8": 8, "w4e4a8": 4, "w2e2a8": 2, "w1e1a8": 1}[precision]
    config = json.loads((folder / "config.json").read_text())
    width, inner, layers = (
        config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    words, positions, types = (
        config[key] for key in ("vocab_size", "max_position_embeddings", "type_vocab_size")
    )
    # A split model has half of the heads, one, and each rounded layer twice.
    heads, halves = (width // 2, 2) if name == "binarybert" else (width, 1)
    rounded = words + positions if name == "kdlsq" else words
    codes = halves * (rounded * width + layers * (4 * width * heads + 2 * width * inner))
    floats = (words + positions + types - rounded) * width
    floats += 2 * width + layers * 4 * width + 2 * width + 2  # norms, head
    floats += halves * layers * (3 * heads + 2 * width + inner)  # biases
    tables = {"kdlsq": 2, "xtc": 1}.get(name, words)  # scales of embeddings
    # of a weight, of its inputs, their zero point
    scales = halves * (tables + layers * 6 * (1 + 2))
    file = weights_file(folder)
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size - header == codes * bits // 8 + 4 * (floats + scales)


def test_a_recipe_can_be_compared(
    done: tuple[str, str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    name, precision, result = done
    uri = result["tracking_uri"]
    assert quala(["report", "--compare", "--json", "--tracking-uri", uri]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    teacher, row = table["rows"]
    assert (teacher["system"], row["system"]) == ("fine-tuned", name)
    assert precision in ("int8", "w{}e{}a{}".format(*row["bits"].split("-")))
    made = last(result)
    assert row["size_bytes"]["mean"] == (weights_file(output(result, made)).stat().st_size)
    (trial,) = row["trials"]
    trained = [work["stage"] for work in trial["costs"]["training"]]
    assert trained == list(dict.fromkeys(["distill", made]))
    assert [work["stage"] for work in trial["teacher_costs"]["training"]] == ["finetune"]
    assert row["parameters"]["mean"] >= row["nonzero"]["mean"] > 0


def test_hsk_stores_a_part_of_the_states_and_then_the_answers(
    tmp_path: Path, tiny_checkpoint: Path, migrated_database: Path, fast: None
) -> None:
    toy = Toy(tmp_path, tiny_checkpoint, migrated_database, [*QUESTIONS, *REFINE], workflow="hsk")
    result = toy("run")
    assert [(one["stage"], one["status"]) for one in result["stages"]] == [
        (stage, "done")
        for stage in ("finetune", "distill", "refine", "measure", "report", "export")
    ]
    first, second = (one["metrics"] for one in result["stages"][1:3])
    # Both store answers, the first a part of the states besides.
    assert first["cache/mebibytes"] > second["cache/mebibytes"] > 0
    row = json.loads((output(result, "report") / "report.json").read_text())["rows"][1]
    assert (row["model"], row["precision"]) == ("hsk", "fp32")
    narrow = json.loads((output(result, "refine") / "config.json").read_text())
    assert [layer["heads"] for layer in narrow["quala_structure"]["layers"]] == [1]
    states = toy.statuses("plan", "stage.distill.cache.width=1")
    assert [states[stage] for stage in ("finetune", "distill")] == ["cached", "stale"]


def test_budgets_are_one_sweep_over_one_teacher(
    tmp_path: Path, tiny_checkpoint: Path, migrated_database: Path, fast: None
) -> None:
    toy = Toy(tmp_path, tiny_checkpoint, migrated_database, QUESTIONS, workflow="xtc")
    toy.words = [word for word in toy.words if not word.startswith("stage.distill.max_steps")]
    jobs = toy("run", "stage.distill.max_steps=1,2", "flow.until=distill", "-m")["jobs"]
    assert [job["status"] for job in jobs] == ["FINISHED", "FINISHED"]
    found = [toy("plan", f"stage.distill.max_steps={steps}")["stages"] for steps in (1, 2)]
    assert [[one["status"] for one in stages[:2]] for stages in found] == [["cached"] * 2] * 2


def test_a_study_chooses_the_weights_of_a_distillation(
    tmp_path: Path,
    tiny_checkpoint: Path,
    migrated_database: Path,
    fast: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    toy = Toy(tmp_path, tiny_checkpoint, migrated_database, QUESTIONS, workflow="kdlsq")
    sweep = [
        "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.objectives=[f1_full,gmacs_full]",
        "hydra.sweeper.direction=[maximize,minimize]", "stage.distill.soft=interval(0.1,1)",
        "stage.distill.hidden=tag(log,interval(0.01,1))", "flow.until=report",
    ]  # fmt: skip
    with quiet_logging():
        assert quala(["run", "kdlsq", "-m", *toy.words, *sweep, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [job["status"] for job in told["jobs"]] == ["FINISHED", "FINISHED"]
    weights = {tuple(job["overrides"][-2:]) for job in told["jobs"]}
    assert len(weights) == 2
    (results,) = toy.store.rglob("hydra/**/optimization_results.yaml")
    front = OmegaConf.load(results).solutions
    where = ["--tracking-uri", f"sqlite:///{toy.store / 'mlflow.db'}"]
    assert quala(["report", told["sweep"], "--json", *where]) == 0
    shown = json.loads(capsys.readouterr().out)["jobs"]
    assert {point["values"][0] for point in front} <= {one["score_full"] for one in shown}
