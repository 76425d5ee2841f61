"""Feed-forwards cut into experts by importance, and the tables that route tokens (MoEBERT).

Options are checked before torch is imported, so what changes a model imports it when it runs.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from quala.architecture import MOST_EXPERTS
from quala.errors import QualaError
from quala.ranges import check_ranges, ranged

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedModel

    _Model = TypeVar("_Model", bound=PreTrainedModel)

Routing = Literal["hash_random", "hash_balance"]


@dataclass(frozen=True)
class ExpertsConfig:
    """How each feed-forward is cut into experts (MoEBERT, arXiv 2204.07675).

    Raises:
        QualaError: for values out of range.
    """

    count: int = ranged(4, at_least=1, at_most=MOST_EXPERTS)
    """Experts of each layer; 1 keeps one pruned feed-forward, which routing has to beat."""
    size: float = ranged(0.25, above=0, at_most=1)
    """Share of a layer's neurons that each expert has, and so of the work for a token."""
    shared: float = ranged(0.5, at_least=0, at_most=1)
    """Share of an expert's neurons that all experts start with: the most important ones."""
    routing: Routing = "hash_random"
    """`hash_random` draws the expert of each token id, in each layer anew; `hash_balance` gives
    token ids, the most frequent first, to the expert with the fewest tokens of the train slice."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def neurons(self, intermediate: int) -> tuple[int, int]:
        """Return the neurons of an expert, and how many of them are shared.

        Raises:
            QualaError: for a share that gives no whole number, and for experts that need more
                neurons than a layer has.
        """
        exact = self.size * intermediate
        size = round(exact)
        if not size or abs(exact - size) > 1e-6:
            raise QualaError(
                f"`experts.size` must be a share of the layers' {intermediate} neurons that gives "
                f"a whole number, got {self.size}, which is {exact:g}."
            )
        shared = round(self.shared * size)
        if (needed := shared + self.count * (size - shared)) > intermediate:
            raise QualaError(
                f"{self.count} experts of {size} neurons, {shared} of them shared, need {needed} "
                f"of the layers' {intermediate}: set `experts.count` or `size` lower, or `shared` "
                "higher."
            )
        return size, shared

    def deal(self, order: Sequence[int]) -> list[list[int]]:
        """Return the neurons of each expert, of all neurons in falling importance.

        All have the first ones; the others are dealt out in turn.
        """
        size, shared = self.neurons(len(order))
        first, rest = list(order[:shared]), list(order[shared:])
        return [
            first + rest[expert :: self.count][: size - shared] for expert in range(self.count)
        ]


def route_tables(
    config: ExpertsConfig, *, layers: int, seed: int, counts: NDArray[np.int64]
) -> NDArray[np.int8]:
    """Return the expert of each token id, (layers, vocabulary).

    `counts` (vocabulary,) says how often each token id occurs; only `hash_balance` reads it, with
    one more for each, so that those that do not occur are spread too.
    """
    shape = (layers, len(counts))
    if config.routing == "hash_random":
        drawn = np.random.default_rng(seed).integers(config.count, size=shape, dtype=np.int8)
        return np.asarray(drawn)
    table = np.empty(len(counts), np.int8)
    loads = [(0, expert) for expert in range(config.count)]  # a heap, the lightest first
    for token in np.argsort(-counts, kind="stable"):
        load, expert = loads[0]
        table[token] = expert
        heapq.heapreplace(loads, (load + int(counts[token]) + 1, expert))
    return np.broadcast_to(table, shape).copy()


def cut_experts(
    hf: _Model, config: ExpertsConfig, *, scores: Sequence[Tensor], tables: NDArray[np.int8]
) -> _Model:
    """Return a copy of `hf` with experts for feed-forwards; one expert is an ordinary layer.

    Each expert is the layer pruned to its neurons, biases and LayerNorm included: what is shared
    at the start is trained apart (arXiv 2204.07675, section 3.2).

    Args:
        hf: a float model whose feed-forwards are dense.
        config: the sizes, which must fit each layer.
        scores: the importance of each layer's neurons, (intermediate,) each.
        tables: the expert of each token id, (layers, vocabulary) int8.

    Raises:
        QualaError: for layers that are no dense float ones, and sizes that do not fit them.
    """
    import torch

    from quala.compress.prune.structured import falling_places, keep_units
    from quala.compress.structure import record_structure, set_experts, structure_of

    for number, size in enumerate(structure_of(hf).layers):
        if size.experts or any(size.ranks[4:]):
            kind = "routed" if size.experts else "factorized"
            raise QualaError(
                f"Experts are cut from dense feed-forwards; that of layer {number} is {kind}."
            )
    dealt = [config.deal(order) for order in falling_places(scores)]
    cut = [
        keep_units(hf, neurons=[layer[expert] for layer in dealt])
        for expert in range(config.count)
    ]
    if config.count > 1:
        for layer in range(len(dealt)):
            set_experts(cut[0], layer, cut, torch.from_numpy(tables[layer]))
    return record_structure(cut[0])
