"""The options of a distillation: the student's steps and bits, the losses, what a cache stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from quala.compress.experts import ExpertsConfig
from quala.compress.layer_maps import LayerMap, layers_to_keep
from quala.compress.losses import Needs, StateError
from quala.compress.prune.config import ShrinkConfig
from quala.compress.quantize.config import TERNARY, QuantizeConfig
from quala.data.spec import LONGEST_INPUT
from quala.errors import QualaError, unknown
from quala.plugins import LOSSES, SIGNIFICANCE
from quala.ranges import LARGEST_SEED, MANY, check_ranges, ranged, text
from quala.stage import StageConfig
from quala.stages.options import (
    LARGEST_BATCH,
    LARGEST_RATE,
    LARGEST_WEIGHT,
    MOST_BATCHES,
    QuantizedConfig,
    Semantics,
    by_span_head,
    check_ranking,
    check_zero_codes,
)
from quala.stages.planned import (
    check_dense,
    check_sites,
    check_start_kernels,
    family_at_start,
    sizes_of,
)

if TYPE_CHECKING:
    from quala.compress.losses import DistillLoss
    from quala.models.families import Family

DEEPEST = 1000
"""Layers of an encoder; none that is known here has more."""


@dataclass(kw_only=True)
class CacheConfig:
    """What is stored of the teacher's outputs (arXiv 2106.05691); by default everything.

    The teacher's answers are stored whole, in float32: they are two numbers a token, or one a
    class. The other options say what is kept of hidden states, for training with `hidden`.
    """

    depth: int | None = ranged(None, at_least=1, at_most=DEEPEST)
    """Hidden states of the student that learn, from the top down; its embeddings count as one."""
    states: list[int] | None = ranged(None, at_least=0, at_most=DEEPEST)
    """The student's hidden states that learn, 0 the embeddings; null leaves it to `depth`."""
    top: int | None = ranged(None, at_least=1, at_most=DEEPEST)
    """The highest layer of the teacher that is followed, counted from 1: 8 is the published
    `t_top8`. The student's states are spread evenly below it; null follows `layer_map`."""
    tokens: int | None = ranged(None, at_least=1, at_most=LONGEST_INPUT)
    """Tokens kept of each input: those that the teacher's [CLS] attends to most, without [SEP];
    null keeps all real tokens."""
    width: float = ranged(1.0, above=0, at_most=1)
    """Share of a kept token's entries, those of largest absolute value."""
    full_precision: bool = False
    """Hidden states in float32 instead of float16."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.states is not None and not self.states:
            raise QualaError("`states` must name a hidden state, got an empty list.")
        if self.states is not None and self.depth is not None:
            raise QualaError(f"Give `depth` or `states`, got {self.depth} and {self.states}.")


def shrink_steps(config: ShrinkConfig | None) -> list[ShrinkConfig]:
    """Return what each training takes. Raises QualaError where nothing is to be made smaller."""
    if config is None:
        raise QualaError(
            "`stage.distill.shrink` is null; `stage/distill=ladabert`, `rosita` and `oberta` have "
            "values."
        )
    return config.one_by_one()


def span_head_untrained(significance: str) -> QualaError:
    """Return the error for a ranking by a span head that a distillation does not train for it."""
    return QualaError(
        f"`significance={significance}` ranks tokens by the span head at every layer, which only "
        "`length_adapt` trains: choose another one for a distillation, such as `question`."
    )


def check_zeros(shrink: ShrinkConfig, quantizers: QuantizeConfig) -> None:
    """Raise QualaError where pruned weights would be rounded to a grid without zero."""
    if shrink.zeros:
        check_zero_codes("`shrink` leaves zeros", quantizers, embeddings=shrink.embeddings)


@dataclass(kw_only=True)
class BitsConfig(StageConfig):
    """Find the bits of each linear weight within a budget, for `distill` to train at."""

    seed: int = ranged(at_least=0, at_most=LARGEST_SEED)
    choices: list[int] = ranged(at_least=0, at_most=8)
    """Bits that a weight may get: 2 to 8, and 0, which prunes all of it."""
    mean_bits: float | None = ranged(None, above=0, at_most=8)
    """The budget as mean bits of the linear weights, without scales; null: `mebibytes`."""
    mebibytes: float | None = ranged(None, above=0, at_most=MANY)
    """The budget as size of the whole file, with embeddings and scales; null: `mean_bits`."""
    inputs: int = ranged(above=0, at_most=MANY)
    """Examples of the search slice whose answers are compared."""
    batch_size: int = ranged(above=0, at_most=LARGEST_BATCH)
    quantizers: QuantizeConfig | None = None
    """The grids of the weights; null takes those of `distill`. Weights that its `overrides` names
    keep those bits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.choices = sorted(set(self.choices))
        if not self.choices:
            raise QualaError("`choices` must be bits, 0 or 2 to 8, got an empty list.")
        if (self.mean_bits is None) == (self.mebibytes is None):
            raise QualaError(
                "Either `mean_bits` or `mebibytes` is the budget, the other must be null, got "
                f"{self.mean_bits} and {self.mebibytes}."
            )

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        data = getattr(inputs.get("data"), "value", None)
        if data is not None and not data.search_size:
            raise QualaError("`data.search_size` must be above 0, got 0: bits are found there.")
        if self.quantizers is None:
            raise QualaError("`stage.bits` needs `stage.distill.quantizers`, got null.")
        low, high = self.choices[0], self.choices[-1]
        if self.mean_bits and not (self.quantizers.overrides or low <= self.mean_bits <= high):
            raise QualaError(
                f"`mean_bits` must be {low} to {high} with these `choices`, got {self.mean_bits}."
            )
        for bits in self.choices:
            replace(self.quantizers, overrides={"*": bits})  # refuses what the method has not
        if self.quantizers.outliers and self.mebibytes is not None:
            raise QualaError(
                "`mebibytes` cannot count `quantizers.outliers`, which calibration finds: give "
                "`mean_bits`, or set them to 0."
            )
        check_sites(inputs.get("model"), self.quantizers)


