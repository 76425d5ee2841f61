"""How one kind of weight is quantized: plain facts, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from quala.compress.quantize.granularity import Granularity, to_groups
from quala.errors import QualaError, unknown

if TYPE_CHECKING:
    from torch import Tensor

StepInit = Literal["mean_abs", "max", "truncation", "kl"]
WeightMethod = Literal["minmax", "lsq", "bwn", "twn", "lat", "lat_exact"]
TERNARY = ("twn", "lat", "lat_exact")
LOSS_AWARE = ("lat", "lat_exact")
_WIDTHS = {"bwn": (1, 1), **dict.fromkeys(TERNARY, (2, 2))}


def top_code(bits: int) -> int:
    """Return the largest code of a symmetric grid: 2^(bits-1) - 1, and 1 for one bit."""
    return max(1, (1 << bits - 1) - 1)


@dataclass(frozen=True)
class WeightSpec:
    """How one kind of weight is quantized.

    Raises:
        QualaError: for an unknown name, a width that the method does not have, `kl` on more than
            one group, or a group size below 1.
    """

    method: WeightMethod = "minmax"
    bits: int = 8
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
        if not low <= self.bits <= high:
            widths = f"{low} to {high}" if low < high else f"only {low}"
            raise QualaError(
                f"`{self.name}_bits` is {self.bits}; allowed with "
                f"`{self.name}_quantizer={self.method}`: {widths}."
            )
        if self.group < 1:
            raise QualaError(f"`{self.name}_group` is {self.group}; allowed is 1 or more.")
        if self.method == "lsq" and self.init == "kl" and self.granularity != "tensor":
            raise QualaError(
                f"`{self.name}_init=kl` got granularity {self.granularity}; allowed is `tensor`, "
                "a row has too few values for a histogram."
            )

    @property
    def top(self) -> int:
        """Largest code of the grid."""
        return top_code(self.bits)

    def groups(self, weight: Tensor) -> Tensor:
        """View `weight` (..., columns) as (..., groups, values)."""
        return to_groups(weight, self.granularity, self.group)
