"""How an integer model is stored: a folder with packed weights, config.json and quala.json."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.compress.low_rank import FactorizedEmbedding, FactorizedLinear
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
from quala.models.load import (
    METADATA_FILE,
    METADATA_FORMAT,
    PACKED,
    read_metadata,
    weights_file,
)
from quala.stored import stored


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return n int8 `codes` as ceil(n bits / 8) bytes, uint8, little-endian, without gaps.

    Codes of `bits` lie in -t..t with t = 2^(bits-1) - 1 and are stored as code + t; one bit holds
    -1 and 1, as 0 and 1, and no bits hold 0.

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
    if not bits:
        return torch.zeros(0, dtype=torch.uint8)
    raised = (flat + 1) // 2 if bits == 1 else flat + top
    bytes_ = raised.to(torch.uint8).numpy()
    stream = np.unpackbits(bytes_[:, np.newaxis], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(stream.reshape(-1), bitorder="little"))


def unpack(packed: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """Return the int8 codes of `shape` that `pack` packed.

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
    if not bits:
        return torch.zeros(tuple(shape), dtype=torch.int8)
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
    if not 0 <= bits <= 8:
        raise QualaError(f"Codes of {bits} bits cannot be packed; allowed are 0 to 8.")


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
    """Return the tensors of a `packed_state` in the shapes of the state of `model`.

    Tensors that are missing or not packed are left as they are.

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


_Module = TypeVar("_Module", bound=nn.Module)


def save_integer(
    model: PreTrainedModel, folder: str | Path, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the integer `model` to `folder`, without a tokenizer; `metadata` joins quala.json.

    Its weights have a name that transformers does not load: it would take the codes for weights.

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
    save_file(packed_state(model), path / PACKED, metadata={"format": "pt"})
    card = {
        **(metadata or {}),
        "format": METADATA_FORMAT,
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
    (path / METADATA_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


_HALVES = (nn.Linear, nn.Embedding, FactorizedLinear, FactorizedEmbedding)


def load_integer(folder: str | Path) -> PreTrainedModel:
    """Read the integer model of `folder`, in eval mode on the CPU.

    Raises:
        QualaError: when a file is missing or foreign, or its tensors do not fit the model.
    """
    path, file = Path(folder), weights_file(folder)
    for name in ("config.json", PACKED, METADATA_FILE):
        if not (file if name == PACKED else path / name).is_file():
            raise QualaError(f"`{path}` is no integer model: it has no {name}.")
    plan = _plan(path)
    model = skeleton(path)
    for name in plan["split"]:
        half = _submodule(model, name, nn.Module)
        if not isinstance(half, _HALVES):
            raise QualaError(f"quala.json splits `{name}`, which is a {type(half).__name__}.")
        model.set_submodule(name, Split(half, copy.deepcopy(half)))
    for name, levels in plan["linear"].items():
        model.set_submodule(name, _empty_linear(model, name, levels, plan))
    for name in plan["embedding"]:
        model.set_submodule(name, _empty_embedding(model, name, plan))
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise QualaError(f"`{file}` is no safetensors file.") from error
    wanted = model.state_dict()
    tensors = unpacked_state(dense_state(tensors, wanted), model)
    _check(wanted, tensors, path)
    model.load_state_dict(tensors)
    model.eval()
    return model


@dataclass(frozen=True)
class _Plan:
    linear: Mapping[str, int]
    embedding: list[str]
    bits: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    outliers: Mapping[str, int] = field(default_factory=dict)
    split: list[str] = field(default_factory=list)


def _plan(folder: Path) -> dict[str, Any]:
    """Return what quala.json says of the integer layers; older versions wrote less."""
    card, file = read_metadata(folder), folder / METADATA_FILE
    if card.get("quantization") is None or card.get("precision") != "int8":
        raise QualaError(f"`{file}` does not describe an int8 model.")
    plan = asdict(stored(_Plan, card["quantization"], file))
    for key, least, most, what in (
        ("linear", 3, 255, "activation levels outside 3 to 255"),
        ("bits", 0, 8, "weight bits outside 0 to 8"),
        ("groups", 1, math.inf, "fewer than one group in a row"),
        ("outliers", 1, math.inf, "fewer than one outlier of a layer"),
    ):
        values = plan[key].values()
        if not all(least <= value <= most for value in values):
            raise QualaError(f"`{file}` names {what}.")
    return plan


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
    outliers = plan["outliers"].get(name, 0)
    if outliers > old.in_features:
        raise QualaError(f"quala.json gives `{name}` {outliers} outliers of {old.in_features}.")
    return IntegerLinear(
        old.in_features,
        old.out_features,
        bias=old.bias is not None,
        levels=levels,
        outliers=outliers,
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
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise QualaError(f"The weights in `{path}` are not all finite: {name}.")
        if (tensor.shape, tensor.dtype) != (wanted[name].shape, wanted[name].dtype):
            raise QualaError(
                f"`{name}` in `{path}` is {tensor.dtype} {tuple(tensor.shape)}; "
                f"the model needs {wanted[name].dtype} {tuple(wanted[name].shape)}."
            )
