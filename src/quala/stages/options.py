"""The options of the stages; their values are in conf/stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from quala.architecture import CONFIG
from quala.compress.quantize.config import QuantizeConfig
from quala.cost import PRESETS
from quala.data.spec import LONGEST_INPUT
from quala.data.teacher_file import is_teacher_file
from quala.errors import QualaError, unknown
from quala.lengths import MIN_TOKENS
from quala.plugins import FORMATS, SIGNIFICANCE
from quala.ranges import LARGEST_SEED, MANY, ranged, text
from quala.runtime.hardware import check_threads
from quala.search.strategy import SearchSettings
from quala.stage import StageConfig
from quala.stages.planned import check_served, check_sites, start_facts
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
            value = {"enabled": "false", "width": "1"}.get(option, "0")
            raise QualaError(
                f"Embeddings have no labels to learn, only a teacher to follow: `{option}` must "
                f"be {value}, got {getattr(self, option)}; `experiment=sts` sets all such options."
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


@dataclass(kw_only=True)
class QuantizedConfig(TaughtConfig, ABC):
    """The options of stages that train on fake-quantized layers."""

    calibration_batches: int = ranged(above=0, at_most=MOST_BATCHES)
    """Train batches that give the ranges and the first steps of activations."""

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

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        super().check_inputs(inputs)
        check_sites(inputs.get("model"), self.quantizers)

    soft_options: ClassVar[str] = (
        "`method` must be qat, and `teacher` above 0 or `teacher_for_subs` true"
    )

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
