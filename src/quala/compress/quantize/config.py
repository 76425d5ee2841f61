"""The options of quantization: widths, methods, shared scales and ranges. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, get_args

from quala.errors import QualaError, unknown
from quala.ranges import check_ranges, ranged, text

if TYPE_CHECKING:
    from torch import Tensor

Granularity = Literal["tensor", "row", "group"]
StepInit = Literal["mean_abs", "max", "truncation", "kl", "tensorrt"]
WeightMethod = Literal["minmax", "lsq", "bwn", "twn", "lat", "lat_exact"]
RangeKind = Literal["minmax", "ema", "percentile", "lsq"]
ActivationInit = Literal["percentile", "mean_abs", "max", "truncation", "kl", "tensorrt"]
TERNARY = ("twn", "lat", "lat_exact")
LOSS_AWARE = ("lat", "lat_exact")
HISTOGRAMS = ("kl", "tensorrt")
"""First steps that need as many values as a whole tensor has."""
HEADS = ("qa_outputs", "classifier", "pre_classifier", "pooler")
RANKING = (".query", ".key")
"""Ends of the names of the linear layers that rank the tokens of a layer."""
WIDEST = 65_536
"""Columns of a weight; none that is known here has more."""
_WIDTHS = {"bwn": (1, 1), **dict.fromkeys(TERNARY, (2, 2))}


@dataclass(frozen=True)
class QuantizeConfig:
    """Widths and ranges of a quantized encoder.

    Raises:
        QualaError: for a value outside its range.
    """

    weight_bits: int = ranged(8, at_least=1, at_most=8)
    """Bits of a linear weight, symmetric: 2 to 8, 1 with `bwn`, 2 with the ternary methods."""
    activation_bits: int = ranged(8, at_least=2, at_most=8)
    """Bits of the input of a linear layer, affine per tensor (2 to 8)."""
    embedding_bits: int = ranged(8, at_least=1, at_most=8)
    """Bits of an embedding, as for `weight_bits`."""
    weight_quantizer: WeightMethod = "minmax"
    """`minmax`: the largest weight ends the grid; `lsq`: steps are learned; `bwn`: binary; `twn`:
    ternary by threshold; `lat`: ternary by alternation under a diagonal Hessian; `lat_exact`: its
    global optimum, by a sort."""
    weight_granularity: Granularity = "row"
    """Which weights share a scale: the `tensor`, an output channel (`row`), or a `group`."""
    weight_group: int = ranged(64, at_least=1, at_most=WIDEST)
    """Columns of one row that share a scale, where a granularity is `group`."""
    weight_init: StepInit = "mean_abs"
    """First steps of `lsq` weights and embeddings: `mean_abs` (as published), `max`, `truncation`
    or `kl` (both KDLSQ-BERT), or `tensorrt`; the last two per tensor only."""
    embedding_quantizer: WeightMethod = "minmax"
    """As `weight_quantizer`, for embeddings."""
    embedding_granularity: Granularity = "row"
    """As `weight_granularity`, for embeddings."""
    outliers: int = ranged(0, identity="if set", at_least=0, at_most=WIDEST)
    """Inputs of a linear layer that stay float with their weights, if that halves the range of the
    others or more (LLM.int8(), arXiv 2208.07339); `minmax` weights only."""
    activation_range: RangeKind = "ema"
    """`minmax`: extremes seen; `ema`: moving average of the extremes of each batch; `percentile`:
    mean of the tail quantiles of each batch; `lsq`: a learned step, see `activation_init`."""
    activation_init: ActivationInit = "percentile"
    """First step of `lsq` activations: the affine `percentile` range, or a grid symmetric about 0
    (from 0 on where no input is negative) by the mean over batches of a rule of `weight_init`;
    `max` takes the largest."""
    ema_decay: float = ranged(0.95, at_least=0, below=1)
    """Weight of the past in the moving average, for `ema`."""
    percentile: float = ranged(99.99, above=50, at_most=100)
    """Percent of the values kept inside on each side, for `percentile` and `lsq`."""
    skip: tuple[str, ...] = text("line", HEADS)
    """Shell patterns; a module stays in float when one matches a dotted part of its name. The
    default leaves all heads of the model's family in float."""
    quantize_embeddings: bool = True
    """Whether embeddings are quantized as well."""
    overrides: dict[str, int] = field(
        default_factory=dict,
        metadata={"identity": "if set", "range": {"at_least": 0, "at_most": 8}},
    )
    """Bits of single linear weights instead of `weight_bits`, by shell patterns of their names:
    `layers.0.ffn_in`, `ffn_*`, or a module's own. 0 prunes the whole weight. A full name goes
    before patterns."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _ = self.weights, self.embeddings  # a `WeightSpec` checks its own values
        if self.overrides and self.weight_quantizer in _WIDTHS:
            raise QualaError(
                f"`overrides` chooses among widths: `weight_quantizer` must be minmax or lsq, got "
                f"{self.weight_quantizer}, which has one."
            )
        if 1 in self.overrides.values():
            raise QualaError("`overrides` must be 0 or 2 to 8 bits, got 1.")
        if self.outliers and self.weight_quantizer != "minmax":
            raise QualaError(
                "`outliers` are taken out of the grid `weight_quantizer=minmax`, got "
                f"{self.weight_quantizer}."
            )
        if self.activation_init not in get_args(ActivationInit):
            raise unknown("activation init", self.activation_init, get_args(ActivationInit))
        if self.activation_range not in get_args(RangeKind):
            raise unknown("activation range", self.activation_range, get_args(RangeKind))

    def weights_at(self, bits: int | None) -> WeightSpec:
        """Return how a linear weight of another width is quantized; None is `weight_bits`."""
        return self.weights if bits is None else replace(self.weights, bits=bits)

    @property
    def revisions(self) -> dict[str, str]:
        """The values that once made something else: `kl` was what `tensorrt` is."""
        learned = "lsq" in (self.weight_quantizer, self.embedding_quantizer)
        clips = (self.weight_init if learned else "", self.activation_init)
        wide = clips if self.activation_range == "lsq" else clips[:1]
        return {"kl": "cumulative"} if "kl" in wide else {}

    @property
    def weights(self) -> WeightSpec:
        """How the weight of a linear layer is quantized."""
        return WeightSpec(
            self.weight_quantizer,
            self.weight_bits,
            self.weight_granularity,
            self.weight_group,
            self.weight_init,
        )

    @property
    def embeddings(self) -> WeightSpec:
        """How an embedding is quantized."""
        return WeightSpec(
            self.embedding_quantizer,
            self.embedding_bits,
            self.embedding_granularity,
            self.weight_group,
            self.weight_init,
            name="embedding",
        )


@dataclass(frozen=True)
class WeightSpec:
    """How one kind of weight is quantized.

    Raises:
        QualaError: for an unknown name, a width that the method does not have, one of `HISTOGRAMS`
            on more than one group, or a group size below 1.
    """

    method: WeightMethod = "minmax"
    bits: int = 8
    """0 for a weight that is pruned as a whole."""
    granularity: Granularity = "row"
    group: int = 64
    """Columns that share a scale, with granularity `group`."""
    init: StepInit = "mean_abs"
    """Where the steps of `lsq` start."""
    name: str = "weight"
    """What errors call it: `<name>_bits` and so on."""

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("quantizer", self.method, get_args(WeightMethod)),
            ("granularity", self.granularity, get_args(Granularity)),
            ("init", self.init, get_args(StepInit)),
        ):
            if value not in allowed:
                raise unknown(f"{self.name} {what}", value, allowed)
        low, high = _WIDTHS.get(self.method, (2, 8))
        if not low <= self.bits <= high and (self.bits or self.name != "weight"):
            widths = f"{low} to {high}" if low < high else f"only {low}"
            raise QualaError(
                f"`{self.name}_bits` is {self.bits}; allowed with "
                f"`{self.name}_quantizer={self.method}`: {widths}."
            )
        if self.group < 1:
            raise QualaError(f"`{self.name}_group` is {self.group}; allowed is 1 or more.")
        if self.method == "lsq" and self.init in HISTOGRAMS and self.granularity != "tensor":
            raise QualaError(
                f"`{self.name}_init={self.init}` got granularity {self.granularity}; allowed is "
                "`tensor`, a row has too few values for a histogram."
            )

    @property
    def top(self) -> int:
        """Largest code of the grid."""
        return top_code(self.bits)

    def groups(self, weight: Tensor) -> Tensor:
        """View `weight` (..., columns) as (..., groups, values); a group shares one scale.

        `tensor` gives (1, 1, all), `row` (..., 1, columns), `group` (..., columns / size, size).

        Raises:
            QualaError: for groups that do not fill the columns.
        """
        if self.granularity == "tensor":
            return weight.reshape(1, 1, -1)
        if self.granularity == "row":
            return weight.unsqueeze(-2)
        columns = weight.shape[-1]
        if columns % self.group:
            raise QualaError(
                f"Groups of {self.group} do not fill the {columns} columns of a weight; "
                "allowed is a `weight_group` that divides them."
            )
        return weight.reshape(*weight.shape[:-1], columns // self.group, self.group)


def top_code(bits: int) -> int:
    """Return the largest code of a symmetric grid: 2^(bits-1) - 1, 1 for one bit, 0 for none."""
    return max(1, (1 << bits - 1) - 1) if bits else 0


def resolved(overrides: Mapping[str, int], sites: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the bits of the sites that `overrides` names; `sites` has all names of each.

    A full name goes before patterns.

    Raises:
        QualaError: for a pattern that names no site, and for two that give a site other bits.
    """
    for pattern in overrides:
        if not any(names_site(names, pattern) for names in sites.values()):
            some = ", ".join([names[0] for names in sites.values()][:3])
            raise QualaError(
                f"`quantizers.overrides` got `{pattern}`, which names no linear layer that is "
                f"rounded; allowed are names and patterns of {some} and so on."
            )
    found: dict[str, int] = {}
    for site, names in sites.items():
        hits = [one for one in overrides if one in names]
        hits = hits or [one for one in overrides if names_site(names, one)]
        if len({overrides[one] for one in hits}) > 1:
            raise QualaError(
                f"`quantizers.overrides` gives `{names[0]}` other bits by `{hits[0]}` than by "
                f"`{hits[-1]}`: give its full name."
            )
        found.update((site, overrides[one]) for one in hits)
    return found


def names_site(names: Sequence[str], pattern: str) -> bool:
    """Tell whether a pattern stands for one of these names, or for its end from a dot on."""
    return any(fnmatchcase(f".{name}", f"*.{pattern}") for name in names)
