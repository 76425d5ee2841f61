"""Which attention heads and feed-forward neurons matter, and a smaller model without the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.compress.low_rank import AnyLinear, ends
from quala.compress.quantize.integer import IntegerLinear
from quala.compress.structure import (
    check_sizes,
    float_linear,
    forget_structures,
    head_size,
    keep_layers,
    linear_names,
    record_structure,
    structure_of,
)
from quala.errors import QualaError
from quala.lengths import Layers, Units, layers_name
from quala.models.families import family_of

_Model = TypeVar("_Model", bound=PreTrainedModel)
_Batch = TypeVar("_Batch")
Places = Sequence[Sequence[int]]


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
    is dL/dm exactly. So the score is the first-order change of the loss when the unit is removed
    (arXiv 1611.06440; heads as arXiv 1905.10650). DynaBERT's code (arXiv 2004.04037) adds the same
    of the weights and the bias that make a neuron; the ranks correlate at .94. No gradient is left
    on the model. The caller chooses train or eval mode.

    Args:
        hf: a float model, dense or factorized.
        batches: inputs of `loss`; the absolute value is taken per batch, so small ones are better.
        loss: runs `hf` on one batch and returns its mean loss, a scalar.

    Raises:
        QualaError: for a quantized model, or no batch.
    """
    names, size = linear_names(hf), head_size(hf)
    readers = [
        ends(float_linear(hf, layer[part]))[0].weight
        for part in ("attention_out", "ffn_out")  # the first reads heads, the second neurons
        for layer in names
    ]
    scores = [weight.new_zeros(()) for weight in readers]
    seen = 0
    for batch in batches:
        seen += 1
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(batch), readers)
        for place, (weight, gradient) in enumerate(zip(readers, gradients, strict=True)):
            change = (weight.detach() * gradient).sum(dim=0)  # (inputs,)
            if place < len(names):
                change = change.unflatten(0, (-1, size)).sum(dim=1)  # (heads,)
            scores[place] = scores[place] + change.abs()
    if not seen:
        raise QualaError("Importance needs at least one batch, got none.")
    return Importance(tuple(scores[: len(names)]), tuple(scores[len(names) :]))


def sort_width(hf: _Model, importance: Importance) -> _Model:
    """Return a copy of `hf`, the same function, with heads and neurons in falling importance.

    Raises:
        QualaError: for a quantized model, and scores of another model or not finite.
    """
    importance.check(hf)
    heads, neurons = (falling_places(one) for one in (importance.heads, importance.neurons))
    return keep_units(hf, heads=heads, neurons=neurons)


def extract(hf: _Model, layers: Layers) -> _Model:
    """Return a copy of `hf` with the first heads and neurons of each layer, as a model of its own.

    Call it on a model that `sort_width` returned, float or of integers. The hidden size stays;
    layers that are None are left out, and empty `layers` keep all.

    Raises:
        QualaError: for more units than a layer has, and where integers cannot be cut: groups of
            columns that a prefix would divide, or layers that were split.
    """
    whole = units_of(hf)
    check_units(layers, whole)
    kept = layers or whole
    stay = [layer for layer, units in enumerate(kept) if units is not None]
    small = keep_layers(hf, stay) if len(stay) < len(whole) else copy.deepcopy(hf)
    forget_structures(small)
    wanted = [units for units in kept if units is not None]
    cut = [units for units, had in zip(kept, whole, strict=True) if units not in (None, had)]
    if not cut:
        return small
    return _keep_units(
        small,
        heads=[range(units.heads) for units in wanted],
        neurons=[range(units.neurons) for units in wanted],
        linear_of=narrow_linear,
    )


def units_of(hf: PreTrainedModel) -> tuple[Units, ...]:
    """Return the heads and neurons of each layer."""
    return tuple(Units(size.heads, size.intermediate) for size in structure_of(hf).layers)


def check_units(layers: Layers, whole: Sequence[Units]) -> None:
    """Raise QualaError for layers that are not prefixes of those of a model."""
    if layers and len(layers) != len(whole):
        raise QualaError(f"Expected units of {len(whole)} layers, got {len(layers)}.")
    for units, most in zip(layers, whole, strict=False):
        if units and (units.heads > most.heads or units.neurons > most.neurons):
            raise QualaError(
                f"A sub-network keeps at most {layers_name(tuple(whole))}, got "
                f"{layers_name(layers)}."
            )


def falling_places(scores: Sequence[Tensor]) -> list[list[int]]:
    """Return for each layer the places of its heads or neurons, the most important first.

    Raises:
        QualaError: for scores that are not finite.
    """
    if not all(bool(layer.isfinite().all()) for layer in scores):
        raise QualaError("Importance must be finite; the gradients hold NaN or infinity.")
    return [layer.argsort(descending=True, stable=True).tolist() for layer in scores]


