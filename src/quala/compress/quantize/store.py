"""An integer model as a folder: config.json, model.safetensors with weights of 1..8 bits per code,
quala.json; no pickle."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.compress.prune.sparse import dense_state
from quala.compress.quantize.integer import IntegerEmbedding, IntegerLinear
from quala.compress.quantize.model import replace
from quala.compress.quantize.packed import integer_layers, packed_state, unpacked_state
from quala.compress.quantize.split import Split, join_halves, split_names
from quala.compress.structure import skeleton
from quala.errors import QualaError

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
        replace(model, name, Split(half, copy.deepcopy(half)))
    for name, levels in plan["linear"].items():
        replace(model, name, _empty_linear(model, name, levels, plan))
    for name in plan["embedding"]:
        replace(model, name, _empty_embedding(model, name, plan))
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


def dequantized_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the float32 weights that an integer `model` stands for, under the original names.

    A plain Hugging Face model of the same config loads them; only the rounding of activations is
    lost. The halves of a `Split` are added up.
    """
    state = dict(model.state_dict())
    for name, layer in integer_layers(model).items():
        owned = [key for key in state if key.rpartition(".")[0] == name]
        for key in owned:
            if not key.endswith(".bias"):
                del state[key]
        state[f"{name}.weight"] = layer.float_weight()
    join_halves(state, split_names(model))
    return state


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
