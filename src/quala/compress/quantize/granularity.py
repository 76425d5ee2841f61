"""Which values of a weight share one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from quala.errors import QualaError, unknown

if TYPE_CHECKING:
    from torch import Tensor

Granularity = Literal["tensor", "row", "group"]


def to_groups(weight: Tensor, granularity: Granularity, size: int) -> Tensor:
    """View `weight` (..., columns) as (..., groups, values), one scale for each last dimension.

    `tensor` gives (1, 1, all), `row` (..., 1, columns), `group` (..., columns / size, size).

    Raises:
        QualaError: for another granularity, or groups of `size` that do not fill the columns.
    """
    if granularity not in get_args(Granularity):
        raise unknown("granularity", granularity, get_args(Granularity))
    if granularity == "tensor":
        return weight.reshape(1, 1, -1)
    if granularity == "row":
        return weight.unsqueeze(-2)
    columns = weight.shape[-1]
    if size < 1 or columns % size:
        raise QualaError(
            f"Groups of {size} do not fill the {columns} columns of a weight; "
            "allowed is a `weight_group` that divides them."
        )
    return weight.reshape(*weight.shape[:-1], columns // size, size)
