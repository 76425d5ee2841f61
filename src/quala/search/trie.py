"""One batch, many length configurations: a step that two of them share is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor

from quala.lengths import LengthConfig

if TYPE_CHECKING:
    from quala.data.features import Batch
    from quala.models.adaptive import KeepCounts, LengthAdaptiveModel
    from quala.models.selection import State

Keep = tuple[int, ...] | None
Leaf = tuple[list[int], Tensor]


@dataclass
class PrefixCache:
    """Attention blocks of inputs that nothing was dropped from, kept within `budget` bytes.

    All lengths pass through some of them. A block that does not fit is computed again.
    """

    budget: int
    _states: dict[tuple[int, int], State] = field(default_factory=dict)
    _bytes: int = 0

    def get(self, batch: int, layer: int) -> State | None:
        """Return the state after the attention of `layer`."""
        return self._states.get((batch, layer))

    def put(self, batch: int, layer: int, state: State) -> None:
        """Keep a state if it fits; a scored one replaces one without scores."""
        size = _bytes(state) - _bytes(self._states.get((batch, layer)))
        if self._bytes + size <= self.budget:
            self._states[batch, layer] = state
            self._bytes += size


def _bytes(state: State | None) -> int:
    parts = (state.hidden, state.inputs, state.scores) if state else ()
    return sum(part.numel() * part.element_size() for part in parts if part is not None)


@dataclass(frozen=True)
class TrieWalk:
    """Runs a model over the batch `number` at several lengths, sharing the layers that agree.

    Two length configurations share a layer's attention when all earlier layers keep the same
    tokens, and its feed-forward when that layer does too. Different lengths may keep the same
    tokens of short inputs, and then share the work too.
    """

    model: LengthAdaptiveModel
    cache: PrefixCache
    number: int
    batch: Batch

    def logits(self, candidates: Sequence[LengthConfig]) -> Iterator[Leaf]:
        """Yield the indices of candidates that keep the same tokens, and their logits."""
        plans = [self.model.keep_counts(self.batch, lengths) for lengths in candidates]
        members, before = list(range(len(candidates))), None
        for layer in range(self.model.num_layers):
            groups = _groups(plans, layer, members)
            members = groups.pop(None, [])
            attended = self._attended(layer, before, scored=bool(groups))
            for state, group in self._narrowed(attended, layer, groups):
                yield from self._branch(state, layer + 1, plans, group)
            if not members:
                return
            before = attended
        if before is not None:
            whole = self.model.narrow(before, self.model.num_layers - 1, None)
            yield members, self.model.finish(whole)

    def _attended(self, layer: int, before: State | None, *, scored: bool) -> State:
        """Return the attention block of a layer that every token reaches."""
        known = self.cache.get(self.number, layer)
        if known is not None and (known.scores is not None or not scored):
            return known
        if known is not None and known.inputs is not None:
            entry = replace(known, hidden=known.inputs, inputs=None)
        elif before is None:
            entry = self.model.begin(self.batch)
        else:
            entry = self.model.narrow(before, layer - 1, None)
        state = self.model.attend(entry, layer, scored=scored)
        self.cache.put(self.number, layer, state)
        return state

    def _branch(
        self, state: State, layer: int, plans: Sequence[KeepCounts], members: list[int]
    ) -> Iterator[Leaf]:
        """Go on from the input of `layer` with candidates that agree so far."""
        if layer == self.model.num_layers:
            yield members, self.model.finish(state)
            return
        groups = _groups(plans, layer, members)
        scored = any(keep is not None for keep in groups)
        attended = self.model.attend(state, layer, scored=scored)
        for narrowed, group in self._narrowed(attended, layer, groups):
            yield from self._branch(narrowed, layer + 1, plans, group)

    def _narrowed(
        self, attended: State, layer: int, groups: Mapping[Keep, list[int]]
    ) -> Iterator[tuple[State, list[int]]]:
        """Yield the input of the next layer for each way to drop, and its candidates.

        The feed-forward of a token does not depend on the other tokens: where all ways together
        keep more tokens than there are, it is computed once for all tokens.
        """
        wanted = sum(sum(attended.present if keep is None else keep) for keep in groups)
        shared = len(groups) > 1 and wanted > sum(attended.present)
        fed = self.model.feed(attended, layer) if shared else None
        for keep, group in groups.items():
            if fed is None:
                yield self.model.narrow(attended, layer, keep), group
            else:
                yield replace(self.model.drop(fed, keep), inputs=None, scores=None), group


def _groups(
    plans: Sequence[KeepCounts], layer: int, members: Sequence[int]
) -> dict[Keep, list[int]]:
    groups: dict[Keep, list[int]] = {}
    for member in members:
        keep = plans[member][layer]
        groups.setdefault(None if keep is None else tuple(keep), []).append(member)
    return groups
