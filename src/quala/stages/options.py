"""The options of the stages; their values are in conf/stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, get_args

from quala.compress.quantize.config import QuantizeConfig
from quala.errors import QualaError, unknown
from quala.plugins import SIGNIFICANCE
from quala.ranges import LARGEST_SEED, ranged
from quala.results import FINE_TUNED, SUPERNET
from quala.search.strategy import SearchSettings
from quala.stage import StageConfig

Precision = Literal["fp32", "bf16"]
Direction = Literal["forward", "reverse"]
Sampler = Literal["length_drop", "few_drops"]
Semantics = Literal["natural", "reference"]
Method = Literal["ptq", "qat"]
Schedule = Literal["linear", "constant"]


@dataclass(kw_only=True)
class TrainingConfig(StageConfig):
    """The options of every training stage."""

    seed: int = ranged(at_least=0, at_most=LARGEST_SEED)
    epochs: float = ranged(above=0)
    max_steps: int | None = ranged(None, above=0)
    """The training ends at this step if its epochs take more."""
    batch_size: int = ranged(above=0)
    bucketed: bool = True
    """Batches of inputs of like length; false draws them at random, as the published code does."""
    learning_rate: float = ranged(at_least=0)
    warmup_ratio: float = ranged(at_least=0, at_most=1)
    """Share of the steps over which the learning rate rises from 0."""
    schedule: Schedule = "linear"
    """The learning rate after the warm-up: `linear` falls to 0, `constant` stays."""
    weight_decay: float = ranged(at_least=0)
    gradient_clip: float = ranged(at_least=0)
    """Largest norm of all gradients; 0 clips none."""
    hidden_dropout: float | None = ranged(None, at_least=0, below=1)
    """Replaces the checkpoint's own rate; null keeps it."""
    attention_dropout: float | None = ranged(None, at_least=0, below=1)
    """0 keeps the fused attention kernel in training; null keeps the checkpoint's rate."""
    freeze_word_embeddings: bool = False
    precision: Precision = "fp32"
    selection_every: int | None = ranged(None, above=0)
    """Optimizer steps between two scores on the selection slice; null keeps the last weights."""
    checkpoint_minutes: float = ranged(2.0, identity=False, above=0)
    log_every: int = ranged(20, identity=False, above=0)


