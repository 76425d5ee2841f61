"""Take attention heads and feed-forward neurons out of a model: their weights are gone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

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
from quala.errors import QualaError, unknown
from quala.models.families import family_of

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
    family = family_of(hf)
    for layer, sizes in zip(family.layers(hf), structure_of(hf).layers, strict=True):
        family.set_heads(layer, heads=sizes.heads, size=head_size(hf))


_Batch = TypeVar("_Batch")
Scope = Literal["layer", "global"]


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


def keep_most_important(
    scores: Sequence[Tensor], share: float, *, scope: Scope = "layer"
) -> list[list[int]]:
    """Return for each layer the places that stay, rising; every layer keeps at least one.

    Args:
        scores: heads or neurons of each layer, see `Importance`.
        share: how many stay, above 0 up to 1; rounded to the nearest count.
        scope: `layer` keeps this share of each layer, `global` of all layers together.

    Raises:
        QualaError: for a share out of range, another scope, or scores that are not finite.
    """
    if not 0 < share <= 1:
        raise QualaError(f"`share` must be in (0, 1], got {share}.")
    if scope not in get_args(Scope):
        raise unknown("importance scope", scope, get_args(Scope))
    check_finite(scores)
    ranked = [layer.argsort(descending=True, stable=True).tolist() for layer in scores]
    counts = [max(1, round(share * len(layer))) for layer in scores]
    if scope == "global":
        counts = _global_counts(scores, share)
    return [sorted(order[:count]) for order, count in zip(ranked, counts, strict=True)]


def check_finite(scores: Sequence[Tensor]) -> None:
    """Raise QualaError for scores that cannot be ranked."""
    if not all(bool(layer.isfinite().all()) for layer in scores):
        raise QualaError("Importance must be finite; the gradients hold NaN or infinity.")


# What reads the heads, and what reads the neurons.
_PARTS = ("attention_out", "ffn_out")


def _reader(hf: PreTrainedModel, name: str) -> Tensor:
    linear = float_linear(hf, name)
    return linear.down.weight if isinstance(linear, FactorizedLinear) else linear.weight


def _global_counts(scores: Sequence[Tensor], share: float) -> list[int]:
    """Count what each layer keeps of the best of all; its own best one is not contested."""
    spare = max(0, round(share * sum(len(layer) for layer in scores)) - len(scores))
    rest = [layer.sort(descending=True).values[1:] for layer in scores]
    owner = torch.cat([torch.full((len(layer),), i) for i, layer in enumerate(rest)])
    best = torch.cat([*rest]).argsort(descending=True, stable=True)[:spare].to(owner.device)
    counts: list[int] = (1 + owner[best].bincount(minlength=len(scores))).tolist()
    return counts


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
