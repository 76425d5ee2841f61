"""Toy recipes whose stages make their figures up, run by the real engine into a real store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from quala.compare.group import Comparison
from quala.compare.store import Reports
from quala.compare.trials import Collector, Trial
from quala.data.spec import DataSpec
from quala.results import Latency, Report, Role, Row
from quala.stage import unfingerprinted
from quala.stored import typed
from quala.workflow import Flow, Stage, StageConfig, StageContext, Workflow
from quala.workflow.execute import Invocation, run_workflow
from quala.workflow.settings import FlowConfig, Settings, TrackingConfig

MIB = 2**20
FOUR = "stage.distill.quantizers.weight_bits=4"
NOISE = {0: 0.0, 1: 1.0, 2: -0.4}
"""What a seed does to a score."""
BITS, SOFT = 1.0, 4.0
"""What a bit and the soft labels do to a score."""
TEACHER_SCORE, STUDENT_SCORE, ADAPTED_SCORE = 90.0, 70.0, 85.0
ROUNDING, SHORTENING = 0.5, 1.0
"""What integers and shorter lengths cost."""
EXAMPLES, HALF = 200, 5.0
"""Test examples, and half of the interval of each score."""
TEACHER_SECONDS, ADAPT_SECONDS = 100.0, 30.0


@dataclass(kw_only=True)
class TrainConfig(StageConfig):
    seed: int = 0
    max_steps: int = 10
    batch_size: int = 8
    log_every: int = unfingerprinted(1)


@dataclass(frozen=True)
class Quantizers:
    weight_bits: int = 2
    embedding_bits: int = 2


@dataclass(kw_only=True)
class DistillConfig(TrainConfig):
    soft: float = 1.0
    hidden: float = 1.0
    quantizers: Quantizers = Quantizers()


@dataclass(kw_only=True)
class AdaptConfig(TrainConfig):
    num_sandwich: int = 1


@dataclass(kw_only=True)
class QuantizeConfig(StageConfig):
    seed: int = 0
    weight_bits: int = 8


@dataclass(kw_only=True)
class SearchConfig(StageConfig):
    seed: int = 0


@dataclass(kw_only=True)
class MeasureConfig(StageConfig):
    seed: int = 0
    threads: int = 2
    runtime: str = "onnxruntime"
    max_loss: float = 1.0
    milliseconds: float = 10.0


@dataclass(kw_only=True)
class ReportConfig(StageConfig):
    title: str = "A toy"


TEACHER_MS = 25.0
STAGES = {
    name: Stage(name, 1, config, f"tracked:{name}", name)
    for name, config in {
        "finetune": TrainConfig,
        "distill": DistillConfig,
        "length_adapt": AdaptConfig,
        "quantize": QuantizeConfig,
        "search": SearchConfig,
        "measure": MeasureConfig,
        "report": ReportConfig,
    }.items()
}
Inputs = Mapping[str, Any]


def _save(context: StageContext, **model: Any) -> None:
    (context.output / "model.json").write_text(json.dumps(model))


def _model(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return found


def finetune(config: TrainConfig, context: StageContext, inputs: Inputs) -> dict[str, float]:
    score = TEACHER_SCORE + NOISE[config.seed]
    _save(context, score=score, precision="fp32", bits="32-32-32", size=400 * MIB, nonzero=1.0)
    return {
        "train/steps": config.max_steps,
        "train/passes": config.max_steps,
        "train/seconds": TEACHER_SECONDS,
    }


def distill(config: DistillConfig, context: StageContext, inputs: Inputs) -> dict[str, float]:
    bits = config.quantizers.weight_bits
    _save(
        context,
        score=STUDENT_SCORE + BITS * bits + SOFT * config.soft + NOISE[config.seed],
        precision=f"w{bits}e{bits}a8",
        bits=f"{bits}-{bits}-8",
        size=10 * bits * MIB,
        nonzero=0.5,
    )
    steps = config.max_steps
    return {"train/steps": steps, "train/passes": steps, "train/seconds": steps / 2}


def length_adapt(config: AdaptConfig, context: StageContext, inputs: Inputs) -> dict[str, float]:
    """As an older version: it names no passes."""
    score = ADAPTED_SCORE + NOISE[config.seed]
    _save(context, score=score, precision="fp32", bits=None, size=80 * MIB, nonzero=None)
    return {"train/steps": config.max_steps, "train/seconds": ADAPT_SECONDS}


def quantize(config: QuantizeConfig, context: StageContext, inputs: Inputs) -> dict[str, float]:
    found = _model(inputs["model"])
    bits = config.weight_bits
    rounded = {"precision": f"w{bits}e{bits}a8", "bits": f"{bits}-{bits}-8", "size": 20 * MIB}
    _save(context, **{**found, **rounded, "score": found["score"] - ROUNDING})
    return {}


def search(config: SearchConfig, context: StageContext, inputs: Inputs) -> dict[str, float]:
    (context.output / "search.txt").write_text("8,4")
    return {}


def measure(config: MeasureConfig, context: StageContext, inputs: Inputs) -> dict[str, float]:
    metric = "f1" if inputs["data"].task == "squad" else "accuracy"
    teacher = replace(config, milliseconds=TEACHER_MS)
    rows = [
        _row(_model(inputs["baseline"]), "fine-tuned", teacher, metric, role="baseline"),
    ]
    models: dict[str, tuple[str, Role]] = {
        "supernet": ("supernet", "supernet"), "model": ("small", "chosen"),
    }  # fmt: skip
    for key, (name, beside) in models.items():
        if key not in inputs:
            continue
        rows.append(_row(_model(inputs[key]), name, config, metric, role="full"))
        if "search" in inputs:
            score = (rows[-1].score or 0) - SHORTENING
            short = replace(rows[-1], role=beside, score=score, macs_mean=5e8)
            rows.append(replace(short, lengths=(8, 4), tokens="8,4"))
    (context.output / "rows.json").write_text(json.dumps([asdict(row) for row in rows]))
    return {}


def _row(model: dict[str, Any], name: str, config: MeasureConfig, metric: str, **more: Any) -> Row:
    parameters = 20_000_000 if model["nonzero"] else None
    return Row(
        model=name,
        precision=model["precision"],
        size_bytes=model["size"],
        tokens="full",
        macs_padded=2_000_000_000,
        macs_mean=1e9,
        score=model["score"],
        exact_match=model["score"] - 10 if metric == "f1" else None,
        metric=metric,
        latency_ms=Latency(config.milliseconds, 12.0, 15.0),
        bits=model["bits"],
        parameters=parameters,
        nonzero=int(parameters * model["nonzero"]) if parameters else None,
        examples=EXAMPLES,
        interval=(model["score"] - HALF, model["score"] + HALF),
        exact_match_interval=(50.0, 60.0) if metric == "f1" else None,
        **more,
    )


def report(config: ReportConfig, context: StageContext, inputs: Inputs) -> dict[str, float]:
    rows = json.loads((inputs["measure"] / "rows.json").read_text())
    # The questions are called SQuAD 1.1, as content that is known would be; the sentences nothing.
    data = {"title": "SQuAD 1.1"} if rows[0]["metric"] == "f1" else {}
    made = Report(typed(tuple[Row, ...], rows), title=config.title, data=data)
    (context.output / "report.json").write_text(json.dumps(made.to_json()))
    return {}


def _recipe(flow: Flow) -> None:
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    student = flow.run("distill", data=data, teacher=teacher)
    measured = flow.run("measure", data=data, baseline=teacher, model=student)
    flow.run("report", measure=measured)


def _twice(flow: Flow) -> None:
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    first = flow.run("distill", data=data, teacher=teacher)
    second = flow.run("distill", name="again", data=data, teacher=teacher, model=first)
    measured = flow.run("measure", data=data, baseline=teacher, model=second)
    flow.run("report", measure=measured)


def _adaptive(flow: Flow, *, rounded: bool = False) -> None:
    data = flow.data()
    teacher = flow.run("finetune", data=data, model=flow.model("teacher"))
    supernet = flow.run("length_adapt", data=data, model=teacher, teacher=teacher)
    served = supernet
    if rounded:
        served = flow.run("quantize", data=data, model=supernet, otherwise=supernet)
    beside = None if served is supernet else supernet
    found = flow.run("search", data=data, model=served)
    measured = flow.run(
        "measure", data=data, baseline=teacher, supernet=beside, model=served, search=found
    )
    flow.run("report", search=found, measure=measured)


WORKFLOWS = {
    "kdlsq": _recipe,
    "xtc": _recipe,
    "twice": _twice,
    "quala_minilm": _adaptive,
    "compound": partial(_adaptive, rounded=True),
}


class Tracked:
    """A folder with a store, and the runs that tests put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"

    def run(
        self,
        name: str,
        *words: str,
        data: DataSpec,
        seed: int = 0,
        until: str | None = None,
        experiment: str = "quala",
        **stages: dict[str, Any],
    ) -> str:
        """Run a recipe with changed stage options, as if a person had typed `words`."""
        changed = {
            key: self._config(stage, seed, stages.get(key, {})) for key, stage in STAGES.items()
        }
        settings = Settings(
            workflow=name,
            data=data,
            model={"teacher": "some/hub-name"},
            stages=changed,
            flow=FlowConfig(until=until),
            tracking=TrackingConfig(None, str(self.folder), None, experiment),
            seed=seed,
            progress=False,
        )
        workflow = Workflow(name, WORKFLOWS[name], Path(__file__), STAGES, self.folder)
        with pytest.MonkeyPatch.context() as patched:
            # What the engine asks of its surroundings at each run.
            patched.setattr("quala.workflow.lease.SECONDS_TO_SETTLE", 0.0)
            patched.setattr("quala.workflow.provenance.versions", dict)
            return run_workflow(workflow, Invocation(settings, "", words)).run_id

    def _config(self, stage: Stage, seed: int, changes: dict[str, Any]) -> StageConfig:
        seeded = {} if stage.name == "report" else {"seed": seed}
        config: StageConfig = stage.config(**(seeded | changes))
        return config


