"""Importance-sorted width (DynaBERT, arXiv 2004.04037): any width is a prefix of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from quala.compress.prune.structured import keep_units
from quala.compress.prune.taylor import Importance, check_finite
from quala.compress.structure import structure_of
from quala.errors import QualaError

_Model = TypeVar("_Model", bound=PreTrainedModel)


def sort_width(hf: _Model, importance: Importance) -> _Model:
    """Return a copy of `hf`, the same function, with heads and neurons in falling importance.

    Raises:
        QualaError: for a quantized model, and scores of another model or not finite.
    """
    importance.check(hf)
    heads, neurons = (falling_places(one) for one in (importance.heads, importance.neurons))
    return keep_units(hf, heads=heads, neurons=neurons)


def subnetwork(hf: _Model, width: float) -> _Model:
    """Return a copy of the first round(width heads) heads and neurons of each layer, at least one.

    Meant for a model that `sort_width` returned; the hidden size stays.

    Raises:
        QualaError: for a width outside 0 (excluded) to 1, or a quantized model.
    """
    if not 0 < width <= 1:
        raise QualaError(f"`width` must be in (0, 1], got {width}.")
    layers = structure_of(hf).layers
    return keep_units(
        hf,
        heads=[range(max(1, round(width * layer.heads))) for layer in layers],
        neurons=[range(max(1, round(width * layer.intermediate))) for layer in layers],
    )


def falling_places(scores: Sequence[Tensor]) -> list[list[int]]:
    """Return for each layer the places of its heads or neurons, the most important first.

    Raises:
        QualaError: for scores that are not finite.
    """
    check_finite(scores)
    return [layer.argsort(descending=True, stable=True).tolist() for layer in scores]
