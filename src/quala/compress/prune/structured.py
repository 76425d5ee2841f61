"""Take attention heads and feed-forward neurons out of a model: their weights are gone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.compress.factorise.layers import FactorisedLinear
from quala.compress.prune.taylor import Importance, Scope, keep_most_important
from quala.compress.structure import (
    AnyLinear,
    float_linear,
    head_size,
    linear_names,
    record_structure,
    structure_of,
)
from quala.errors import QualaError

_Model = TypeVar("_Model", bound=PreTrainedModel)
Places = Sequence[Sequence[int]]


@dataclass(frozen=True)
class PruneConfig:
    """Which share of heads and neurons stays.

    Raises:
        QualaError: for a share outside 0 (excluded) to 1.
    """

    heads: float = 1.0
    """Share of the attention heads that stay; each layer keeps at least one."""
    neurons: float = 1.0
    """Share of the feed-forward neurons that stay; each layer keeps at least one."""
    scope: Scope = "layer"
    """`layer`: the same share of each layer; `global`: of all layers together."""

    def __post_init__(self) -> None:
        for name in ("heads", "neurons"):
            if not 0 < getattr(self, name) <= 1:
                raise QualaError(f"`{name}` is {getattr(self, name)}; allowed is (0, 1].")


def prune(hf: _Model, importance: Importance, config: PruneConfig) -> _Model:
    """Return a copy of `hf` with only its most important heads and neurons.

    Raises:
        QualaError: for a quantized model, and scores of another model or not finite.
    """
    importance.check(hf)
    heads = keep_most_important(importance.heads, config.heads, scope=config.scope)
    neurons = keep_most_important(importance.neurons, config.neurons, scope=config.scope)
    return keep_units(hf, heads=heads, neurons=neurons)


def keep_units(
    hf: _Model, *, heads: Places | None = None, neurons: Places | None = None
) -> _Model:
    """Return a copy of `hf` with only these heads and neurons, in the order given.

    A head's rows leave query, key and value and its columns the attention's output; a neuron's
    row leaves the first feed-forward matrix and its column the second. The result computes what
    `hf` does with the others' outputs at zero.

    Args:
        hf: a float BERT, RoBERTa, XLM-R, ELECTRA or DistilBERT model, dense or factorised.
        heads: for each layer places among its present heads; None keeps all.
        neurons: for each layer places among its present neurons; None keeps all.

    Raises:
        QualaError: for a quantized model, and unless each layer keeps one or more different
            places that it has.
    """
    small = copy.deepcopy(hf)
    layers, size = structure_of(hf).layers, head_size(hf)
    if heads is not None:
        _check("heads", heads, [layer.heads for layer in layers])
    if neurons is not None:
        _check("neurons", neurons, [layer.intermediate for layer in layers])
    for number, names in enumerate(linear_names(small)):
        linears = {part: float_linear(small, name) for part, name in names.items()}
        if heads is not None:
            rows = _head_rows(heads[number], size)
            for part in ("query", "key", "value"):
                _keep_outputs(linears[part], rows)
            _keep_inputs(linears["attention_out"], rows)
        if neurons is not None:
            places = torch.tensor(list(neurons[number]))
            _keep_outputs(linears["ffn_in"], places)
            _keep_inputs(linears["ffn_out"], places)
    _set_head_counts(small)
    return record_structure(small)


def _check(what: str, places: Places, counts: Sequence[int]) -> None:
    if len(places) != len(counts):
        raise QualaError(f"`{what}` needs {len(counts)} lists, one per layer, got {len(places)}.")
    for layer, (kept, count) in enumerate(zip(places, counts, strict=True)):
        if not kept or len(set(kept)) != len(kept) or not 0 <= min(kept) <= max(kept) < count:
            raise QualaError(
                f"Layer {layer} must keep different {what} within 0 to {count - 1}, "
                f"got {list(kept)[:8]}."
            )


def _head_rows(heads: Sequence[int], size: int) -> Tensor:
    """Return the rows of these heads in a projection: (heads size,)."""
    return (torch.tensor(list(heads))[:, None] * size + torch.arange(size)).flatten()


def _keep_outputs(linear: AnyLinear, rows: Tensor) -> None:
    last = linear.up if isinstance(linear, FactorisedLinear) else linear
    last.weight = _taken(last.weight, rows, 0)
    if last.bias is not None:
        last.bias = _taken(last.bias, rows, 0)
    last.out_features = len(rows)


def _keep_inputs(linear: AnyLinear, columns: Tensor) -> None:
    first = linear.down if isinstance(linear, FactorisedLinear) else linear
    first.weight = _taken(first.weight, columns, 1)
    first.in_features = len(columns)


def _taken(weight: Tensor, places: Tensor, dim: int) -> nn.Parameter:
    values = weight.detach().index_select(dim, places.to(weight.device))
    return nn.Parameter(values, requires_grad=weight.requires_grad)


def _set_head_counts(hf: PreTrainedModel) -> None:
    """Keep the numbers that transformers' attention modules carry true."""
    for names, layer in zip(linear_names(hf), structure_of(hf).layers, strict=True):
        attention = hf.get_submodule(names["query"].rpartition(".")[0])
        for name, value in (
            ("num_attention_heads", layer.heads),
            ("n_heads", layer.heads),
            ("all_head_size", layer.heads * head_size(hf)),
        ):
            if hasattr(attention, name):
                setattr(attention, name, value)
