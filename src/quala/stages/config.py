"""The typed configuration of the stages that do not train; the values stand in conf/stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quala.errors import QualaError
from quala.stages.training_config import not_identity
from quala.workflow.stage import StageConfig

Strategy = Literal["quala", "published", "bayesian"]
Cost = Literal["macs", "latency"]
Runtime = Literal["torch", "onnxruntime", "openvino"]
SupernetLengths = Literal["full", "chosen", "front"]


@dataclass(kw_only=True)
class SearchConfig(StageConfig):
    """Look for the lengths that give the most accuracy for each cost."""

    seed: int
    strategy: Strategy
    """`quala`, `published` (arXiv 2010.07003) or `bayesian` (as in arXiv 2111.09645)."""
    cost: Cost
    """`macs`, or `latency`: milliseconds by a model that is measured on `runtime` first."""
    runtime: Runtime
    """Where the latency is measured, on the exported model: onnxruntime or openvino."""
    threads: int
    """Threads of that runtime."""
    max_evaluations: int
    generations: int
    population: int
    """Lengths that the search starts from; for `bayesian` those scored before it has a model."""
    mutations: int
    """With `crossovers` the size of a generation, all of whose lengths are chosen before any of
    them is scored; only `published` tells the two apart."""
    crossovers: int
    step: int
    """Lengths are multiples of this."""
    floor: float
    """Drop rate of the constant-rate lengths below whose cost nothing is tried."""
    max_cost: float | None = None
    """Budget in GMACs or milliseconds; dearer lengths are not part of the front."""
    min_score: float | None = None
    """Lengths that score less are not part of the front."""
    patience: float | None
    """Standard errors behind a cheaper candidate at which scoring stops early; null never."""
    chunk: int
    """Questions scored between two looks at who is hopeless."""
    batch_size: int
    workers: int = not_identity(1)
    cache_mebibytes: int = not_identity(2048)

    def __post_init__(self) -> None:
        if self.cost == "latency" and self.runtime == "torch":
            raise QualaError(
                "`cost=latency` is measured on the exported model: `runtime` must be onnxruntime "
                "or openvino, got torch."
            )


@dataclass(kw_only=True)
class MeasureConfig(StageConfig):
    """Score the test set once for each reported row, and time every row side by side."""

    name: str
    """What the rows call the compressed model."""
    seed: int
    front_points: int
    """At most so many points of the front are measured, spread over its costs."""
    supernet: SupernetLengths
    """Where the float supernet is measured: at `full` length, at the `chosen` lengths too, or at
    all that are measured of the `front`: the difference is what rounding costs there."""
    max_loss: float
    """Points of the metric that the chosen point may lose against the searched model's full
    length."""
    certainty: float
    """How sure the search slice must be of that, 0.5 to below 1: its size counts as well."""
    batch_size: int
    latency_inputs: int
    warmup: int
    threads: int
    runtime: Runtime
    """What rows are scored and timed in: torch, or a runtime that serves the exported model."""
    reference: str | None = None
    """A preset of `quala cost` timed with random weights, such as bert-base; null for none."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.certainty < 1:
            raise QualaError(
                f"`certainty` must be at least 0.5 and below 1, got {self.certainty}."
            )


@dataclass(kw_only=True)
class ExportConfig(StageConfig):
    """Write the model as one folder that a runtime serves: `quala answer` reads it."""

    title: str
    runtime: str
    """What the points of the front are timed with: onnxruntime or openvino."""
    threads: int
    repeats: int
    """Runs behind each time; 0 leaves the times out, and then no budget in milliseconds works."""

    def __post_init__(self) -> None:
        if self.threads < 1 or self.repeats < 0:
            raise QualaError(
                f"`threads` must be at least 1 and `repeats` at least 0, got {self.threads} and "
                f"{self.repeats}."
            )


@dataclass(kw_only=True)
class ReportConfig(StageConfig):
    """Write the table, the figure and the page."""

    title: str
