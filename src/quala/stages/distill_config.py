"""The typed configuration of distillation; the values stand in conf/stage/distill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quala.compress.distill.weights import DistillWeights
from quala.compress.layers.maps import LayerMap
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.spec import TERNARY
from quala.errors import QualaError
from quala.stages.cache_config import CacheConfig
from quala.stages.shrink_config import ShrinkConfig, check_zeros
from quala.stages.training_config import QuantizedConfig, Semantics

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
    """Factorise and prune the student first, and keep its zeros (LadaBERT); null: whole."""
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