@dataclass(kw_only=True)
class DistillConfig(QuantizedConfig):
    """Train a student on a teacher's answers and inner states."""

    layers: int | None = ranged(None, at_least=1, at_most=DEEPEST)
    """Layers of the student, copied from the teacher; null copies all of them."""
    keep_map: LayerMap
    """Which `layers` are copied: uniform, tinybert, xtc, top, bottom or symmetric. With `xtc`, 12
    to 5, the embeddings follow the state above the teacher's, as in its released code."""
    keep: list[int] | None = ranged(None, at_least=0, at_most=DEEPEST)
    """The teacher's layers that are copied, counted from 0; null leaves it to `keep_map`."""
    width: float = ranged(1.0, above=0, at_most=1)
    """Share of the copied layers' heads and feed-forward neurons that stays, the most important
    ones by the weights that read them (DynaBERT, which adds a neuron's own weights and bias); the
    hidden size does not change."""
    importance_batches: int | None = ranged(None, above=0, at_most=MOST_BATCHES)
    """Train batches that score heads and neurons; null takes `calibration_batches`."""
    temperature: float = ranged(at_least=0.01, at_most=1000)
    """Divides both sides' answers in the soft labels."""
    hard: float = ranged(at_least=0, at_most=LARGEST_WEIGHT)
    """Weight of the task loss."""
    soft: float = ranged(at_least=0, at_most=LARGEST_WEIGHT)
    """Weight of the teacher's answers as soft labels."""
    hidden: float = ranged(at_least=0, at_most=LARGEST_WEIGHT)
    """Weight of the hidden states' error."""
    hidden_loss: StateError = field(default="mse", metadata={"identity": "if set"})
    """The error of hidden states: `mse`, or `cosine`, one minus the cosine of each token."""
    attention: float = ranged(at_least=0, at_most=LARGEST_WEIGHT)
    """Weight of the attention scores' squared error. The heads of a narrower student are compared
    with those that they copied."""
    relation: float = ranged(at_least=0, at_most=LARGEST_WEIGHT)
    """Weight of the MiniLMv2 relation loss on the last layers."""
    losses: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "identity": "if set",
            "plugins": LOSSES,
            "range": {"at_least": 0, "at_most": LARGEST_WEIGHT},
        },
    )
    """Weights of other losses, by the name of an installed one or by dotted path."""
    relation_heads: int = ranged(at_least=1, at_most=1024)
    inner_first: float = ranged(0.0, at_least=0, below=1)
    """Share of the training, at its start, that follows inner states alone (hidden, attention,
    relation); the rest then follows the answers alone (soft, hard). 0 takes all terms at once."""
    layer_map: list[int] | None = ranged(None, at_least=0, at_most=DEEPEST)
    """The teacher layer that each student layer follows; null takes the copied layers, or, for a
    student of its own, layers spread evenly."""
    significance: str | None = text("line", None, plugins=SIGNIFICANCE)
    """How the student ranks tokens if no `length_adapt` follows: column_sum (published),
    query_rows, question, cls, or one of your own, which needs no training; null: as its
    checkpoint says, `question` if that says nothing."""
    semantics: Semantics | None = None
    """`natural` or `reference`, as in `length_adapt`; null: as the checkpoint says, or natural."""
    quantizers: QuantizeConfig | None = None
    """Train and save the student with rounded weights, embeddings and activations; null leaves it
    as it is: float, or as an opened one was trained."""
    latent: bool = False
    """Save the weights behind the integers too, so that a later distillation can continue."""
    split: bool = False
    """Split ternary layers into sums of two binary ones before the training (BinaryBERT)."""
    shrink: ShrinkConfig | None = None
    """Make the student smaller first, and keep its zeros (LadaBERT, ROSITA, oBERTa); null: not."""
    experts: ExpertsConfig | None = field(default=None, metadata={"identity": "if set"})
    """Cut the copied layers' feed-forwards into experts, of which the id of a token chooses one
    (MoEBERT); null: whole."""
    cache: CacheConfig | None = None
    """Run the teacher once, store its outputs, and train without it; null: run the teacher at
    every step."""
    clip_learning_rate: float = ranged(at_least=0, at_most=LARGEST_RATE)
    """Rate of the `lsq` clips of weights and embeddings. A clip is the largest value of a grid, so
    that one rate suits all widths; a step has this rate over the grid's largest code."""
    activation_clip_learning_rate: float = ranged(at_least=0, at_most=LARGEST_RATE)
    """As `clip_learning_rate`, for activations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.significance and by_span_head(self.significance):
            raise span_head_untrained(self.significance)
        check_ranking(self.significance, self.semantics)
        self._check_steps()
        self._check_losses()

    @property
    def steps(self) -> list[str]:
        """Names of the steps that make the student, in order; an opened one copies no layers."""
        wanted = [
            name for name, (option, off) in OPTIONAL_STEPS.items() if getattr(self, option) != off
        ]
        return ["copy_layers", *wanted]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss that has one above 0, in the order in which they are added."""
        own = {name: getattr(self, name) for name in LOSSES.own if hasattr(self, name)}
        return {name: weight for name, weight in (own | self.losses).items() if weight}

    @property
    def follows_answers(self) -> bool:
        return any(loss.needs == "answers" for loss in self.found_losses().values())

    @property
    def revisions(self) -> dict[str, str]:
        """The embeddings once followed the teacher's, whatever `keep_map` was."""
        moved = self.hidden and (self.keep_map, self.layers) == ("xtc", 5)
        return {"keep_map": "embeddings"} if moved else {}

    def step_rate(self, *, top: int, activation: bool) -> float:
        """Return the rate of the clip over its largest code."""
        clip = self.activation_clip_learning_rate if activation else self.clip_learning_rate
        return clip / top

    def _check_steps(self) -> None:
        if self.keep is not None and (not self.keep or self.keep != sorted(set(self.keep))):
            raise QualaError(f"`keep` must be rising layer numbers, got {self.keep}.")
        if self.layer_map is not None and not self.layer_map:
            raise QualaError("`layer_map` must name a layer of the teacher, got an empty list.")
        if self.shrink is not None and self.quantizers is not None:
            check_zeros(self.shrink, self.quantizers)
        if self.shrink is not None:
            self._check_shrink(self.shrink)
        if self.split and (self.keep_zeros or (self.shrink is not None and self.shrink.zeros)):
            option = "keep_zeros" if self.keep_zeros else "shrink"
            raise QualaError(
                f"`{option}` leaves zeros, which the halves of `split` have no code for."
            )
        if self.experts is not None and (self.width < 1 or self.shrink is not None or self.split):
            other = "width" if self.width < 1 else "split" if self.split else "shrink"
            raise QualaError(
                f"`experts` are cut from whole dense layers, got `{other}` too: choose one."
            )
        if self.split and self.quantizers is not None:
            methods = (self.quantizers.weight_quantizer, self.quantizers.embedding_quantizer)
            if not set(methods) & set(TERNARY):
                raise QualaError(
                    "`split` replaces ternary weights: `quantizers.weight_quantizer` must be one "
                    f"of {', '.join(TERNARY)}, got {methods[0]}."
                )

    def _check_shrink(self, shrink: ShrinkConfig) -> None:
        if self.freeze_word_embeddings and shrink.embedding_rank is not None:
            raise QualaError(
                "`shrink.embedding_rank` factorizes the word embeddings, whose factors must be "
                "trained: `freeze_word_embeddings` must be false, got true."
            )
        if shrink.layers is not None and self.layers is not None and shrink.layers > self.layers:
            raise QualaError(
                f"`shrink.layers` must be at most the {self.layers} of `layers`, got "
                f"{shrink.layers}."
            )

    def found_losses(self) -> dict[str, DistillLoss]:
        """Return the losses with a weight, in the order in which they are added."""
        return {name: LOSSES.find(name) for name in self.weights}

    def _check_losses(self) -> None:
        for name in self.losses:
            if hasattr(self, name):
                raise QualaError(f"`losses` has `{name}`, which is an option: set `{name}`.")
        if not self.weights:
            raise QualaError("All distillation weights are 0; give at least one loss a weight.")
        found = self.found_losses()
        for name, loss in found.items():
            if loss.needs not in get_args(Needs):
                raise unknown(f"`needs` of the loss `{name}`", loss.needs, get_args(Needs))
        if self.inner_first and len({loss.inner for loss in found.values()}) < 2:
            raise QualaError(
                "`inner_first` needs losses on inner states and losses on answers, got "
                f"{self.inner_first} with {', '.join(found)}."
            )
        if self.cache is not None:
            self._check_cache(self.cache, found)

    def _check_cache(self, cache: CacheConfig, found: Mapping[str, DistillLoss]) -> None:
        for name, loss in found.items():
            if not loss.cached:
                raise QualaError(
                    f"`cache` stores answers and hidden states only: `{name}`, which needs "
                    f"{loss.needs}, must be 0, got {self.weights[name]}."
                )
        if self.hidden and self.hidden_loss == "cosine" and cache.width < 1:
            raise QualaError(
                "`hidden_loss=cosine` compares whole states: `cache.width` must be 1, got "
                f"{cache.width}."
            )
        if all(loss.needs == "labels" for loss in found.values()):
            raise QualaError("`cache` has nothing to store: give `soft` or `hidden` a weight.")
        if cache.top is not None and self.layer_map is not None:
            raise QualaError(
                "Either `layer_map` or `cache.top` chooses the layers that are followed, got "
                f"{self.layer_map} and {cache.top}."
            )

    @property
    def learns_labels(self) -> str | None:
        if self.hard or self.experts or self.width < 1:
            return "hard" if self.hard else "experts" if self.experts else "width"
        shrink = self.shrink
        if shrink is not None and (shrink.heads is not None or shrink.neurons is not None):
            return "shrink.neurons" if shrink.heads is None else "shrink.heads"
        scored = shrink is not None and shrink.sparsity is not None and shrink.score == "fisher"
        return "shrink.score" if scored else None

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        super().check_inputs(inputs)
        opened, rounded = "model" in inputs, self.quantizers is not None
        parts = (self.layers, self.keep, self.width, self.shrink, self.experts)
        copied = parts == (None, None, 1, None, None)
        if "bits" in inputs and not (copied and rounded):
            raise QualaError(
                "Bits are found for the teacher's own weights: `quantizers` must be set, and "
                "`layers`, `keep`, `width`, `shrink` and `experts` left alone."
            )
        if opened or copied:
            check_sites(inputs.get("model" if opened else "teacher"), self.quantizers)
        if self.shrink is not None:
            self.shrink.check_step()
        if opened and self.width < 1:
            raise QualaError(
                f"`width` narrows layers copied from the teacher, got {self.width} with a "
                "student of its own."
            )
        if opened and self.experts is not None:
            raise QualaError(
                "`experts` cuts layers copied from the teacher, got a student of its own."
            )
        if self.latent and not (opened or rounded):
            raise QualaError("`latent` keeps the weights behind integers, got a float student.")
        if self.split and not (opened or rounded):
            raise QualaError("`split` takes ternary layers apart, got a float student.")
        check_start_kernels(inputs.get("model") or inputs.get("teacher"), self.quantizers)
        family = family_at_start(inputs.get("teacher"))
        if family is not None and self.width < 1:
            family.check_width()
        if family is not None and (self.shrink is not None or self.experts is not None):
            family.check_shrink()
            if self.shrink is not None and self.shrink.heads is not None:
                family.check_width()
        if cut := self._cut_dense():
            check_dense(inputs.get("model") or inputs.get("teacher"), cut)
        start = sizes_of(inputs.get("teacher"))
        whole = sizes_of(inputs["whole"]) if "whole" in inputs else start
        if whole is not None and self.shrink is not None:
            self.shrink.ends(whole)
        if start is not None:
            self._check_depth(start.layers, opened=opened, family=family)
            if self.experts is not None:
                for layer in start.sizes:
                    self.experts.neurons(layer.intermediate)

    def _cut_dense(self) -> str | None:
        """Return the option that cuts feed-forwards, if there is one."""
        if self.experts is not None or self.width < 1:
            return "width" if self.experts is None else "experts"
        cuts = ("ratio", "sparsity", "heads", "neurons")
        found = (name for name in cuts if getattr(self.shrink, name, None) is not None)
        return next((f"shrink.{name}" for name in found), None)

    def _check_depth(self, depth: int, *, opened: bool, family: Family | None) -> None:
        """Raise QualaError for layers that a teacher of `depth` layers does not have."""
        highest = {"layer_map": self.layer_map, "keep": None if opened else self.keep}
        for name, layers in highest.items():
            if layers is not None and max(layers) >= depth:
                raise QualaError(
                    f"`{name}` must be below the teacher's {depth} layers, got {max(layers)}."
                )
        if self.cache is not None and (self.cache.top or 1) > depth:
            raise QualaError(
                f"`cache.top` must be at most the teacher's {depth} layers, got {self.cache.top}."
            )
        if opened:
            return
        kept = self.keep or self._layers_to_keep(depth)
        if family is not None:
            family.check_layers(kept)

    def _layers_to_keep(self, depth: int) -> list[int]:
        if (self.layers or 1) > depth:
            raise QualaError(
                f"`layers` must be at most the teacher's {depth} layers, got {self.layers}."
            )
        try:
            return layers_to_keep(self.keep_map, depth=depth, kept=self.layers or depth)
        except QualaError as error:
            raise QualaError(f"`keep_map` and `layers`: {error}") from error


OPTIONAL_STEPS: Mapping[str, tuple[str, object]] = MappingProxyType(
    {
        "narrow": ("width", 1.0),
        "shrink": ("shrink", None),
        "cut_experts": ("experts", None),
        "fake_quantize": ("quantizers", None),
        "split": ("split", False),
    }
)
"""The option that decides about a step, and its value without the step; in order."""
