"""Take attention heads and feed-forward neurons out of a model: their weights are gone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.compress.structure import (
    AnyLinear,
    FactorizedLinear,
    float_linear,
    head_size,
    linear_names,
    record_structure,
    structure_of,
)
from quala.errors import QualaError

_Model = TypeVar("_Model", bound=PreTrainedModel)
Places = Sequence[Sequence[int]]


def keep_units(
    hf: _Model, *, heads: Places | None = None, neurons: Places | None = None
) -> _Model:
    """Return a copy of `hf` with only these heads and neurons, in the order given.

    A head's rows leave query, key and value and its columns the attention's output; a neuron's
    row leaves the first feed-forward matrix and its column the second. The result computes what
    `hf` does with the others' outputs at zero.

    Args:
        hf: a float BERT, RoBERTa, XLM-R, ELECTRA or DistilBERT model, dense or factorized.
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
    last = linear.up if isinstance(linear, FactorizedLinear) else linear
    last.weight = _taken(last.weight, rows, 0)
    if last.bias is not None:
        last.bias = _taken(last.bias, rows, 0)
    last.out_features = len(rows)


def _keep_inputs(linear: AnyLinear, columns: Tensor) -> None:
    first = linear.down if isinstance(linear, FactorizedLinear) else linear
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


_Batch = TypeVar("_Batch")


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """Scores of the heads (heads_i,) and of the neurons (intermediate_i,) of each layer."""

    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]

    def check(self, hf: PreTrainedModel) -> None:
        """Raise QualaError unless there is one score for each head and neuron of `hf`."""
        got = [(len(h), len(n)) for h, n in zip(self.heads, self.neurons, strict=True)]
        wanted = [(size.heads, size.intermediate) for size in structure_of(hf).layers]
        if got != wanted:
            raise QualaError(f"Importance is of (heads, neurons) {got}, the model has {wanted}.")


def taylor_importance(
    hf: PreTrainedModel, batches: Iterable[_Batch], loss: Callable[[_Batch], Tensor]
) -> Importance:
    """Return sum over batches of |sum grad w| over the weights that read a head or a neuron.

    With a mask m on the output of a head or a neuron, sum grad w over the columns that read it
    is dL/dm exactly, so the score is the first-order change of the loss when it is removed
    (arXiv 1611.06440; heads as arXiv 1905.10650). No gradient is left on the model; train or
    eval mode is the caller's.

    Args:
        hf: a float model, dense or factorized.
        batches: what `loss` reads; smaller batches make the absolute value finer.
        loss: runs `hf` on one batch and returns its mean loss, a scalar.

    Raises:
        QualaError: for a quantized model, or no batch.
    """
    names, size = linear_names(hf), head_size(hf)
    readers = [_reader(hf, layer[part]) for part in _PARTS for layer in names]
    scores = [weight.new_zeros(weight.shape[1]) for weight in readers]
    seen = 0
    for batch in batches:
        seen += 1
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(batch), readers)
        for place, (weight, gradient) in enumerate(zip(readers, gradients, strict=True)):
            change = (weight.detach() * gradient).sum(dim=0)  # (inputs,)
            if place < len(names):
                change = change.unflatten(0, (-1, size)).sum(dim=1)  # (heads,)
            scores[place] = scores[place][: len(change)] + change.abs()
    if not seen:
        raise QualaError("Importance needs at least one batch, got none.")
    return Importance(tuple(scores[: len(names)]), tuple(scores[len(names) :]))


# What reads the heads, and what reads the neurons.
_PARTS = ("attention_out", "ffn_out")


def _reader(hf: PreTrainedModel, name: str) -> Tensor:
    linear = float_linear(hf, name)
    return linear.down.weight if isinstance(linear, FactorizedLinear) else linear.weight


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
    if not all(bool(layer.isfinite().all()) for layer in scores):
        raise QualaError("Importance must be finite; the gradients hold NaN or infinity.")
    return [layer.argsort(descending=True, stable=True).tolist() for layer in scores]
