"""The options of the stages; their values are in conf/stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, Literal

from quala.architecture import CONFIG
from quala.compress.quantize.config import QuantizeConfig
from quala.data.teacher_file import is_teacher_file
from quala.errors import QualaError
from quala.plugins import FORMATS, SIGNIFICANCE
from quala.ranges import LARGEST_SEED, MANY, ranged, text
from quala.stage import StageConfig
from quala.stages.planned import (
    check_dense,
    check_elastic,
    check_sites,
    check_start_kernels,
    start_facts,
)
from quala.stored import read_object

Precision = Literal["fp32", "bf16"]
Direction = Literal["forward", "reverse"]
Sampler = Literal["length_drop", "few_drops"]
Semantics = Literal["natural", "reference"]
Method = Literal["ptq", "qat"]
Schedule = Literal["linear", "constant"]

LARGEST_BATCH = 8192
LARGEST_RATE = 10
LARGEST_WEIGHT = 1_000_000
"""Of a term of a loss."""
EMBEDDING, SPAN = "embedding", "question-answering"
"""The kind of task without labels to learn, and the one with a span head."""
MOST_BATCHES = 100_000
"""Of those that calibrate, warm up, or are timed."""
MOST_THREADS = 1024
"""On any machine; `check_threads` knows this one's."""


