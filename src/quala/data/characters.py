"""A teacher's answers by characters of the context, and what they are on a student's tokens.

Characters are what two tokenizers have in common. A start is the first character of an answer, an
end is the one after its last, and -1 stands for "no answer".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quala.data.features import FeatureSet
from quala.errors import QualaError

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

NO_ANSWER = -1
LEAST_SHARE = 0.1
"""A window with less of the start or of the end mass has no answer. A guess: of two neighbors, the
one that holds an answer has nearly all of the mass."""
LOWEST = -30.0
"""The log-probability of a token that a teacher gives nothing: finite, and below any use."""
LONGEST_SPAN = 30
"""Tokens of the longest answer that makes a window sure, as in run_squad."""


@dataclass(frozen=True, eq=False)
class CharacterAnswers:
    """The likely start and end characters of E answers; entries at minus infinity are fill."""

    character: Ints  # (E, 2, K)
    log_probability: Floats  # (E, 2, K)
    span_logit: Floats  # (E,), the logit of the best span, nan where it is not known

    def top(self, count: int) -> CharacterAnswers:
        """Keep the `count` likeliest starts and ends; those of one character are one."""
        shape = (len(self.character), 2, count)
        character = np.zeros(shape, np.int32)
        scores = np.full(shape, -np.inf, np.float32)
        for row, side in np.ndindex(shape[:2]):
            real = np.isfinite(self.log_probability[row, side])
            places, group = np.unique(self.character[row, side][real], return_inverse=True)
            total = np.full(len(places), -np.inf)
            np.logaddexp.at(total, group, self.log_probability[row, side][real].astype(float))
            best = np.argsort(-total, kind="stable")[:count]
            character[row, side, : len(best)] = places[best]
            scores[row, side, : len(best)] = total[best]
        return CharacterAnswers(character, scores, self.span_logit)


def of_windows(
    features: FeatureSet, outputs: Sequence[Floats], *, examples: int, null: bool = False
) -> CharacterAnswers:
    """Return a teacher's answers from the logits (n, 2) of its own windows.

    Each example is answered by its surest window, the one whose best span has the highest logit.
    Probabilities are over the context tokens of that window and, with `null`, its first token,
    which stands for "no answer". Several tokens on one character each have an entry.
    """
    if features.char_spans is None or features.context_range is None:
        raise QualaError("The teacher's windows have no characters under their tokens.")
    sure, best = np.full(examples, -np.inf), np.zeros(examples, dtype=np.int64)
    for row, logits in enumerate(outputs):
        low, high = features.context_range[row]
        found = _best_span(logits[low:high].astype(np.float64))
        if found > sure[features.example[row]]:
            sure[features.example[row]], best[features.example[row]] = found, row
    most = max((len(outputs[int(row)]) for row in best), default=1)
    character = np.zeros((examples, 2, most), np.int32)
    scores = np.full((examples, 2, most), -np.inf, np.float32)
    for example, row in enumerate(best.tolist()):
        if not np.isfinite(sure[example]):  # a context without a token
            continue
        low, high = features.context_range[row]
        first = features.offsets[row]
        spans = features.char_spans[first + low : first + high]
        places, logits = spans.T, outputs[row][low:high].T
        if null:
            places = np.concatenate([np.full((2, 1), NO_ANSWER), places], axis=1)
            logits = np.concatenate([outputs[row][:1].T, logits], axis=1)
        character[example, :, : places.shape[1]] = places
        scores[example, :, : places.shape[1]] = log_softmax(logits)
    return CharacterAnswers(character, scores, sure.astype(np.float32))


def _best_span(logits: Floats) -> float:
    start, end = logits.T
    count = min(len(start), LONGEST_SPAN)
    sums = (float((start[: len(start) - more] + end[more:]).max()) for more in range(count))
    return max(sums, default=-np.inf)


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Return the log-probabilities of logits (..., K)."""
    wide = logits.astype(np.float64)
    wide = wide - wide.max(axis=-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True)))


def on_tokens(
    character: Ints, log_probability: Floats, *, context: str, spans: Ints, head: int, tokens: int
) -> NDArray[np.float64] | None:
    """Return log-probabilities (tokens, 2) of start and end on the tokens of one window.

    `character` and `log_probability` are (2, K), `spans` (m, 2) the characters under the window's
    context tokens, which begin at token `head`. The rule:

    - A start on a blank moves to the next visible character, an end to the last one before it.
    - Start mass goes to the first token that reaches beyond the character, end mass to the last
      token that begins at or before the answer's last character. That is the token that covers
      it, or its neighbor within the answer where no token does, as for the gold answers.
    - Mass on characters outside the window is dropped, and the rest is renormalized.
    - "No answer" goes to the window's first token. So does everything where less than
      `LEAST_SHARE` of the start or of the end mass is in the window, as in the gold labels.
    - Tokens without mass get `LOWEST`.

    None is returned where the teacher says nothing. Raises QualaError for characters beyond the
    context.
    """
    mass = np.zeros((tokens, 2))
    share = np.zeros(2)
    visible = np.array([at for at, one in enumerate(context) if not one.isspace()], np.int64)
    for side in (0, 1):
        real = np.isfinite(log_probability[side])
        weight = np.exp(log_probability[side][real].astype(np.float64))
        places = character[side][real]
        if not len(places) or not weight.sum():
            return None
        if places.max() > len(context) or places.min() < NO_ANSWER:
            raise QualaError(
                f"character {int(places.max())} is beyond a context of {len(context):,} characters"
            )
        none = places == NO_ANSWER
        token, inside = _tokens(places[~none], side, visible, spans)
        np.add.at(mass[:, side], head + token[inside], weight[~none][inside])
        mass[0, side] += weight[none].sum()
        share[side] = mass[:, side].sum() / weight.sum()
    if share.min() < LEAST_SHARE:
        mass[:], mass[0] = 0, 1
    mass /= mass.sum(axis=0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.maximum(np.log(mass), LOWEST))


def _tokens(
    places: Ints, side: int, visible: Ints, spans: Ints
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the context token of each start (`side` 0) or end, and which are in the window."""
    if not len(visible) or not len(spans):
        return np.zeros(len(places), np.int64), np.zeros(len(places), bool)
    at = np.searchsorted(visible, places) - side
    known = (at >= 0) & (at < len(visible))
    letter = visible[np.clip(at, 0, len(visible) - 1)]
    inside = known & (letter >= spans[0, 0]) & (letter < spans[-1, 1])
    if side == 0:
        token = np.searchsorted(spans[:, 1], letter, side="right")
    else:
        token = np.searchsorted(spans[:, 0], letter, side="right") - 1
    return np.clip(token, 0, len(spans) - 1), inside
