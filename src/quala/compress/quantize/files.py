"""Small integers as a dense stream of bits."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.compress.prune.sparse import dense_state
from quala.compress.quantize.config import top_code
from quala.compress.quantize.integer import (
    IntegerEmbedding,
    IntegerLayer,
    IntegerLinear,
    integer_layers,
)
from quala.compress.quantize.split import Split, split_names
from quala.compress.structure import skeleton
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


def packed_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of an integer `model` with its weights at `bits` per code.

    8-bit weights stay int8 in their shape; narrower ones become uint8 streams of `pack`. A scale
    that is the same for all rows becomes one value.
    """
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    for name, layer in integer_layers(model).items():
        if layer.bits < 8:
            tensors[f"{name}.weight"] = pack(layer.weight, layer.bits)
        key = _scale_name(name, layer)
        scale = tensors[key]
        if scale.dim() == 1 and (scale == scale[0]).all():
            tensors[key] = scale[:1].clone()
    return tensors


def unpacked_state(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return `tensors`, made by `packed_state`, in the shapes of the state of `model`.

    Tensors that are missing or not in the saved form are left as they are.

    Raises:
        QualaError: when a packed weight does not hold the codes of its layer.
    """
    state = dict(tensors)
    for name, layer in integer_layers(model).items():
        weight = state.get(f"{name}.weight")
        if layer.bits < 8 and weight is not None:
            state[f"{name}.weight"] = _unpacked(name, weight, layer)
        key = _scale_name(name, layer)
        if key in state and state[key].shape == (1,):
            state[key] = state[key].expand(layer.weight.shape[0]).clone()
    return state


def _unpacked(name: str, packed: Tensor, layer: IntegerLayer) -> Tensor:
    try:
        return unpack(packed, layer.bits, layer.weight.shape)
    except QualaError as error:
        raise QualaError(f"`{name}.weight` cannot be unpacked: {error}") from error


def _scale_name(name: str, layer: IntegerLayer) -> str:
    return f"{name}.weight_scale" if isinstance(layer, IntegerLinear) else f"{name}.scale"


FORMAT = 1
_Module = TypeVar("_Module", bound=nn.Module)


def save_integer(
    model: PreTrainedModel, folder: str | Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the integer `model` to `folder`; `metadata` joins quala.json. The tokenizer is yours.

    Raises:
        QualaError: when `model` has no integer layer.
    """
    layers = integer_layers(model)
    if not layers:
        raise QualaError("`save_integer` got a model without integer layers; use `to_integer`.")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(path)
    save_file(packed_state(model), path / "model.safetensors", metadata={"format": "pt"})
    card = {
        **(metadata or {}),
        "format": FORMAT,
        "precision": "int8",
        "quantization": {
            "linear": {
                name: layer.levels
                for name, layer in layers.items()
                if isinstance(layer, IntegerLinear)
            },
            "embedding": [n for n, e in layers.items() if isinstance(e, IntegerEmbedding)],
            "bits": {name: layer.bits for name, layer in layers.items() if layer.bits < 8},
            "groups": {name: layer.groups for name, layer in layers.items() if layer.groups > 1},
            "split": split_names(model),
            "outliers": {
                name: len(layer.outliers)
                for name, layer in layers.items()
                if isinstance(layer, IntegerLinear) and layer.outliers is not None
            },
        },
    }
    (path / "quala.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load_integer(folder: str | Path) -> PreTrainedModel:
    """Read the integer model of `folder`, in eval mode on the CPU.

    Raises:
        QualaError: when a file is missing or foreign, or its tensors do not fit the model.
    """
    path = Path(folder)
    for name in ("config.json", "model.safetensors", "quala.json"):
        if not (path / name).is_file():
            raise QualaError(f"`{path}` is no integer model: it has no {name}.")
    plan = _plan(path / "quala.json")
    model = skeleton(path)
    for name in plan["split"]:
        half = _submodule(model, name, nn.Module)
        model.set_submodule(name, Split(half, copy.deepcopy(half)))
    for name, levels in plan["linear"].items():
        model.set_submodule(name, _empty_linear(model, name, levels, plan))
    for name in plan["embedding"]:
        model.set_submodule(name, _empty_embedding(model, name, plan))
    try:
        tensors = load_file(path / "model.safetensors")
    except SafetensorError as error:
        raise QualaError(f"`{path / 'model.safetensors'}` is no safetensors file.") from error
    wanted = model.state_dict()
    tensors = unpacked_state(dense_state(tensors, wanted), model)
    _check(wanted, tensors, path)
    model.load_state_dict(tensors)
    model.eval()
    return model


def _plan(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise QualaError(f"`{path}` is no JSON: {error}.") from error
    plan = card.get("quantization") if isinstance(card, dict) else None
    if not isinstance(plan, dict) or card.get("precision") != "int8":
        raise QualaError(f"`{path}` does not describe an int8 model.")
    if card.get("format") != FORMAT:
        raise QualaError(f"`{path}` has format {card.get('format')}; this version reads {FORMAT}.")
    linear, embedding = plan.get("linear"), plan.get("embedding")
    if not isinstance(linear, dict) or not isinstance(embedding, list):
        raise QualaError(f"`{path}` does not list its quantized layers.")
    if not all(isinstance(levels, int) and 3 <= levels <= 255 for levels in linear.values()):
        raise QualaError(f"`{path}` names activation levels outside 3 to 255.")
    return {**plan, **_packing(plan, path)}


def _packing(plan: Mapping[str, Any], path: Path) -> dict[str, Any]:
    # Folders of older versions have not all of these.
    bits, groups, split = plan.get("bits", {}), plan.get("groups", {}), plan.get("split", [])
    outliers = plan.get("outliers", {})
    if not isinstance(split, list) or not all(
        isinstance(counts, dict) for counts in (bits, groups, outliers)
    ):
        raise QualaError(f"`{path}` lists no packing that this version knows.")
    if not all(isinstance(width, int) and 1 <= width <= 8 for width in bits.values()):
        raise QualaError(f"`{path}` names weight bits outside 1 to 8.")
    if not all(isinstance(count, int) and count >= 1 for count in groups.values()):
        raise QualaError(f"`{path}` names fewer than one group in a row.")
    if not all(isinstance(count, int) and count >= 1 for count in outliers.values()):
        raise QualaError(f"`{path}` names a layer with fewer than one outlier among outliers.")
    return {"bits": bits, "groups": groups, "split": split, "outliers": outliers}


def _widths(plan: Mapping[str, Any], name: str, columns: int) -> dict[str, int]:
    groups = plan["groups"].get(name, 1)
    if columns % groups:
        raise QualaError(
            f"quala.json gives `{name}` {groups} groups, which do not divide "
            f"its {columns} columns."
        )
    return {"bits": plan["bits"].get(name, 8), "groups": groups}


def _submodule(model: nn.Module, name: str, kind: type[_Module]) -> _Module:
    module = dict(model.named_modules()).get(name)
    if not isinstance(module, kind):
        raise QualaError(f"quala.json lists `{name}`, which is no {kind.__name__} of this model.")
    return module


def _empty_linear(
    model: nn.Module, name: str, levels: int, plan: Mapping[str, Any]
) -> IntegerLinear:
    old = _submodule(model, name, nn.Linear)
    return IntegerLinear(
        old.in_features,
        old.out_features,
        bias=old.bias is not None,
        levels=levels,
        outliers=plan["outliers"].get(name, 0),
        **_widths(plan, name, old.in_features),
    )


def _empty_embedding(model: nn.Module, name: str, plan: Mapping[str, Any]) -> IntegerEmbedding:
    old = _submodule(model, name, nn.Embedding)
    widths = _widths(plan, name, old.embedding_dim)
    return IntegerEmbedding(old.num_embeddings, old.embedding_dim, **widths)


def _check(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor], path: Path) -> None:
    missing, foreign = sorted(wanted.keys() - got.keys()), sorted(got.keys() - wanted.keys())
    if missing or foreign:
        raise QualaError(
            f"The weights in `{path}` do not fit: missing {missing[:3] or 'none'}, "
            f"foreign {foreign[:3] or 'none'}."
        )
    for name, tensor in got.items():
        if (tensor.shape, tensor.dtype) != (wanted[name].shape, wanted[name].dtype):
            raise QualaError(
                f"`{name}` in `{path}` is {tensor.dtype} {tuple(tensor.shape)}; "
                f"the model needs {wanted[name].dtype} {tuple(wanted[name].shape)}."
            )
