from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from quala.compress.quantize.files import pack, packed_bytes, unpack
from quala.errors import QualaError


def _codes(bits: int, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if bits == 1:
        return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(torch.int8)
    top = 2 ** (bits - 1) - 1
    return torch.randint(-top, top + 1, shape, generator=generator).to(torch.int8)


def _slow(codes: Tensor, bits: int) -> list[int]:
    """Return the bytes by one long binary number, its lowest bits first."""
    number = 0
    for place, code in enumerate(codes.flatten().tolist()):
        raised = (code + 1) // 2 if bits == 1 else code + 2 ** (bits - 1) - 1
        number |= raised << place * bits
    return list(number.to_bytes((codes.numel() * bits + 7) // 8, "little"))


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_any_shape_come_back(bits: int) -> None:
    draw = random.Random(bits)
    for seed in range(40):
        shape = [draw.randint(1, 9) for _ in range(draw.randint(1, 3))]
        codes = _codes(bits, *shape, seed=seed)
        packed = pack(codes, bits)
        assert packed.dtype == torch.uint8
        assert packed.numel() == -(-codes.numel() * bits // 8) == packed_bytes(codes.numel(), bits)
        assert torch.equal(unpack(packed, bits, shape), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_stream_is_one_long_binary_number(bits: int) -> None:
    codes = _codes(bits, 5, 7)
    assert pack(codes, bits).tolist() == _slow(codes, bits)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_ends_of_the_grid_come_back(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    codes = torch.tensor([-top, 0, top], dtype=torch.int8)
    assert torch.equal(unpack(pack(codes, bits), bits, (3,)), codes)


@pytest.mark.parametrize(("bits", "code"), [(1, 0), (1, 2), (2, 2), (4, -8), (8, -128)])
def test_a_code_that_does_not_fit_is_named(bits: int, code: int) -> None:
    with pytest.raises(QualaError, match=f"code {code};"):
        pack(torch.tensor([1, code, -1], dtype=torch.int8), bits)


@pytest.mark.parametrize("bits", [0, 9])
def test_another_width_is_refused(bits: int) -> None:
    with pytest.raises(QualaError, match="1 to 8"):
        pack(torch.ones(3, dtype=torch.int8), bits)
    with pytest.raises(QualaError, match="1 to 8"):
        unpack(torch.ones(3, dtype=torch.uint8), bits, (3,))


@pytest.mark.parametrize(
    "packed", [torch.zeros(2, dtype=torch.uint8), torch.zeros(3), torch.zeros(1, 3).byte()]
)
def test_bytes_of_another_number_or_type_are_refused(packed: Tensor) -> None:
    with pytest.raises(QualaError, match="10 codes of 2 bits are 3 bytes"):
        unpack(packed, 2, (2, 5))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bytes_beyond_the_grid_are_refused(bits: int) -> None:
    with pytest.raises(QualaError, match="the largest is"):
        unpack(torch.full((bits,), 255, dtype=torch.uint8), bits, (8,))
