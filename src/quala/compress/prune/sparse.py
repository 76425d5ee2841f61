"""How matrices with many zeros are saved: one bit per weight, and the weights that are not 0."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from quala.errors import QualaError
from quala.models.load import PACKED, WEIGHTS, weights_file

ENTRY = 256
"""Bytes that one more tensor takes in the header of a file, rounded up."""


def pack_sparse(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bits of the N weights, 1 where a weight is not 0, and the weights that are not 0.

    The bits are ceil(N / 8) bytes, uint8, little-endian; both follow the order in memory. All
    values come back exactly, but a negative zero comes back positive.
    """
    flat = weight.detach().cpu().flatten()
    there = flat != 0
    return torch.from_numpy(np.packbits(there.numpy(), bitorder="little")), flat[there].clone()


def unpack_sparse(bits: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the weight of `shape` that `pack_sparse` packed.

    Raises:
        QualaError: for bytes that do not hold a bit per weight, or another number of values.
    """
    count = math.prod(shape)
    if bits.dtype != torch.uint8 or tuple(bits.shape) != ((count + 7) // 8,):
        raise QualaError(
            f"The bits of {count} weights are {(count + 7) // 8} bytes, "
            f"got {bits.dtype} {tuple(bits.shape)}."
        )
    there = torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=count, bitorder="little"))
    if values.shape != (int(there.sum()),):
        raise QualaError(
            f"The bits name {int(there.sum())} weights, the values are {tuple(values.shape)}."
        )
    weight = values.new_zeros(count)
    weight[there.bool()] = values
    return weight.view(tuple(shape))


def sparse_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `tensors`; a `weight` that it makes smaller becomes `<name>.mask` and `.values`."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight") and _saves(tensor):
            stored[f"{name}.mask"], stored[f"{name}.values"] = pack_sparse(tensor)
        else:
            stored[name] = tensor
    return stored


def dense_state(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the dense tensors of a `sparse_state`; `like` has their shapes.

    Tensors that are not in the sparse form are left as they are.

    Raises:
        QualaError: when the bits or values of a matrix do not fit its shape.
    """
    names = _sparse_names(tensors)
    parts = {f"{name}.{part}" for name in names for part in ("mask", "values")}
    state = {name: tensor for name, tensor in tensors.items() if name not in parts}
    for name in names:
        if name not in like:
            raise QualaError(f"`{name}` is stored with its zeros left out, but no model has it.")
        bits, values = tensors[f"{name}.mask"], tensors[f"{name}.values"]
        try:
            state[name] = unpack_sparse(bits, values, like[name].shape)
        except QualaError as error:
            raise QualaError(f"`{name}` cannot be unpacked: {error}") from error
    return state


def store_sparse(folder: Path) -> None:
    """Rewrite the weights of a saved model as `sparse_state` has them, if that leaves any out."""
    partial, dense = folder / f"{PACKED}.partial", load_file(weights_file(folder))
    stored = sparse_state(dense)
    if stored.keys() == dense.keys():
        return
    # To another file first: the tensors may be mapped from this one.
    save_file(stored, partial, metadata={"format": "pt"})
    partial.replace(folder / PACKED)
    (folder / WEIGHTS).unlink(missing_ok=True)


def is_sparse(source: str | Path) -> bool:
    """Tell whether `source` is a folder with a matrix whose zeros are left out."""
    file = weights_file(source)
    if not file.is_file():
        return False
    try:
        with safe_open(file, "pt") as tensors:
            return bool(_sparse_names(tensors.keys()))
    except SafetensorError:
        return False  # reading the weights will say what is wrong


def _saves(tensor: Tensor) -> bool:
    if tensor.dim() < 2:
        return False
    left_out = tensor.numel() - int(tensor.count_nonzero())
    return left_out * tensor.element_size() - (tensor.numel() + 7) // 8 > ENTRY


def _sparse_names(names: Collection[str]) -> list[str]:
    bare = (name.removesuffix(".mask") for name in names if name.endswith(".weight.mask"))
    return [name for name in bare if f"{name}.values" in names]