@dataclass(kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Train a checkpoint on the task: a teacher, or a baseline."""

    new_head: bool = field(default=False, metadata={"identity": "if set"})
    """Draw the head at random although the checkpoint has one, of these outputs or of others."""


@dataclass(kw_only=True)
class QuantizedConfig(TrainingConfig, ABC):
    """The options of stages that train on fake-quantized layers."""

    calibration_batches: int = ranged(above=0)
    """Train batches that give the ranges and the first steps of activations."""

    @abstractmethod
    def step_rate(self, *, top: int, activation: bool) -> float:
        """Return the learning rate of a learned step whose grid ends at the code `top`."""


@dataclass(kw_only=True)
class SandwichConfig(TrainingConfig):
    """Training under sampled lengths by the sandwich rule (arXiv 2010.07003)."""

    sampler: Sampler
    """`length_drop` draws every layer; `few_drops` drops at one to three layers only."""
    bound: float = ranged(at_least=0, below=1)
    """Largest share of tokens that one layer drops in training, and the smallest pass drops."""
    bound_start: float | None = ranged(None, at_least=0, below=1)
    """The bound grows from here over the first half of the training; null keeps it constant."""
    num_sandwich: int = ranged(at_least=0)
    """Passes with sampled lengths in each step, besides the full and the smallest pass."""
    layer_drop: float = ranged(at_least=0, below=1)
    full_layer_drop: bool = False
    """LayerDrop in the full pass too, as in the first published code."""
    direction: Direction
    """`reverse` is KL(sub-pass || full), as published; `forward` is KL(full || sub-pass)."""
    temperature: float = ranged(above=0)
    hard: float = ranged(at_least=0)
    """Weight of the task loss in the full pass."""
    sub_hard: float = ranged(at_least=0)
    """Weight of the task loss in the shortened passes."""
    teacher: float = ranged(at_least=0)
    """Weight of the external teacher's soft labels in the full pass."""
    exits: float = ranged(0.0, at_least=0)
    """Weight of the mean divergence of the span head, applied at each layer, from the full pass.
    It trains what `significance: span` ranks by, and counts with that significance only."""
    teacher_for_subs: bool = False
    """The shortened passes follow the external teacher instead of the full pass."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bound_start is not None and self.bound_start > self.bound:
            raise QualaError(
                f"`bound_start` must be at most `bound`, got {self.bound_start} and {self.bound}."
            )
        if self.trains and not (self.hard or self.teacher or self.teacher_for_subs):
            raise QualaError("`hard` and `teacher` are both 0: the full pass would learn nothing.")

    @property
    def trains(self) -> bool:
        """Whether the weights change at all."""
        return True


@dataclass(kw_only=True)
class LengthAdaptConfig(SandwichConfig):
    """Turn a checkpoint into a length-adaptive supernet."""

    significance: str | None = field(metadata={"plugins": SIGNIFICANCE})
    """How tokens are ranked: column_sum (published), query_rows, question, cls, span, or one of
    your own; null takes that of the task, span for answers and cls for sentences."""
    semantics: Semantics
    """`natural`: shares of the real length; `reference`: as published, padded inputs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranking(self.significance, self.semantics)


def check_ranking(significance: str | None, semantics: str | None) -> None:
    """Raise QualaError for an unknown significance, or one that `reference` does not go with."""
    if significance is not None:
        SIGNIFICANCE.check(significance)
    if semantics == "reference" and significance != "column_sum":
        raise QualaError(
            f"`semantics=reference` ranks tokens by `significance=column_sum`, got {significance}."
        )


@dataclass(kw_only=True)
class QuantizeStageConfig(SandwichConfig, QuantizedConfig):
    """Turn the supernet into an integer model, by calibration alone or by training."""

    method: Method
    """`ptq` only calibrates (the published step); `qat` trains on after the calibration."""
    quantizer_learning_rate: float = ranged(at_least=0)
    """Rate of the learned steps, where weights, embeddings or activations are `lsq`."""
    quantizers: QuantizeConfig = field(default_factory=QuantizeConfig)

    @property
    def trains(self) -> bool:
        """Whether the weights change at all; calibration alone changes none."""
        return self.method == "qat"

    def step_rate(self, *, top: int, activation: bool) -> float:
        """Return the one rate of all steps."""
        return self.quantizer_learning_rate


Cost = Literal["macs", "latency"]
Runtime = Literal["torch", "onnxruntime", "openvino"]
SupernetLengths = Literal["full", "chosen", "front"]


@dataclass(kw_only=True)
class SearchConfig(SearchSettings, StageConfig):
    """Search the lengths with the best accuracy for each cost."""

    cost: Cost
    """`macs`, or `latency`: milliseconds by a model that is measured on `runtime` first."""
    runtime: Runtime
    """Where the latency is measured, on the exported model: onnxruntime or openvino."""
    threads: int = ranged(at_least=1)
    """Threads of that runtime."""
    step: int = ranged(at_least=1)
    """Lengths are multiples of this."""
    floor: float = ranged(at_least=0, below=1)
    """Nothing is tried that costs less than dropping this share of the tokens at each layer."""
    patience: float | None = ranged(at_least=0)
    """Standard errors behind a cheaper candidate at which scoring stops early; null never."""
    chunk: int = ranged(at_least=1)
    """Questions scored between two checks of whether a candidate can still win."""
    batch_size: int = ranged(at_least=1)
    cache_mebibytes: int = ranged(2048, identity=False, at_least=0)

    def __post_init__(self) -> None:
        SearchSettings.__post_init__(self)  # checks the ranges of all fields
        if self.cost == "latency" and self.runtime == "torch":
            raise QualaError(
                "`cost=latency` is measured on the exported model: `runtime` must be onnxruntime "
                "or openvino, got torch."
            )

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

    name: str | None = field(metadata={"null": row_name})
    """Name of the compressed model in the report; null is the workflow's name."""
    seed: int = ranged(at_least=0, at_most=LARGEST_SEED)
    front_points: int = ranged(at_least=1)
    """At most so many points of the front are measured, spread over its costs."""
    supernet: SupernetLengths
    """Where the float supernet is measured: at `full` length, at the `chosen` lengths too, or at
    all that are measured of the `front`: the difference is what rounding costs there."""
    max_loss: float = ranged(at_least=0)
    """Points of the metric that the chosen point may lose against the searched model's full
    length."""
    certainty: float = ranged(at_least=0.5, below=1)
    """Certainty of that bound, 0.5 to below 1; a smaller search slice makes it harder to reach."""
    batch_size: int = ranged(at_least=1)
    latency_inputs: int = ranged(at_least=1)
    warmup: int = ranged(at_least=0)
    threads: int = ranged(at_least=1)
    runtime: Runtime
    """Where rows are scored and timed: torch, or a runtime that serves the exported model."""
    reference: str | None = None
    """A preset of `quala cost` timed with random weights, such as bert-base; null for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name in ("", FINE_TUNED, SUPERNET):
            raise QualaError(f"`name` must be a name that no other row has, got `{self.name}`.")
        if self.reference is not None:
            from quala.cost import preset

            preset(self.reference)


@dataclass(kw_only=True)
class ExportConfig(StageConfig):
    """Write the model as one folder that a runtime serves: `quala answer` reads it."""

    title: str
    runtime: str
    """What the points of the front are timed with: onnxruntime or openvino."""
    threads: int = ranged(at_least=1)
    repeats: int = ranged(at_least=0)
    """Runs behind each time; 0 leaves the times out, and then no budget in milliseconds works."""

    def __post_init__(self) -> None:
        super().__post_init__()
        served = [name for name in get_args(Runtime) if name != "torch"]
        if self.runtime not in served:
            raise unknown("`runtime` of the export", self.runtime, served)


@dataclass(kw_only=True)
class ReportConfig(StageConfig):
    """Write the table, the figure and the page."""

    title: str
