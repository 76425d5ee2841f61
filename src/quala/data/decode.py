"""Answers in a context from the logits of its windows."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from quala.data.features import FeatureSet, QAExample
from quala.data.spec import Decoding
from quala.errors import QualaError
from quala.metrics.interval import Sample
from quala.metrics.squad import answer_exact, answer_f1

Logits = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class NotFinite(QualaError):
    """Raised for the logits of a broken model, whatever the input is."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A piece of the context: `context[start:end]`, its score and its share of the n-best."""

    text: str
    start: int
    end: int
    score: float
    probability: float


def decode_answers(
    examples: Sequence[QAExample],
    features: FeatureSet,
    outputs: Sequence[Logits],
    *,
    decoding: Decoding,
    rows: Sequence[int] | None = None,
) -> dict[int, list[Answer]]:
    """Return for each example (by its index) its distinct answers, the best first.

    `outputs[i]` are the logits (n, 2) of feature `rows[i]` (of feature i without `rows`). Only
    context tokens are answers, widened to whole graphemes, without blanks at their ends. The
    score of an answer is the best of its windows; probabilities are shares of the answers that
    are kept. Where none of the `n_best` starts and ends make an answer, it is the best of all. An
    example whose windows hold no context has no answers, and an example without windows is not
    returned. Raises NotFinite for logits that are NaN or infinite.
    """
    chosen = np.arange(len(features)) if rows is None else np.asarray(rows, dtype=np.int64)
    if len(outputs) != len(chosen):
        raise QualaError(f"Expected the logits of {len(chosen)} features, got {len(outputs)}.")
    found: dict[int, list[tuple[int, Logits]]] = {}
    for row, logits in zip(chosen.tolist(), outputs):
        found.setdefault(int(features.example[row]), []).append((row, logits))
    every = replace(decoding, n_best=int(features.lengths.max(initial=1)), keep=1)
    return {
        index: _answers(examples[index].context, features, windows, decoding)
        or _answers(examples[index].context, features, windows, every)
        for index, windows in sorted(found.items())
    }


def null_differences(
    features: FeatureSet,
    outputs: Sequence[Logits],
    decoded: Mapping[int, Sequence[Answer]],
    *,
    rows: Sequence[int] | None = None,
) -> dict[int, float]:
    """Return for each decoded example how far no answer scores ahead of its best answer.

    The score of no answer is the sum of start and end at the first token, [CLS], and of several
    windows the lowest one: a window without the answer rightly has a high one. This is the rule
    of BERT's run_squad (`null_score_diff_threshold`). Where there is no other answer, it is
    infinite.
    """
    chosen = range(len(features)) if rows is None else rows
    lowest: dict[int, float] = {}
    for row, logits in zip(chosen, outputs, strict=True):
        index, score = int(features.example[row]), float(logits[0].astype(np.float64).sum())
        lowest[index] = min(score, lowest.get(index, score))
    return {
        index: lowest[index] - answers[0].score if answers else math.inf
        for index, answers in decoded.items()
    }


def null_probability(difference: float, threshold: float) -> float:
    """Return the probability of no answer: one half where the difference is at the threshold."""
    return 0.5 + 0.5 * math.tanh((difference - threshold) / 2)  # the logistic function


def best_answers(
    examples: Sequence[QAExample], decoded: dict[int, list[Answer]]
) -> dict[str, str]:
    """Return the text of the best answer by question id; the empty text where there is none."""
    return {
        examples[index].id: answers[0].text if answers else ""
        for index, answers in decoded.items()
    }


def answer_samples(
    examples: Sequence[QAExample], predictions: Mapping[str, str], *, null: bool = False
) -> dict[str, Sample]:
    """Return the F1 and the exact match of each question; without a prediction both are 0.

    `null` counts as SQuAD 2.0 does.
    """
    scorers = {"f1": answer_f1, "exact_match": answer_exact}
    found = {}
    for name, score in scorers.items():
        said = [(predictions.get(one.id), one.answers) for one in examples]
        values = [0.0 if text is None else score(text, golds, null=null) for text, golds in said]
        found[name] = Sample(100.0 * np.array(values), len(values))
    return found


def _window_candidates(
    features: FeatureSet, row: int, logits: Logits, *, decoding: Decoding
) -> tuple[Floats, Ints]:
    """Return the scores (c,) and the characters (c, 2) of one window's candidate answers."""
    if features.context_range is None or features.char_spans is None:
        raise QualaError("Answers are decoded from features of question answering only.")
    base, stop = int(features.offsets[row]), int(features.offsets[row + 1])
    if logits.shape[0] < stop - base or logits.shape[1:] != (2,):
        raise QualaError(
            f"Feature {row} needs logits of shape ({stop - base}, 2), got {logits.shape}."
        )
    first, last = map(int, features.context_range[row])
    context = logits[first:last].astype(np.float64)  # (c, 2)
    if not np.isfinite(context).all():
        raise NotFinite("The model gives logits that are NaN or infinite: it cannot answer.")
    starts = _top(context[:, 0], decoding.n_best)
    ends = _top(context[:, 1], decoding.n_best)
    tokens = ends[None, :] - starts[:, None] + 1  # (starts, ends)
    pair_start, pair_end = np.nonzero((tokens >= 1) & (tokens <= decoding.max_answer_length))
    begin, end = starts[pair_start], ends[pair_end]
    spans = features.char_spans[base + first : base + last]
    characters = np.stack((spans[begin, 0], spans[end, 1]), axis=1).astype(np.int64)
    return context[begin, 0] + context[end, 1], characters


def _top(values: Floats, count: int) -> Ints:
    """Return the positions of the highest values, best first, earlier first among equals."""
    return np.argsort(-values, kind="stable")[:count].astype(np.int64)


def _answers(
    context: str, features: FeatureSet, windows: list[tuple[int, Logits]], decoding: Decoding
) -> list[Answer]:
    found = [_window_candidates(features, *window, decoding=decoding) for window in windows]
    scores = np.concatenate([score for score, _ in found])
    spans = np.concatenate([span for _, span in found])
    keep = decoding.n_best if decoding.keep is None else decoding.keep
    best: dict[tuple[int, int], float] = {}
    edges = grapheme_edges(context)
    for candidate in np.argsort(-scores, kind="stable").tolist():
        start, end = whole(context, *spans[candidate].tolist(), edges=edges)
        if start == end:
            continue
        best.setdefault((start, end), float(scores[candidate]))
        if len(best) == keep:
            break
    weights = np.exp(np.array(list(best.values())) - scores.max(initial=-np.inf))
    shares = (weights / weights.sum()).tolist() if best else []
    return [
        Answer(context[start:end], start, end, score, share)
        for ((start, end), score), share in zip(best.items(), shares)
    ]


def grapheme_edges(text: str) -> list[int] | None:
    """Return where the graphemes of a text begin and its end; None where each is one character."""
    if text.isascii():
        return None
    return [*(match.start() for match in regex.finditer(r"\X", text)), len(text)]


def whole(text: str, start: int, end: int, *, edges: list[int] | None) -> tuple[int, int]:
    """Return a piece of a text widened to whole graphemes (`edges`), blanks at its ends cut.

    A tokenizer may drop the accent of a letter, and the blank before a word may be part of its
    token. Of blanks alone nothing is left: start and end are equal.
    """
    if edges is not None:
        start, end = edges[bisect_right(edges, start) - 1], edges[bisect_left(edges, end)]
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, max(start, end - len(piece) + len(piece.rstrip()))