def files(folder: Path, *, task: str) -> DataSpec:
    """Return data in files of its own; no toy stage reads them."""
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.tsv").write_text(f"{split} of {task}\n")
    subset = "sst2" if task == "glue" else None
    return DataSpec(task=task, path=str(folder), subset=subset)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Filled:
    """A store, and the ids of its runs by what tests call them."""

    tracked: Tracked
    questions: DataSpec
    sentences: DataSpec
    runs: dict[str, str]

    @classmethod
    def of(cls, tracked: Tracked) -> Filled:
        """KDLSQ-BERT in three settings over seeds, XTC, QuaLA-MiniLM, and other data."""
        data = files(tracked.folder / "questions", task="squad")
        other = files(tracked.folder / "sentences", task="glue")
        four = {"quantizers": Quantizers(4, 4)}
        runs = {
            f"kdlsq {seed}": tracked.run("kdlsq", f"seed={seed}", data=data, seed=seed)
            for seed in (2, 0, 1)
        }
        for seed in (0, 1):
            runs[f"kdlsq 4 bits {seed}"] = tracked.run(
                "kdlsq", FOUR, f"seed={seed}", data=data, seed=seed, distill=four
            )
        hard = {"soft": 0.0, "hidden": 0.0}
        words = ["stage.distill.soft=0", "stage.distill.hidden=0"]
        runs["kdlsq hard"] = tracked.run("kdlsq", *words, data=data, distill=hard)
        runs["xtc"] = tracked.run("xtc", data=data, distill={"max_steps": 40})
        runs["quala"] = tracked.run("quala_minilm", data=data)
        runs["kdlsq sentences"] = tracked.run("kdlsq", data=other)
        return cls(tracked, data, other, runs)

    def collected(self, *names: str) -> list[Trial]:
        """Return the trials of some runs, of all without names."""
        reports = Reports.open(self.tracked.uri)
        collector = Collector(reports)
        chosen = [self.runs[name] for name in names or self.runs]
        return [trial for run in chosen for trial in collector.trials(reports.run(run))]

    def compared(self, *names: str) -> Comparison:
        """Return the comparison of some runs, of all without names."""
        return Comparison.of(self.collected(*names), {})
