"""First-order Taylor importance of attention heads and feed-forward neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from quala.compress.factorise.layers import FactorisedLinear
from quala.compress.structure import float_linear, head_size, linear_names, structure_of
from quala.errors import QualaError, unknown

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
        hf: a float model, dense or factorised.
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
    return linear.down.weight if isinstance(linear, FactorisedLinear) else linear.weight


def _global_counts(scores: Sequence[Tensor], share: float) -> list[int]:
    """Count what each layer keeps of the best of all; its own best one is not contested."""
    spare = max(0, round(share * sum(len(layer) for layer in scores)) - len(scores))
    rest = [layer.sort(descending=True).values[1:] for layer in scores]
    owner = torch.cat([torch.full((len(layer),), i) for i, layer in enumerate(rest)])
    best = torch.cat([*rest]).argsort(descending=True, stable=True)[:spare].to(owner.device)
    counts: list[int] = (1 + owner[best].bincount(minlength=len(scores))).tolist()
    return counts
