from __future__ import annotations

import pytest
import torch

from quala.compress.quantize.config import to_groups
from quala.errors import QualaError

WEIGHT = torch.arange(24.0).reshape(4, 6)


def test_a_tensor_is_one_group() -> None:
    assert torch.equal(to_groups(WEIGHT, "tensor", 1), WEIGHT.reshape(1, 1, 24))


def test_a_row_is_one_group() -> None:
    assert to_groups(WEIGHT, "row", 1)[2, 0].tolist() == [12, 13, 14, 15, 16, 17]


def test_groups_are_neighbouring_columns_of_one_row() -> None:
    groups = to_groups(WEIGHT, "group", 2)
    assert groups.shape == (4, 3, 2)
    assert groups[1, 2].tolist() == [10, 11]


@pytest.mark.parametrize("size", [0, 4, 12])
def test_groups_must_fill_the_columns(size: int) -> None:
    with pytest.raises(QualaError, match=f"{size} do not fill the 6 columns"):
        to_groups(WEIGHT, "group", size)


def test_another_granularity_is_refused() -> None:
    with pytest.raises(QualaError, match="tensor"):
        to_groups(WEIGHT, "tensors", 1)  # type: ignore[arg-type]
