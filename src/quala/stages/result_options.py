"""The options of the stages after the trainings: search, measurement, export and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quala.cost import PRESETS
from quala.data.spec import LONGEST_INPUT
from quala.errors import QualaError, unknown
from quala.lengths import MIN_TOKENS
from quala.ranges import LARGEST_SEED, MANY, ranged, text
from quala.runtime.hardware import check_threads
from quala.search.strategy import SearchSettings
from quala.stage import StageConfig
from quala.stages.options import LARGEST_BATCH, MOST_BATCHES, MOST_THREADS
from quala.stages.planned import check_served

Cost = Literal["macs", "latency"]
Served = Literal["onnxruntime", "openvino"]
Runtime = Literal["torch", Served]
SupernetLengths = Literal["full", "chosen", "front"]


@dataclass(kw_only=True)
class SearchConfig(SearchSettings, StageConfig):
    """Search the lengths with the best accuracy for each cost."""

    cost: Cost
    """`macs`, or `latency`: milliseconds by a model that is measured on `runtime` first."""
    runtime: Runtime
    """Where the latency is measured, on the exported model: onnxruntime or openvino."""
    threads: int = ranged(at_least=1, at_most=MOST_THREADS)
    """Threads of that runtime."""
    step: int = ranged(at_least=1, at_most=LONGEST_INPUT)
    """Lengths are multiples of this."""
    floor: float = ranged(at_least=0, below=1)
    """Nothing is tried that costs less than dropping this share of the tokens at each layer."""
    patience: float | None = ranged(at_least=0, at_most=100)
    """Standard errors behind a cheaper candidate at which scoring stops early; null never."""
    chunk: int = ranged(at_least=1, at_most=MANY)
    """Questions scored between two checks of whether a candidate can still win."""
    batch_size: int = ranged(at_least=1, at_most=LARGEST_BATCH)
    cache_mebibytes: int = ranged(2048, identity=False, at_least=0, at_most=2**20)
    storage: str | None = text("place", None, identity=False)
    """Where the Optuna study is, beside those of other searches: sqlite:///FILE,
    postgresql://USER:PASSWORD@HOST/DB, or a journal file; null is the work folder. It is copied
    into the output at the end."""

    def __post_init__(self) -> None:
        SearchSettings.__post_init__(self)  # checks the ranges of all fields
        check_threads(self.threads)
        if self.cost == "latency" and self.runtime == "torch":
            raise QualaError(
                "`cost=latency` is measured on the exported model: `runtime` must be onnxruntime "
                "or openvino, got torch."
            )

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        if (data := getattr(inputs.get("data"), "value", None)) is not None:
            if not data.search_size:
                raise QualaError(
                    "The search slice is empty: `data.search_size` must be above 0, got 0."
                )
            if self.step > data.max_length - MIN_TOKENS:
                raise QualaError(
                    f"`step` must be at most `data.max_length` - {MIN_TOKENS} = "
                    f"{data.max_length - MIN_TOKENS}, got {self.step}."
                )
        if self.storage is not None:
            from quala.search.storage import check_storage  # imports Optuna

            check_storage(self.storage)
        if self.cost == "latency":
            check_served(inputs.get("model"), f"`runtime={self.runtime}` takes")

    def remarks(self) -> list[str]:
        if self.min_score is None or not 0 < self.min_score < 1:
            return []
        return [
            f"`min_score={self.min_score:g}` is {self.min_score:g} of 100 points; did you mean "
            f"{100 * self.min_score:g}?"
        ]


def row_name(workflow: str) -> str:
    """Return the name of a workflow's model in the report: the workflow's own, or `quala`."""
    return "quala" if workflow == "quala_minilm" else workflow  # as its reports have called it


@dataclass(kw_only=True)
class MeasureConfig(StageConfig):
    """Score the test set once for each reported row, and time every row side by side."""

    name: str | None = text("name", null=row_name)
    """Name of the compressed model in the report and in files; null is the workflow's name."""
    seed: int = ranged(at_least=0, at_most=LARGEST_SEED)
    front_points: int = ranged(at_least=1, at_most=1000)
    """At most so many points of the front are measured, spread over its costs."""
    supernet: SupernetLengths
    """Where the float supernet is measured: at `full` length, at the `chosen` lengths too, or at
    all that are measured of the `front`: the difference is what rounding costs there."""
    max_loss: float = ranged(at_least=0, at_most=100)
    """Points of the metric that the chosen point may lose against the searched model's full
    length."""
    certainty: float = ranged(at_least=0.5, below=1)
    """Certainty of that bound, 0.5 to below 1; a smaller search slice makes it harder to reach."""
    batch_size: int = ranged(at_least=1, at_most=LARGEST_BATCH)
    latency_inputs: int = ranged(at_least=1, at_most=MOST_BATCHES)
    warmup: int = ranged(at_least=0, at_most=MOST_BATCHES)
    threads: int = ranged(at_least=1, at_most=MOST_THREADS)
    runtime: Runtime
    """Where rows are scored and timed: torch, or a runtime that serves the exported model."""
    reference: str | None = text("line", None, names=PRESETS)
    """A preset of `quala cost` timed with random weights, such as bert-base; null for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threads(self.threads)
        from quala.results import FINE_TUNED, SUPERNET  # takes numpy, which completion does not

        if self.name in (FINE_TUNED, SUPERNET):
            raise QualaError(f"`name` must be a name that no other row has, got `{self.name}`.")
        if self.reference is not None and self.reference not in PRESETS:
            raise unknown("`reference`", self.reference, PRESETS)

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        if self.runtime != "torch":
            for model in ("baseline", "supernet", "model"):
                check_served(inputs.get(model), f"`runtime={self.runtime}` takes")


@dataclass(kw_only=True)
class ExportConfig(StageConfig):
    """Write the model as one folder that a runtime serves: `quala answer` reads it."""

    title: str = text("line")
    runtime: Served
    """What the points of the front are timed with: onnxruntime or openvino."""
    threads: int = ranged(at_least=1, at_most=MOST_THREADS)
    repeats: int = ranged(at_least=0, at_most=1000)
    """Runs behind each time; 0 leaves the times out, and then no budget in milliseconds works."""
    license: str | None = text("line", None, identity="if set")
    """The license of the model, such as mit; null: what the model's own card states, if any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threads(self.threads)

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        check_served(
            inputs.get("model"), "An export, which `stage.export.enabled=false` leaves out, takes"
        )


@dataclass(kw_only=True)
class ReportConfig(StageConfig):
    """Write the table, the figure and the page."""

    title: str = text("line")
