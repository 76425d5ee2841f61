"""Stage configurations as conf/ has them, at toy size, and what toy stages leave behind."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from quala.data.spec import DataSpec
from quala.workflow import Candidate, StageContext

TRAINING: dict[str, Any] = {
    "seed": 3,
    "epochs": 1,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "log_every": 1,
    "checkpoint_minutes": 60,
}
TOY: dict[str, dict[str, Any]] = {
    "finetune": TRAINING,
    "distill": {**TRAINING, "layers": 1, "relation_heads": 2},
    "length_adapt": TRAINING,
    "quantize": {**TRAINING, "calibration_batches": 2},
    "search": {
        "seed": 1, "max_evaluations": 10, "population": 4, "mutations": 2, "crossovers": 2,
        "step": 16, "chunk": 4, "batch_size": 8,
    },
    "measure": {
        "name": "quala", "front_points": 3, "batch_size": 8, "latency_inputs": 3, "warmup": 1,
        "threads": 1,
    },
    "report": {"title": "A toy"},
    "export": {"repeats": 1},
}  # fmt: skip

Configure = Callable[..., Any]


class Recording:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []
        self.found: list[Candidate] = []

    def record(self, run_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        self.figures.append(dict(metrics))

    def candidates(self, run_id: str, candidates: Sequence[Candidate]) -> None:
        self.found.extend(candidates)


@pytest.fixture
def recording() -> type[Recording]:
    return Recording


@pytest.fixture(scope="session")
def configure() -> Configure:
    """Return a stage's default configuration at toy size, with changes."""
    from quala.workflow.compose import composed, typed
    from quala.workflow.script import find_workflow

    workflow = find_workflow("quala_minilm")
    stages = typed(composed(workflow, ["~experiment"]), workflow).stages

    def configured(stage: str, **changes: Any) -> Any:
        return dataclasses.replace(stages[stage], **(TOY[stage] | changes))

    return configured


@pytest.fixture(scope="session")
def spec() -> DataSpec:
    """A few of the embedded questions."""
    return DataSpec(
        task="squad", name="demo", max_length=128, doc_stride=32, max_question_length=32,
        max_train=24, max_test=8, search_size=12, selection_size=8,
    )  # fmt: skip


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    """160 short sentences; one word of each decides its class."""
    draw = random.Random(0)
    words = ["the", "of", "and", "in", "was", "to"]
    rows = []
    for number in range(160):
        filler = draw.choices(words, k=draw.randint(2, 6))
        filler.insert(draw.randrange(len(filler) + 1), "first" if number % 2 else "three")
        rows.append(f"{' '.join(filler)} {number}\t{number % 2}")
    file = tmp_path_factory.mktemp("sentences") / "all.tsv"
    file.write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")
    return DataSpec(task="glue", path=str(file), max_length=32, search_size=16, selection_size=16)


@pytest.fixture(scope="session")
def supernet(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    configure: Configure,
    spec: DataSpec,
) -> Path:
    """The output of a short length_adapt."""
    from quala.stages import length_adapt

    folder = tmp_path_factory.mktemp("supernet")
    config = configure("length_adapt", max_steps=1)
    inputs = {"data": spec, "model": tiny_checkpoint}
    length_adapt.run(config, StageContext.alone("length_adapt", folder), inputs)
    return folder / "output"


@pytest.fixture(scope="session")
def integer(
    tmp_path_factory: pytest.TempPathFactory, supernet: Path, configure: Configure, spec: DataSpec
) -> Path:
    """The output of a quantize that only calibrates."""
    from quala.stages import quantize

    folder = tmp_path_factory.mktemp("integer")
    inputs = {"data": spec, "model": supernet, "teacher": supernet}
    context = StageContext.alone("quantize", folder)
    quantize.run(configure("quantize", method="ptq"), context, inputs)
    return folder / "output"


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a search, made up: two points on the front, and one that is beaten."""
    from quala.lengths import LengthConfig
    from quala.search.result import SearchCandidate as Found
    from quala.search.result import SearchResult

    points = [((128, 128), 0.004, 50.0), ((96, 64), 0.003, 49.5), ((64, 32), 0.002, 40.0),
              ((80, 48), 0.0025, 30.0)]  # fmt: skip
    candidates = tuple(
        Found(LengthConfig(lengths, 128), cost, score, generation=0, origin="seed", examples=12)
        for lengths, cost, score in points
    )
    folder = tmp_path_factory.mktemp("search")
    result = SearchResult(candidates, cheapest=0.001, dearest=0.004)
    (folder / "search.json").write_text(result.to_json(), encoding="utf-8")
    return folder
