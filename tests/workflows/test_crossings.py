"""The recipes that end in a front, end to end at toy size: stages, rows, the export's answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import QUESTIONS, Toy, output

from quala.models.load import weights_file

pytestmark = pytest.mark.slow

REFINE = [
    f"stage.refine.{option}"
    for option in ("max_steps=2", "batch_size=8", "epochs=1", "precision=fp32")
]
ORT = ["stage.measure.runtime=onnxruntime"]
HALVED = ["stage.distill.enabled=true", "stage/distill=xtc_layers", "stage/quantize=xtc"]
TINYBERT = ["finetune", "distill", "refine"]
END = ["search", "measure", "report", "export"]


@dataclass(frozen=True)
class Case:
    """A recipe's command line, and what it promises."""

    workflow: str
    words: list[str]
    middle: list[str]
    precision: str
    ranking: str
    layers: int
    supernet: bool = True

    @property
    def stages(self) -> list[str]:
        """The stages that run, in their order."""
        return [*self.middle, *END]


CASES = {
    "dynamic_tinybert": Case(
        "dynamic_tinybert", [*REFINE, *ORT], TINYBERT, "fp32", "column_sum", 1, supernet=False
    ),
    "dynamic_tinybert with LengthDrop": Case(
        "dynamic_tinybert",
        [*REFINE, "stage.length_adapt.enabled=true"],
        [*TINYBERT, "length_adapt"], "fp32", "column_sum", 1, supernet=False,
    ),
    "dynamic_tinybert in int8, quala's ranking": Case(
        "dynamic_tinybert",
        [*REFINE, *ORT, "stage.quantize.enabled=true", "stage.refine.significance=question"],
        [*TINYBERT, "quantize"], "int8", "question", 1,
    ),
    "compound, KDLSQ-BERT's 4 bits by milliseconds": Case(
        "compound", [*ORT, "stage.search.cost=latency"],
        ["finetune", "length_adapt", "quantize"], "w4e4a8", "span", 2,
    ),
    "compound, half of the layers by XTC, ternary": Case(
        "compound", [*ORT, *HALVED],
        ["finetune", "distill", "length_adapt", "quantize"], "w2e2a8", "span", 1,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def done(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    migrated_database: Path,
    fast: None,
) -> tuple[Case, Any, Toy]:
    """A case, what its run says, and the folder that it ran in."""
    case = request.param
    folder = tmp_path_factory.mktemp(case.workflow)
    words = [*QUESTIONS, "stage.quantize.sampler=few_drops", *case.words]
    toy = Toy(folder, tiny_checkpoint, migrated_database, words, workflow=case.workflow)
    return case, toy("run"), toy


def rows(result: Any) -> list[dict[str, Any]]:
    return json.loads((output(result, "report") / "report.json").read_text())["rows"]


def served(case: Case, result: Any) -> Path:
    """Return the folder of the model that was searched."""
    return output(result, case.middle[-1])


def test_its_stages_run_in_their_order(done: tuple[Case, Any, Toy]) -> None:
    case, result, _ = done
    assert [one["stage"] for one in result["stages"]] == case.stages
    assert {one["status"] for one in result["stages"]} == {"done"}


def test_its_rows_are_a_baseline_a_supernet_and_a_front(done: tuple[Case, Any, Toy]) -> None:
    case, result, _ = done
    found = rows(result)
    names = ["fine-tuned", *(["supernet"] if case.supernet else []), case.workflow]
    assert list(dict.fromkeys(row["model"] for row in found)) == names
    own = [row for row in found if row["model"] == case.workflow]
    assert {row["precision"] for row in own} == {case.precision}
    assert [row["role"] for row in own].count("chosen") == 1
    # A full length that is chosen has none.
    assert {len(row["lengths"]) for row in own if row["lengths"]} <= {case.layers}
    weights = weights_file(served(case, result))
    if case.supernet:
        assert {row["size_bytes"] for row in own} == {weights.stat().st_size}


def test_the_model_ranks_tokens_as_its_recipe_says(done: tuple[Case, Any, Toy]) -> None:
    case, result, _ = done
    facts = json.loads((served(case, result) / "quala.json").read_text())
    assert (facts["significance"], facts["semantics"]) == (case.ranking, "natural")


def test_a_search_has_its_unit_and_its_strategy(done: tuple[Case, Any, Toy]) -> None:
    case, result, _ = done
    found = json.loads((output(result, "search") / "search.json").read_text())
    timed = "stage.search.cost=latency" in case.words
    assert found["unit"] == ("ms" if timed else "gmacs")
    # at this size dropping tokens may cost time, and then both ends are all that there is
    assert len(found["candidates"]) in (range(2, 7) if timed else (6,))
    bayesian = [one for one in found["candidates"] if one["origin"] == "bayesian"]
    assert len(bayesian) == (4 if case.workflow == "dynamic_tinybert" else 0)


def test_the_export_answers_as_the_model_does_at_every_point(
    done: tuple[Case, Any, Toy],
) -> None:
    from quala.checkpoint import load_with_data
    from quala.data.spec import DataSpec
    from quala.lengths import LengthConfig
    from quala.runtime.engine import TorchEngine, open_engine, read_graph
    from quala.search.result import read_result

    case, result, _ = done
    spec = DataSpec(
        task="squad", name="demo", max_length=128, doc_stride=32, max_question_length=32,
        max_train=24, max_test=8,
    )  # fmt: skip
    opened = load_with_data(served(case, result), spec)
    full = LengthConfig.full(layers=opened.model.num_layers, sequence_length=128)
    graph = read_graph(output(result, "export"))
    engine = open_engine("onnxruntime", graph, full, threads=1)
    model = TorchEngine(opened.model)
    inputs = opened.data.test.features.arrays([0, 1, 2])
    real = inputs["attention_mask"].astype(bool)
    for point in read_result(output(result, "search")).front:
        expected, found = (one.logits(inputs, point.lengths)[real] for one in (model, engine))
        np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("done", [CASES["dynamic_tinybert with LengthDrop"]], indirect=True)
def test_with_and_without_length_drop_share_the_distilled_model(
    done: tuple[Case, Any, Toy],
) -> None:
    found = done[2].statuses("plan", "stage.length_adapt.enabled=false")
    assert [found[stage] for stage in TINYBERT] == ["cached"] * 3
    assert found["length_adapt"] == "disabled"
    assert found["search"] != "cached"


def test_a_student_of_its_own_is_where_the_distillation_starts(
    tmp_path: Path, tiny_checkpoint: Path, migrated_database: Path, fast: None
) -> None:
    words = [*QUESTIONS, *REFINE, f"model.student={tiny_checkpoint}", "flow.until=refine"]
    toy = Toy(tmp_path, tiny_checkpoint, migrated_database, words, workflow="dynamic_tinybert")
    result = toy("run")
    config = json.loads((output(result, "refine") / "config.json").read_text())
    assert config["num_hidden_layers"] == 2  # its own, not `stage.distill.layers`
