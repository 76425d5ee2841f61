"""An integer model's tensors as they are saved: codes at their width, constant scales once."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from quala.compress.quantize.integer import IntegerEmbedding, IntegerLinear
from quala.compress.quantize.packing import pack, unpack
from quala.errors import QualaError

IntegerLayer = IntegerLinear | IntegerEmbedding


def integer_layers(model: nn.Module) -> dict[str, IntegerLayer]:
    """Return the integer layers of `model` by name, in module order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (IntegerLinear, IntegerEmbedding))
    }


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
