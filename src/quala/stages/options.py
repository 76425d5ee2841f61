"""The typed configuration of the stages that train; the values stand in conf/stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from quala.compress.quantize.config import QuantizeConfig
from quala.errors import QualaError
from quala.stage import StageConfig, unfingerprinted

Precision = Literal["fp32", "bf16"]
Direction = Literal["forward", "reverse"]
Sampler = Literal["length_drop", "few_drops"]
Semantics = Literal["natural", "reference"]
Method = Literal["ptq", "qat"]
Schedule = Literal["linear", "constant"]


@dataclass(kw_only=True)
class TrainingConfig(StageConfig):
    """What every training stage has in common."""

    seed: int
    epochs: float
    max_steps: int | None = None
    """The training ends here even if its epochs are not over."""
    batch_size: int
    bucketed: bool = True
    """Batches of inputs of like length; false draws them at random, as the published code does."""
    learning_rate: float
    warmup_ratio: float
    schedule: Schedule = "linear"
    """What the rate does after the warm-up: `linear` falls to 0, `constant` stays."""
    weight_decay: float
    gradient_clip: float
    hidden_dropout: float | None = None
    """Replaces the checkpoint's own rate; null keeps it."""
    attention_dropout: float | None = None
    """0 keeps the fused attention kernel in training; null keeps the checkpoint's rate."""
    freeze_word_embeddings: bool = False
    precision: Precision = "fp32"
    selection_every: int | None = None
    """Optimizer steps between two scores on the selection slice; null keeps the last weights."""
    checkpoint_minutes: float = unfingerprinted(2.0)
    log_every: int = unfingerprinted(20)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_steps", "selection_every", "log_every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise QualaError(f"`{name}` must be above 0, got {value}.")


@dataclass(kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Train a checkpoint on the task: the teacher, or a baseline."""


@dataclass(kw_only=True)
class QuantizedConfig(TrainingConfig, ABC):
    """What stages that train on fake-quantized layers have in common."""

    calibration_batches: int
    """Train batches that the ranges and first steps of activations are taken from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration_batches <= 0:
            got = self.calibration_batches
            raise QualaError(f"`calibration_batches` must be above 0, got {got}.")

    @abstractmethod
    def step_rate(self, *, top: int, activation: bool) -> float:
        """Return the learning rate of a learned step whose grid ends at the code `top`."""


@dataclass(kw_only=True)
class SandwichConfig(TrainingConfig):
    """Training under sampled lengths (arXiv 2010.07003): the sandwich rule and its options."""

    sampler: Sampler
    """`length_drop` draws every layer; `few_drops` drops at one to three layers only."""
    bound: float
    """Largest share of tokens that one layer drops in training, and the smallest pass drops."""
    bound_start: float | None = None
    """The bound grows from here over the first half of the training; null keeps it constant."""
    num_sandwich: int
    """Passes with sampled lengths in each step, besides the full and the smallest pass."""
    layer_drop: float
    full_layer_drop: bool = False
    """LayerDrop in the full pass too, as in the first published code."""
    direction: Direction
    """`reverse` is KL(sub-pass || full), as published; `forward` is KL(full || sub-pass)."""
    temperature: float
    hard: float
    """Weight of the task loss in the full pass."""
    sub_hard: float
    """Weight of the task loss in the shortened passes."""
    teacher: float
    """Weight of the external teacher's soft labels in the full pass."""
    exits: float = 0.0
    """Weight of the span head's mean divergence, at all layers, from the full pass's answer. It
    teaches what `significance: span` ranks by, and counts with that significance only."""
    teacher_for_subs: bool = False
    """The shortened passes follow the external teacher in place of the full pass."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("bound", "layer_drop"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise QualaError(f"`{name}` must be at least 0 and below 1, got {value}.")
        if self.trains and not (self.hard or self.teacher or self.teacher_for_subs):
            raise QualaError("`hard` and `teacher` are both 0: the full pass would learn nothing.")

    @property
    def trains(self) -> bool:
        """Whether the weights change at all."""
        return True


@dataclass(kw_only=True)
class LengthAdaptConfig(SandwichConfig):
    """Turn a checkpoint into a length-adaptive supernet."""

    significance: str | None
    """How tokens are ranked: column_sum (published), query_rows, question, cls or span; null
    takes the task's own, span for answers and cls for sentences."""
    semantics: Semantics
    """`natural`: shares of the real length; `reference`: as published, padded inputs."""


@dataclass(kw_only=True)
class QuantizeStageConfig(SandwichConfig, QuantizedConfig):
    """Turn the supernet into an integer model, by calibration alone or by training."""

    method: Method
    """`ptq` only calibrates (the published step); `qat` trains on after the calibration."""
    quantizer_learning_rate: float
    """Rate of the learned steps, where weights, embeddings or activations are `lsq`."""
    quantizers: QuantizeConfig = field(default_factory=QuantizeConfig)

    @property
    def trains(self) -> bool:
        """Whether the weights change at all; calibration alone changes none."""
        return self.method == "qat"

    def step_rate(self, *, top: int, activation: bool) -> float:
        """Return the one rate of all steps."""
        return self.quantizer_learning_rate


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
    workers: int = unfingerprinted(1)
    cache_mebibytes: int = unfingerprinted(2048)

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
