"""Lightweight layer reduction (XTC, arXiv 2206.01859): a student made of its teacher's layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

from transformers import PreTrainedModel

from quala.architecture import KEY
from quala.compress.structure import record_structure
from quala.errors import QualaError
from quala.models.families import family_of

_Model = TypeVar("_Model", bound=PreTrainedModel)


def keep_layers(hf: _Model, layers: Sequence[int]) -> _Model:
    """Return a copy of `hf` with only these encoder layers; embeddings and heads are copied too.

    Args:
        hf: a model of a supported family, with any head.
        layers: rising layer numbers from 0, see `layers_to_keep`.

    Raises:
        QualaError: for a model of another family, or layers that it does not have.
    """
    family = family_of(hf)
    depth = len(family.layers(hf))
    kept = list(layers)
    if not kept or kept != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < depth:
        raise QualaError(f"`layers` must rise within 0 to {depth - 1}, got {kept}.")
    small = copy.deepcopy(hf)
    stack = family.layers(small)
    for layer in reversed(range(depth)):
        if layer not in kept:
            del stack[layer]
    setattr(small.config, family.facts.keys["layers"], len(kept))
    if hasattr(small.config, KEY):  # the layers were pruned or factorized before
        record_structure(small)
    for place, kept_layer in enumerate(stack):
        for module in kept_layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place  # type: ignore[assignment]
    return small
