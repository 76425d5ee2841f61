"""Small integers as a dense stream of bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from quala.compress.quantize.spec import top_code
from quala.errors import QualaError


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return int8 `codes` as ceil(n bits / 8) bytes, uint8, little-endian, without gaps.

    Codes of `bits` lie in -t..t with t = 2^(bits-1) - 1 and are stored as code + t; one bit holds
    -1 and 1, as 0 and 1.

    Raises:
        QualaError: for another width, or a code that does not fit it.
    """
    _check_width(bits)
    flat = codes.detach().cpu().flatten().to(torch.int16)
    top = top_code(bits)
    misfits = flat.abs() > top
    if bits == 1:
        misfits |= flat == 0
    if misfits.any():
        allowed = "-1 and 1" if bits == 1 else f"{-top} to {top}"
        raise QualaError(
            f"Packing to {bits} bits got the code {int(flat[misfits][0])}; allowed are {allowed}."
        )
    raised = (flat + 1) // 2 if bits == 1 else flat + top
    bytes_ = raised.to(torch.uint8).numpy()
    stream = np.unpackbits(bytes_[:, np.newaxis], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(stream.reshape(-1), bitorder="little"))


def unpack(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """Return the int8 codes of `shape` that `pack` made `packed` of.

    Raises:
        QualaError: for another width, or bytes that do not hold that many codes.
    """
    _check_width(bits)
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or tuple(packed.shape) != (packed_bytes(count, bits),):
        raise QualaError(
            f"{count} codes of {bits} bits are {packed_bytes(count, bits)} bytes, "
            f"got {packed.dtype} {tuple(packed.shape)}."
        )
    stream = np.unpackbits(packed.cpu().numpy(), count=count * bits, bitorder="little")
    raised = np.packbits(stream.reshape(count, bits), axis=1, bitorder="little")
    codes = torch.from_numpy(raised.reshape(tuple(shape))).to(torch.int16)
    top = top_code(bits)
    codes = codes * 2 - 1 if bits == 1 else codes - top
    if (codes > top).any():
        raise QualaError(
            f"Packed codes of {bits} bits hold {int(codes.max())}; the largest is {top}."
        )
    return codes.to(torch.int8)


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes of `count` packed codes."""
    return (count * bits + 7) // 8


def _check_width(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise QualaError(f"Codes of {bits} bits cannot be packed; allowed are 1 to 8.")
