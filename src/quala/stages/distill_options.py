"""The typed configuration of a distillation without a teacher in the loop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from quala.compress.layer_maps import LayerMap
from quala.compress.loss_weights import DistillWeights
from quala.compress.prune.config import HybridConfig, ratio_steps
from quala.compress.quantize.config import TERNARY, QuantizeConfig
from quala.errors import QualaError
from quala.stages.options import QuantizedConfig, Semantics


@dataclass(kw_only=True)
class CacheConfig:
    """What is stored of the teacher (arXiv 2106.05691): all of it where nothing is set.

    The teacher's answers are stored whole, in float32: they are two numbers a token, or one a
    class. The other options say what is kept of hidden states, for training with `hidden`.
    """

    depth: int | None = None
    """Hidden states of the student that learn, from the top down; its embeddings count as one."""
    states: list[int] | None = None
    """The student's hidden states that learn, 0 the embeddings; null leaves it to `depth`."""
    top: int | None = None
    """The highest layer of the teacher that is followed, counted from 1: 8 is the published
    `t_top8`. The student's states are spread evenly below it; null follows `layer_map`."""
    tokens: int | None = None
    """Tokens kept of each input, those that the teacher's [CLS] attends to most, no [SEP] among
    them; null keeps all real tokens."""
    width: float = 1.0
    """Share of a kept token's entries, those of largest absolute value."""
    full_precision: bool = False
    """Hidden states in float32 instead of float16."""

    def __post_init__(self) -> None:
        for name in ("depth", "top", "tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise QualaError(f"`cache.{name}` must be at least 1, got {value}.")
        if not 0 < self.width <= 1:
            raise QualaError(f"`cache.width` must be above 0 and at most 1, got {self.width}.")
        if self.states is not None and not self.states:
            raise QualaError("`cache.states` must name a hidden state, got an empty list.")
        if self.states is not None and self.depth is not None:
            raise QualaError(
                f"`cache` takes `depth` or `states`, got {self.depth} and {self.states}."
            )


@dataclass(frozen=True)
class ShrinkConfig(HybridConfig):
    """The compression of a student as a whole, its steps, and which of them a training takes.

    The ratio counts against the parameters of the teacher.

    Raises:
        QualaError: for no step, or a `step` outside 1 to `steps`.
    """

    steps: int = 1
    """Trainings on the way to the ratio, each after ratio^(1/steps) more of compression."""
    step: int | None = None
    """The step that a training takes, from 1; a workflow of several trainings sets it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise QualaError(f"`steps` must be at least 1, got {self.steps}.")
        if self.step is not None and not 1 <= self.step <= self.steps:
            raise QualaError(f"`step` must be 1 to {self.steps}, got {self.step}.")

    @property
    def last(self) -> bool:
        """Whether the training ends at the whole ratio."""
        return self.step in (None, self.steps)

    def one_by_one(self) -> list[Self]:
        """Return what each training of a workflow takes, in order."""
        return [replace(self, step=step) for step in range(1, self.steps + 1)]

    def now(self) -> HybridConfig:
        """Return the compression up to this step.

        Raises:
            QualaError: for several steps of which none is chosen.
        """
        if self.step is None and self.steps > 1:
            raise QualaError(
                f"`shrink.steps` is {self.steps}, but a training by itself takes one; the "
                "workflow `ladabert` runs a training for each."
            )
        ratio = ratio_steps(self.ratio, self.steps)[(self.step or 1) - 1]
        return HybridConfig(ratio, self.svd_share, self.embeddings)


def shrink_steps(config: ShrinkConfig | None) -> list[ShrinkConfig]:
    """Return what each training takes. Raises QualaError where nothing is to be made smaller."""
    if config is None:
        raise QualaError("`stage.distill.shrink` is null; `stage/distill=ladabert` has values.")
    return config.one_by_one()


def check_zeros(shrink: ShrinkConfig, quantizers: QuantizeConfig) -> None:
    """Raise QualaError where pruned weights would be rounded to a grid without zero."""
    methods = {"weight_quantizer": quantizers.weight_quantizer}
    if shrink.embeddings and quantizers.quantize_embeddings:
        methods["embedding_quantizer"] = quantizers.embedding_quantizer
    for name, method in methods.items():
        if method == "bwn":
            raise QualaError(f"`shrink` leaves zeros, which `{name}=bwn` has no code for.")


# `span` is missing: the span head must have learned to answer at every layer.
Ranking = Literal["column_sum", "query_rows", "question", "cls"]


@dataclass(kw_only=True)
class DistillConfig(QuantizedConfig):
    """Train a student on what the teacher says and on how it gets there."""

    layers: int | None = None
    """Layers of the student, copied from the teacher; null copies all of them."""
    keep_map: LayerMap
    """Which `layers` are copied: uniform, tinybert, xtc, top, bottom or symmetric."""
    keep: list[int] | None = None
    """The teacher's layers that are copied, counted from 0; null leaves it to `keep_map`."""
    width: float = 1.0
    """Share of the copied layers' heads and feed-forward neurons that stays, the most important
    ones (DynaBERT); the hidden size does not change."""
    importance_batches: int | None = None
    """Train batches that score heads and neurons; null takes `calibration_batches`."""
    temperature: float
    hard: float
    """Weight of the task loss."""
    soft: float
    """Weight of the soft-label cross-entropy."""
    hidden: float
    """Weight of the hidden states' squared error."""
    attention: float
    """Weight of the attention scores' squared error. The heads of a narrower student are held
    against those that they copied."""
    relation: float
    """Weight of the MiniLMv2 relation loss on the last layers."""
    relation_heads: int
    inner_first: float = 0.0
    """Share of the training, at its start, that follows the inner terms alone (hidden, attention,
    relation); the rest then follows the answers alone (soft, hard). 0 takes all terms at once."""
    layer_map: list[int] | None = None
    """The teacher layer that each student layer follows; null takes the copied layers, or, for a
    student of its own, layers spread evenly."""
    significance: Ranking | None = None
    """How the student ranks tokens where no `length_adapt` follows: column_sum (published),
    query_rows, question or cls, which need no training of their own; null: as its checkpoint
    says, `question` where that says nothing."""
    semantics: Semantics | None = None
    """`natural` or `reference`, as in `length_adapt`; null: as the checkpoint says, or natural."""
    quantizers: QuantizeConfig | None = None
    """Train and save the student with rounded weights, embeddings and activations; null leaves it
    as it is: float, or as an opened one was trained."""
    latent: bool = False
    """Keep the weights behind the integers in a file of their own, for a later distillation."""
    split: bool = False
    """Take ternary layers apart into sums of two binary ones before the training (BinaryBERT)."""
    shrink: ShrinkConfig | None = None
    """Factorize and prune the student first, and keep its zeros (LadaBERT); null: whole."""
    cache: CacheConfig | None = None
    """Run the teacher once, store what it says, and train without it; null: a teacher at every
    step."""
    clip_learning_rate: float
    """Rate of the `lsq` clips of weights and embeddings. A clip is the largest value of a grid, so
    that one rate suits all widths; a step has this rate over the grid's largest code."""
    activation_clip_learning_rate: float
    """As `clip_learning_rate`, for activations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clip_learning_rate", "activation_clip_learning_rate"):
            if getattr(self, name) < 0:
                raise QualaError(f"`{name}` must be at least 0, got {getattr(self, name)}.")
        if self.shrink is not None and self.quantizers is not None:
            check_zeros(self.shrink, self.quantizers)
        if self.semantics == "reference" and self.significance != "column_sum":
            raise QualaError(
                "`semantics=reference` ranks tokens by `significance=column_sum`, got "
                f"{self.significance}."
            )
        if self.shrink is not None and self.split:
            raise QualaError(
                "`shrink` leaves zeros, which the halves of `split` have no code for."
            )
        self._check_form()
        DistillWeights(
            soft=self.soft,
            hidden=self.hidden,
            attention=self.attention,
            relation=self.relation,
            hard=self.hard,
            temperature=self.temperature,
        )
        if self.cache is not None:
            self._check_cache(self.cache)

    def _check_cache(self, cache: CacheConfig) -> None:
        if self.attention or self.relation:
            raise QualaError(
                "`cache` stores answers and hidden states only: `attention` and `relation` must "
                f"be 0, got {self.attention} and {self.relation}."
            )
        if not self.soft and not self.hidden:
            raise QualaError("`cache` has nothing to store: give `soft` or `hidden` a weight.")
        if cache.top is not None and self.layer_map is not None:
            raise QualaError(
                f"Either `layer_map` or `cache.top` says which layers are followed, got "
                f"{self.layer_map} and {cache.top}."
            )

    def _check_form(self) -> None:
        if not 0 < self.width <= 1:
            raise QualaError(f"`width` must be in (0, 1], got {self.width}.")
        if self.importance_batches is not None and self.importance_batches <= 0:
            got = self.importance_batches
            raise QualaError(f"`importance_batches` must be above 0, got {got}.")
        if self.split and self.quantizers is not None:
            methods = (self.quantizers.weight_quantizer, self.quantizers.embedding_quantizer)
            if not set(methods) & set(TERNARY):
                raise QualaError(
                    "`split` takes ternary weights apart: `quantizers.weight_quantizer` must be "
                    f"one of {', '.join(TERNARY)}, got {methods[0]}."
                )
        answers, inner = self.soft + self.hard, self.hidden + self.attention + self.relation
        if not 0 <= self.inner_first < 1 or (self.inner_first and not (answers and inner)):
            raise QualaError(
                "`inner_first` must be in [0, 1), and above 0 only with both inner terms and "
                f"answers, got {self.inner_first} with weights of {inner} and {answers}."
            )

    def step_rate(self, *, top: int, activation: bool) -> float:
        """Return the rate of the clip over its largest code."""
        clip = self.activation_clip_learning_rate if activation else self.clip_learning_rate
        return clip / top