@dataclass(kw_only=True)
class TrainingConfig(StageConfig):
    """The options of every training stage."""

    seed: int = ranged(at_least=0, at_most=LARGEST_SEED)
    epochs: float = ranged(above=0, at_most=10_000)
    max_steps: int | None = ranged(None, above=0, at_most=MANY)
    """The training ends at this step if its epochs take more."""
    batch_size: int = ranged(above=0, at_most=LARGEST_BATCH)
    bucketed: bool = True
    """Batches of inputs of like length; false draws them at random, as the published code does."""
    learning_rate: float = ranged(at_least=0, at_most=LARGEST_RATE)
    warmup_ratio: float = ranged(at_least=0, at_most=1)
    """Share of the steps over which the learning rate rises from 0."""
    schedule: Schedule = "linear"
    """The learning rate after the warm-up: `linear` falls to 0, `constant` stays."""
    weight_decay: float = ranged(at_least=0, at_most=LARGEST_RATE)
    gradient_clip: float = ranged(at_least=0, at_most=MANY)
    """Largest norm of all gradients; 0 clips none."""
    hidden_dropout: float | None = ranged(None, at_least=0, below=1)
    """Replaces the checkpoint's own rate; null keeps it."""
    attention_dropout: float | None = ranged(None, at_least=0, below=1)
    """0 keeps the fused attention kernel in training; null keeps the checkpoint's rate."""
    freeze_word_embeddings: bool = False
    keep_zeros: bool = field(default=False, metadata={"identity": "if set"})
    """Weights that are zero at the start stay zero, and the file leaves them out: a pruned
    checkpoint is trained on without losing its zeros."""
    precision: Precision = "fp32"
    selection_every: int | None = ranged(None, above=0, at_most=MANY)
    """Optimizer steps between two scores on the selection slice; null keeps the last weights."""
    checkpoint_minutes: float = ranged(2.0, identity=False, above=0, at_most=10_080)
    log_every: int = ranged(20, identity=False, above=0, at_most=MANY)

    @property
    def learns_labels(self) -> str | None:
        """The option by which the training learns the data's labels, None where it does not."""
        return "enabled"

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        for one in self._start_models(inputs):
            start_facts(one)
        data = getattr(inputs.get("data"), "value", None)
        option = self.learns_labels
        if data and option and FORMATS.find(data.task).kinds == (EMBEDDING,):
            value = {
                "enabled": "false",
                "width": "1",
                "widths": "[1.0]",
                "shrink.score": "magnitude",
            }.get(option, "null" if "." in option else "0")
            raise QualaError(
                f"Embeddings have no labels to learn, only a teacher to follow: `{option}` must "
                f"be {value}, got {attrgetter(option)(self)}; `experiment=sts` sets all such "
                "options."
            )

    def _start_models(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Return the inputs that must be models of a known family, where they are models."""
        return list(inputs.values())


OWN_TEACHER = "teacher"
"""Among `teachers`: the teacher that the workflow gives the stage."""
Missing = Literal["refuse", "skip"]


@dataclass(kw_only=True)
class TaughtConfig(TrainingConfig):
    """The options of stages that follow a teacher's answers: docs/guide/teachers.md."""

    teachers: list[str] = text("place", list, identity=False)
    """Whose answers are the soft labels, instead of the workflow's teacher: folders, hub names or
    runs of models with any tokenizer, files of answers, and `teacher` for that one. Their content
    is part of the stage's fingerprint."""
    teacher_weights: list[float] = field(
        default_factory=list,
        metadata={"identity": "if set", "range": {"above": 0, "at_most": LARGEST_WEIGHT}},
    )
    """The share of each of `teachers` in the mean of their distributions; none: equal shares."""
    teacher_missing: Missing = field(default="refuse", metadata={"identity": "if set"})
    """What becomes of training examples that a file of answers lacks: `skip` trains them without
    soft labels, unless another of the `teachers` has them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher_weights and len(self.teacher_weights) != len(self.teachers):
            raise QualaError(
                f"`teacher_weights` must be as many as `teachers`, {len(self.teachers)}, got "
                f"{len(self.teacher_weights)}."
            )
        if self.teachers and not self.follows_answers:
            raise QualaError(
                f"`teachers` give soft labels, which have no weight: {self.soft_options}."
            )

    soft_options: ClassVar[str] = "`soft` must be above 0"
    """The options that give soft labels a weight, for sentences."""

    @property
    def follows_answers(self) -> bool:
        """Whether any loss reads a teacher's answers."""
        return True

    def _start_models(self, inputs: Mapping[str, Any]) -> list[Any]:
        taught = [name for name in inputs if name.startswith("teachers.")]
        taught += ["teacher"] if "model" in inputs else []
        return [one for name, one in inputs.items() if not (name in taught and is_teacher(one))]


def is_teacher(source: Any) -> bool:
    """Tell if a source is a teacher's file, or the folder of a model of whatever family."""
    value = getattr(source, "value", None)
    if not isinstance(value, str):
        return False
    place = Path(value).expanduser()
    if is_teacher_file(place):
        return True
    return (place / CONFIG).is_file() and bool(read_object(place / CONFIG).get("model_type"))


@dataclass(kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Train a checkpoint on the task: a teacher, or a baseline."""

    new_head: bool = field(default=False, metadata={"identity": "if set"})
    """Draw the head at random although the checkpoint has one, of these outputs or of others."""


def check_zero_codes(what: str, quantizers: QuantizeConfig, *, embeddings: bool) -> None:
    """Raise QualaError where zeros would be rounded to a grid without zero; `what` leaves them."""
    methods = {"weight_quantizer": quantizers.weight_quantizer}
    if embeddings and quantizers.quantize_embeddings:
        methods["embedding_quantizer"] = quantizers.embedding_quantizer
    for name, method in methods.items():
        if method == "bwn":
            raise QualaError(f"{what}, which `{name}=bwn` has no code for.")


@dataclass(kw_only=True)
class QuantizedConfig(TaughtConfig, ABC):
    """The options of stages that train on fake-quantized layers."""

    calibration_batches: int = ranged(above=0, at_most=MOST_BATCHES)
    """Train batches that give the ranges and the first steps of activations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        quantizers = getattr(self, "quantizers", None)
        if self.keep_zeros and quantizers is not None:
            check_zero_codes("`keep_zeros` keeps zeros", quantizers, embeddings=True)

    @abstractmethod
    def step_rate(self, *, top: int, activation: bool) -> float:
        """Return the learning rate of a learned step whose grid ends at the code `top`."""


@dataclass(kw_only=True)
class SandwichConfig(TaughtConfig):
    """Training under sampled lengths by the sandwich rule (arXiv 2010.07003)."""

    sampler: Sampler
    """`length_drop` draws every layer; `few_drops` drops at one to three layers only."""
    bound: float = ranged(at_least=0, below=1)
    """Largest share of tokens that one layer drops in training, and the smallest pass drops."""
    bound_start: float | None = ranged(None, at_least=0, below=1)
    """The bound grows from here over the first half of the training; null keeps it constant."""
    num_sandwich: int = ranged(at_least=0, at_most=100)
    """Passes with sampled lengths in each step, besides the full and the smallest pass."""
    layer_drop: float = ranged(at_least=0, below=1)
    full_layer_drop: bool = False
    """LayerDrop in the full pass too, as in the first published code."""
    direction: Direction
    """`reverse` is KL(sub-pass || full), as published; `forward` is KL(full || sub-pass)."""
    temperature: float = ranged(at_least=0.01, at_most=1000)
    hard: float = ranged(at_least=0, at_most=LARGEST_WEIGHT)
    """Weight of the task loss in the full pass."""
    sub_hard: float = ranged(at_least=0, at_most=LARGEST_WEIGHT)
    """Weight of the task loss in the shortened passes."""
    teacher: float = ranged(at_least=0, at_most=LARGEST_WEIGHT)
    """Weight of the external teacher's soft labels in the full pass."""
    exits: float = ranged(0.0, at_least=0, at_most=LARGEST_WEIGHT)
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

    soft_options: ClassVar[str] = "`teacher` must be above 0, or `teacher_for_subs` true"

    @property
    def follows_answers(self) -> bool:
        return bool(self.teacher or self.teacher_for_subs)

    @property
    def trains(self) -> bool:
        """Whether the weights change at all."""
        return True

    @property
    def revisions(self) -> dict[str, str]:
        """The smallest pass once dropped tokens at the layers that it skips, too."""
        return {"layer_drop": "smallest pass"} if self.layer_drop and self.trains else {}

    @property
    def learns_labels(self) -> str | None:
        named = [name for name in ("hard", "sub_hard") if self.trains and getattr(self, name)]
        return named[0] if named else None


_MULTIPLIERS: dict[str, Any] = {"identity": "if set", "range": {"above": 0, "at_most": 1}}


@dataclass(kw_only=True)
class LengthAdaptConfig(SandwichConfig):
    """Turn a checkpoint into a length-adaptive supernet."""

    significance: str | None = text("line", plugins=SIGNIFICANCE)
    """How tokens are ranked: column_sum (published), query_rows, question, cls, span, or one of
    your own; null takes that of the task, span for answers and cls for sentences."""
    semantics: Semantics
    """`natural`: shares of the real length; `reference`: as published, padded inputs."""
    widths: list[float] = field(default_factory=lambda: [1.0], metadata=_MULTIPLIERS)
    """Shares of each layer's heads and neurons that run, the most important ones (DynaBERT)."""
    depths: list[float] = field(default_factory=lambda: [1.0], metadata=_MULTIPLIERS)
    """Shares of the layers that run. Each pass but the full one draws a width and a depth."""
    all_structures: bool = field(default=False, metadata={"identity": "if set"})
    """Run every width at every depth in each step, at full length, as DynaBERT does."""
    hidden: float = ranged(0.0, identity="if set", at_least=0, at_most=LARGEST_WEIGHT)
    """Weight of the squared error of hidden states in the passes at full length of a narrower or
    shallower model: from those of the full pass, or the teacher's where `teacher_for_subs`."""
    importance_batches: int = ranged(32, identity="if set", above=0, at_most=MOST_BATCHES)
    """Train batches that score heads and neurons before the first step; 1 width needs none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranking(self.significance, self.semantics)
        self._check_structures()

    @property
    def learns_labels(self) -> str | None:
        return super().learns_labels or ("widths" if len(self.widths) > 1 else None)

    @property
    def elastic(self) -> bool:
        """Whether there are sub-networks of fewer units."""
        return (self.widths, self.depths) != ([1.0], [1.0])

    def _check_structures(self) -> None:
        for name, values in (("widths", self.widths), ("depths", self.depths)):
            if 1.0 not in values or len(set(values)) < len(values):
                raise QualaError(f"`{name}` must have 1.0 and each value once, got {values}.")
        if not self.elastic and (self.hidden or self.all_structures):
            option = "hidden" if self.hidden else "all_structures"
            raise QualaError(f"`{option}` needs several `widths` or `depths`, got 1.0 alone.")
        if self.depths != [1.0] and self.layer_drop:
            raise QualaError(
                f"Give `depths` or `layer_drop`, got {self.depths} and {self.layer_drop}."
            )
        if self.all_structures and self.bound:
            raise QualaError(
                "`all_structures` runs every width and depth at full length: `bound` must be 0, "
                f"got {self.bound}."
            )
        if self.elastic and (self.semantics == "reference" or by_span_head(self.significance)):
            raise QualaError(
                "Several `widths` or `depths` need `natural` semantics, and a significance that "
                f"needs no training at every layer, such as `question`; got {self.semantics} and "
                f"{self.significance}."
            )

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        super().check_inputs(inputs)
        data: Any = getattr(inputs.get("data"), "value", None)
        kinds = FORMATS.find(data.task).kinds if data else ()  # of any kind, where none is named
        if kinds and SPAN not in kinds and by_span_head(self.significance):
            raise QualaError(
                f"`significance={self.significance}` ranks tokens by the span head, which only "
                f"question answering has, got `data.task={data.task}`."
            )
        if self.elastic:
            check_elastic(inputs.get("model"), self.widths, self.depths)
        if len(self.widths) > 1:
            check_dense(inputs.get("model"), "widths")


def by_span_head(significance: str | None) -> bool:
    """Tell whether a significance needs the span head; of quala's own only `span` does."""
    if significance is None or significance in SIGNIFICANCE.own:
        return significance == "span"
    needs: bool = SIGNIFICANCE.find(significance).needs_span_head
    return needs


def check_ranking(significance: str | None, semantics: str | None) -> None:
    """Raise QualaError for a significance that `reference` does not go with."""
    if semantics == "reference" and significance != "column_sum":
        raise QualaError(
            f"`semantics=reference` ranks tokens by `significance=column_sum`, got {significance}."
        )


@dataclass(kw_only=True)
class QuantizeStageConfig(SandwichConfig, QuantizedConfig):
    """Turn the supernet into an integer model, by calibration alone or by training."""

    method: Method
    """`ptq` only calibrates (the published step); `qat` trains on after the calibration."""
    quantizer_learning_rate: float = ranged(at_least=0, at_most=LARGEST_RATE)
    """Rate of the learned steps, where weights, embeddings or activations are `lsq`."""
    quantizers: QuantizeConfig = field(default_factory=QuantizeConfig)

    soft_options: ClassVar[str] = (
        "`method` must be qat, and `teacher` above 0 or `teacher_for_subs` true"
    )

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        super().check_inputs(inputs)
        check_sites(inputs.get("model"), self.quantizers)
        check_start_kernels(inputs.get("model"), self.quantizers)

    @property
    def follows_answers(self) -> bool:
        return self.trains and super().follows_answers

    @property
    def trains(self) -> bool:
        """Whether the weights change at all; calibration alone changes none."""
        return self.method == "qat"

    def step_rate(self, *, top: int, activation: bool) -> float:
        """Return the one rate of all steps."""
        return self.quantizer_learning_rate
