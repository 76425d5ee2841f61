"""What single choices lose, added up: NAS-BERT's tables (arXiv 2105.14444) as a search's prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quala.lengths import Layers, LengthConfig
from quala.search.strategy import EvaluatedLengths

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AdditiveTable:
    """The score of the full length, and what it loses by one choice at a time.

    `drops[l]` are shares and losses where tokens are dropped at layer l alone, from all tokens
    (share 1, loss 0) on; between them losses are linear, below the least share the slope goes on.
    `structures` are the losses of sub-networks at full length.
    """

    full: float
    drops: tuple[tuple[tuple[float, float], ...], ...]
    structures: dict[Layers, float]

    @classmethod
    def of(cls, known: Sequence[EvaluatedLengths]) -> AdditiveTable | None:
        """Read the table off what was scored; None before the full length was.

        The losses of a layer are made to rise with the tokens dropped, which noise does not.
        """
        scores = {one.lengths: one.score for one in known if not one.stopped}
        full = next((one for one in scores if one.is_full), None)
        if full is None:
            return None
        drops: list[dict[float, float]] = [{1.0: 0.0} for _ in full.lengths]
        structures: dict[Layers, float] = {}
        for lengths, score in scores.items():
            dropping = [layer for layer, drop in enumerate(lengths.drops) if drop]
            loss = max(0.0, scores[full] - score)
            if lengths.layers and not dropping:
                structures[lengths.layers] = loss
            elif not lengths.layers and len(dropping) == 1:
                share = lengths.lengths[dropping[0]] / lengths.sequence_length
                drops[dropping[0]][share] = loss
        rising = []
        for layer in drops:
            shares = sorted(layer, reverse=True)
            losses = np.maximum.accumulate([layer[share] for share in shares]).tolist()
            rising.append(tuple(zip(shares, losses, strict=True)))
        return cls(scores[full], tuple(rising), structures)

    def loss(self, layer: int, share: float) -> float:
        """Return what dropping to a share of all tokens at one layer loses."""
        known = self.drops[layer][::-1]  # rising shares
        shares, losses = [one for one, _ in known], [loss for _, loss in known]
        if share >= shares[0] or len(known) < 2:
            return float(np.interp(share, shares, losses))
        slope = (losses[0] - losses[1]) / (shares[1] - shares[0])
        return losses[0] + slope * (shares[0] - share)

    def score(self, lengths: LengthConfig) -> float:
        """Return the full length's score less the losses of all choices, at least 0.

        A layer that drops from the share a to b loses what it would from all tokens to b, less
        that to a. A structure that was not scored loses nothing.
        """
        lost, before = self.structures.get(lengths.layers, 0.0), 1.0
        for layer, length in enumerate(lengths.lengths):
            share = length / lengths.sequence_length
            if share < before:
                lost += max(0.0, self.loss(layer, share) - self.loss(layer, before))
            before = share
        return max(0.0, self.full - lost)

    def scores(self, candidates: Sequence[LengthConfig]) -> Array:
        """Return the scores (N,) of several."""
        return np.array([self.score(one) for one in candidates], dtype=np.float64)