def keep_units(
    hf: _Model, *, heads: Places | None = None, neurons: Places | None = None
) -> _Model:
    """Return a copy of `hf` with only these heads and neurons, in the order given.

    A removed head loses its rows in query, key and value, and its columns in the attention's
    output. A removed neuron loses its row in the first feed-forward matrix and its column in the
    second. The result computes what `hf` does with the outputs of removed units at zero.

    Args:
        hf: a float model, dense or factorized.
        heads: for each layer the heads to keep, numbered from 0; None keeps all.
        neurons: for each layer the neurons to keep, numbered from 0; None keeps all.

    Raises:
        QualaError: for a quantized model, and for a layer that keeps none, the same one twice,
            or one that it does not have.
    """
    return _keep_units(copy.deepcopy(hf), heads=heads, neurons=neurons, linear_of=float_linear)


def _keep_units(
    small: _Model,
    *,
    heads: Places | None,
    neurons: Places | None,
    linear_of: Callable[[PreTrainedModel, str], AnyLinear | IntegerLinear],
) -> _Model:
    """Cut a model in place, as `keep_units` says; `linear_of` returns what can be cut."""
    facts = family_of(small).facts
    forget_structures(small)
    layers, size = structure_of(small).layers, head_size(small)
    if heads is not None:
        _check("heads", heads, [layer.heads for layer in layers])
        check_heads(small, heads)
    if neurons is not None:
        _check("neurons", neurons, [layer.intermediate for layer in layers])
    for number, names in enumerate(linear_names(small)):
        linears = {part: linear_of(small, name) for part, name in names.items()}
        if heads is not None:
            places = torch.tensor(list(heads[number]))
            rows = (places[:, None] * size + torch.arange(size)).flatten()  # (heads size,)
            if facts.packed:
                _keep_outputs(linears["query"], _each(rows, 3, layers[number].heads * size))
            else:
                for part in ("query", "key", "value"):
                    _keep_outputs(linears[part], rows)
            _keep_inputs(linears["attention_out"], rows)
        if neurons is not None:
            places = torch.tensor(list(neurons[number]))
            outputs = 2 if facts.gated else 1
            _keep_outputs(linears["ffn_in"], _each(places, outputs, layers[number].intermediate))
            _keep_inputs(linears["ffn_out"], places)
    family = family_of(small)
    for block, sizes in zip(family.layers(small), structure_of(small).layers, strict=True):
        family.set_heads(block, heads=sizes.heads, size=size)  # transformers stores the counts
    return record_structure(small)


def check_heads(hf: PreTrainedModel, heads: Places) -> None:
    """Raise QualaError for heads to keep where the family has a reason to keep all in order."""
    whole = [list(range(layer.heads)) for layer in structure_of(hf).layers]
    if [list(kept) for kept in heads] != whole:
        family_of(hf).check_width()


def _check(what: str, places: Places, counts: Sequence[int]) -> None:
    if len(places) != len(counts):
        raise QualaError(f"`{what}` needs {len(counts)} lists, one per layer, got {len(places)}.")
    for layer, (kept, count) in enumerate(zip(places, counts, strict=True)):
        if not kept or len(set(kept)) != len(kept) or not 0 <= min(kept) <= max(kept) < count:
            raise QualaError(
                f"Layer {layer} must keep different {what} within 0 to {count - 1}, "
                f"got {list(kept)[:8]}."
            )


def _each(places: Tensor, blocks: int, width: int) -> Tensor:
    """Return the same places in each of several blocks of this width."""
    return (torch.arange(blocks)[:, None] * width + places).flatten()


def narrow_linear(hf: PreTrainedModel, name: str) -> AnyLinear | IntegerLinear:
    """Return a linear layer, float or of integers, whose size may be changed."""
    module = hf.get_submodule(name)
    if isinstance(module, IntegerLinear):
        check_sizes(hf)
        return module
    return float_linear(hf, name)


def _keep_outputs(linear: AnyLinear | IntegerLinear, rows: Tensor) -> None:
    last: nn.Linear | IntegerLinear
    last = linear if isinstance(linear, IntegerLinear) else ends(linear)[1]
    if isinstance(last, IntegerLinear):  # one factor of two may be, too
        return last.keep_outputs(rows)
    last.weight = _taken(last.weight, rows, 0)
    if last.bias is not None:
        last.bias = _taken(last.bias, rows, 0)
    last.out_features = len(rows)


def _keep_inputs(linear: AnyLinear | IntegerLinear, columns: Tensor) -> None:
    first: nn.Linear | IntegerLinear
    first = linear if isinstance(linear, IntegerLinear) else ends(linear)[0]
    if isinstance(first, IntegerLinear):
        return first.keep_inputs(columns)
    first.weight = _taken(first.weight, columns, 1)
    first.in_features = len(columns)


def _taken(weight: Tensor, places: Tensor, dim: int) -> nn.Parameter:
    values = weight.detach().index_select(dim, places.to(weight.device))
    return nn.Parameter(values, requires_grad=weight.requires_grad)
