"""Lightweight layer reduction (XTC, arXiv 2206.01859): a student made of its teacher's layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

from torch import nn
from transformers import PreTrainedModel

from quala.architecture import KEY
from quala.compress.structure import record_structure
from quala.errors import QualaError

_STACKS = ("encoder.layer", "transformer.layer")
_Model = TypeVar("_Model", bound=PreTrainedModel)


def keep_layers(hf: _Model, layers: Sequence[int]) -> _Model:
    """Return a copy of `hf` with only these encoder layers; embeddings and heads are copied too.

    Args:
        hf: a BERT, RoBERTa, XLM-R, ELECTRA or DistilBERT model, with any head.
        layers: rising layer numbers from 0, see `layers_to_keep`.

    Raises:
        QualaError: for a model without such a stack, or layers that it does not have.
    """
    path = _stack(hf)
    depth = len(_layers(hf, path))
    kept = list(layers)
    if not kept or kept != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < depth:
        raise QualaError(f"`layers` must rise within 0 to {depth - 1}, got {kept}.")
    small = copy.deepcopy(hf)
    parent, _, leaf = path.rpartition(".")
    stack = nn.ModuleList(_layers(small, path)[i] for i in kept)
    setattr(small.base_model.get_submodule(parent), leaf, stack)
    small.config.num_hidden_layers = len(kept)
    if hasattr(small.config, KEY):  # the layers were pruned or factorized before
        record_structure(small)
    for place, layer in enumerate(stack):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place  # type: ignore[assignment]
    return small


def _stack(hf: PreTrainedModel) -> str:
    names = {name for name, _ in hf.base_model.named_modules()}
    for path in _STACKS:
        if path in names:
            return path
    raise QualaError(f"`{type(hf).__name__}` has no encoder layers at {' or '.join(_STACKS)}.")


def _layers(hf: PreTrainedModel, path: str) -> nn.ModuleList:
    stack = hf.base_model.get_submodule(path)
    if not isinstance(stack, nn.ModuleList):
        raise QualaError(f"`{path}` of `{type(hf).__name__}` is no list of layers.")
    return stack
