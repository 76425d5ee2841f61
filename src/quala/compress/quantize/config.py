"""What to quantize, and how activation ranges are found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from quala.errors import QualaError, unknown

RangeKind = Literal["minmax", "ema", "percentile", "lsq"]


@dataclass(frozen=True)
class QuantizeConfig:
    """Widths and ranges of a quantized encoder.

    Raises:
        QualaError: for a value outside its range.
    """

    weight_bits: int = 8
    """Bits of a linear weight, symmetric per output channel (2 to 8)."""
    activation_bits: int = 8
    """Bits of the input of a linear layer, affine per tensor (2 to 8)."""
    embedding_bits: int = 8
    """Bits of an embedding, symmetric per row (2 to 8)."""
    activation_range: RangeKind = "ema"
    """`minmax`: extremes seen; `ema`: moving average of the extremes of each batch; `percentile`:
    mean of the tail quantiles of each batch; `lsq`: step learned from the percentile range on."""
    ema_decay: float = 0.95
    """Weight of the past in the moving average, for `ema`."""
    percentile: float = 99.99
    """Percent of the values kept inside on each side, for `percentile` and `lsq`."""
    skip: tuple[str, ...] = ("qa_outputs", "classifier", "pre_classifier", "pooler")
    """Shell patterns; a module stays in float when one matches a dotted part of its name."""
    quantize_embeddings: bool = True
    """Whether embeddings become 8-bit rows as well."""

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits", "embedding_bits"):
            if not 2 <= getattr(self, name) <= 8:
                raise QualaError(f"`{name}` is {getattr(self, name)}; allowed are 2 to 8.")
        if self.activation_range not in get_args(RangeKind):
            raise unknown("activation range", self.activation_range, get_args(RangeKind))
        if not 0 <= self.ema_decay < 1:
            raise QualaError(f"`ema_decay` is {self.ema_decay}; allowed is 0 <= decay < 1.")
        if not 50 < self.percentile <= 100:
            raise QualaError(f"`percentile` is {self.percentile}; allowed is above 50, up to 100.")
