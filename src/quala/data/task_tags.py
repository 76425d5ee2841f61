"""Token classification: a tag of each word, entities where the tags mark them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from quala.data.features import Batch, Example, TaggedExample
from quala.data.task import Divergence, Floats, Outcome, Predictions, Task, labels_of
from quala.errors import QualaError
from quala.metrics.classes import class_counts, class_table, precision_recall_f1
from quala.metrics.entities import OUTSIDE, are_entity_tags, entity_counts
from quala.metrics.glue import MEANS_OF_F1, compute_metric
from quala.metrics.interval import Sample, resampled, resampled_f1

if TYPE_CHECKING:
    from torch import Tensor

NO_TAG = -100
"""The label of tokens that have none: special tokens, and all but the first of a word."""
ENTITY_METRICS = ("f1", "precision", "recall", "accuracy")
TAG_METRICS = ("accuracy", *MEANS_OF_F1)
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tags(Task):
    """One tag of each word, read at its first token; `names` are in the order of the outputs.

    The metrics follow from the names: those of entities for `B-PER` and the like, else the
    accuracy of words; `primary` chooses the first. A dropped token answers with its restored
    logits.
    """

    metrics: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    primary: str | None = None

    kind: ClassVar[str] = "token-classification"
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    per_token: ClassVar[bool] = True
    has_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        fitting = ENTITY_METRICS if are_entity_tags(self.names) else TAG_METRICS
        if self.primary is not None and self.primary not in fitting:
            raise QualaError(
                f"`data.metric` of these tags must be one of {', '.join(fitting)}, "
                f"got {self.primary}."
            )
        first = (self.primary,) if self.primary else ()
        object.__setattr__(self, "metrics", tuple(dict.fromkeys((*first, *fitting))))

    def distributions(self, logits: Tensor, attention_mask: Tensor) -> Tensor:
        return logits  # (B, n, K)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the tokens that have a tag, 0 without any."""
        from torch.nn import functional

        labels = labels_of(batch)[:, : logits.shape[1]]  # (B, n)
        total = functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=NO_TAG, reduction="sum"
        )
        return total / (labels != NO_TAG).sum().clamp(min=1)

    def soft_loss(
        self, student: Tensor, teacher: Tensor, attention_mask: Tensor, divergence: Divergence
    ) -> Tensor:
        """Return the mean divergence over all real tokens, those without a tag included."""
        real = attention_mask.bool()
        return divergence(student[real].unsqueeze(1).float(), teacher[real].unsqueeze(1).float())

    def judge(self, outcome: Outcome) -> tuple[dict[str, float], dict[str, str]]:
        examples, chosen = self._tagged(outcome)
        named = [self._named(row) for row in chosen]
        predictions = {one.id: " ".join(tags) for one, tags in zip(examples, named, strict=True)}
        ours, theirs = np.concatenate(chosen), _gold(examples)
        scores = {}
        if "precision" in self.metrics:
            counts = self._entity_counts(examples, chosen)[1].sum(axis=(0, 1))
            shares = precision_recall_f1(counts)
            scores = dict(zip(("precision", "recall", "f1"), map(float, shares), strict=True))
        return {
            name: 100 * scores[name] if name in scores else compute_metric(name, ours, theirs)
            for name in self.metrics
        }, predictions

    def samples(self, outcome: Outcome, predictions: Mapping[str, str]) -> dict[str, Sample]:
        examples, chosen = self._tagged(outcome)
        found = self._sample(examples, [self._named(row) for row in chosen])
        return {} if found is None else {self.metric: found}

    def sample_of(self, examples: Sequence[Example], said: Predictions) -> Sample | None:
        tagged = cast("Sequence[TaggedExample]", examples)
        chosen = [said[one.id].split(" ") for one in tagged]
        if any(len(tags) != len(one.tags) for tags, one in zip(chosen, tagged, strict=True)):
            return None  # a name has blanks
        return self._sample(tagged, chosen)

    def _sample(
        self, examples: Sequence[TaggedExample], chosen: Sequence[Sequence[str]]
    ) -> Sample | None:
        gold = [self._named(np.asarray(one.tags)) for one in examples]
        if self.metric == "f1":
            return resampled_f1(entity_counts(chosen, gold)[1].sum(axis=1))
        # Words count as independent draws, which makes the interval a little too narrow.
        return resampled(self.metric, np.concatenate(chosen), np.concatenate(gold))

    def example_scores(self, outcome: Outcome) -> Floats:
        raise QualaError(f"`{self.metric}` of tags is no mean over sentences.")

    def per_class(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Return the table of kinds of entities, or of tags where these mark none."""
        examples, chosen = self._tagged(outcome)
        if "precision" in self.metrics:
            kinds, counts = self._entity_counts(examples, chosen)
            return class_table(kinds, counts.sum(axis=0))
        counts = class_counts(np.concatenate(chosen), _gold(examples), len(self.names))
        return class_table(self.names, counts)

    def label_counts(self, examples: Sequence[Example]) -> dict[str, float]:
        tagged = cast("Sequence[TaggedExample]", examples)
        counts = Counter(tag for one in tagged for tag in one.tags)
        return {name: counts[index] for index, name in enumerate(self.names)}

    def reordered(self, examples: Sequence[Example], places: Sequence[int]) -> list[Example]:
        tagged = cast("Sequence[TaggedExample]", examples)
        return [replace(one, tags=tuple(places[tag] for tag in one.tags)) for one in tagged]

    def _named(self, tags: Ints) -> list[str]:
        return [self.names[tag] for tag in tags.tolist()] if self.names else [*map(str, tags)]

    def _entity_counts(
        self, examples: Sequence[TaggedExample], chosen: Sequence[Ints]
    ) -> tuple[list[str], Ints]:
        gold = [self._named(np.asarray(one.tags)) for one in examples]
        return entity_counts([self._named(row) for row in chosen], gold)

    def _tagged(self, outcome: Outcome) -> tuple[list[TaggedExample], list[Ints]]:
        """Return the examples, rising, and the tags of the words of each, (W,)."""
        features = outcome.features
        if features.words is None:
            raise QualaError("Tags are read from features of token classification only.")
        outside = self.names.index(OUTSIDE) if OUTSIDE in self.names else 0
        rows = np.arange(len(features)) if outcome.rows is None else np.asarray(outcome.rows)
        windows: dict[int, list[tuple[NDArray[Any], Ints]]] = {}
        for place in np.argsort(rows, kind="stable").tolist():
            row = int(rows[place])
            words = features.words[features.offsets[row] : features.offsets[row + 1]]
            chosen = outcome.outputs[place].argmax(axis=1)
            windows.setdefault(int(features.example[row]), []).append((words, chosen))
        examples = [cast("TaggedExample", outcome.examples[owner]) for owner in sorted(windows)]
        found = []
        for example, owner in zip(examples, sorted(windows), strict=True):
            places = word_places([words for words, _ in windows[owner]], len(example.words))
            tags = [windows[owner][window][1][token] for window, token in places.tolist()]
            found.append(np.where(places[:, 0] < 0, outside, np.array(tags, dtype=np.int64)))
        return examples, found


def word_places(windows: Sequence[NDArray[Any]], count: int) -> Ints:
    """Return the window and the token in it that each of `count` words is read at, -1 for none.

    `windows` are those of one text, (n,) each: the word that begins at each token, or -1. Of
    several windows the one counts that has most text around the word: the tokens to the nearer
    end of the window, where that is no end of the text.
    """
    found = np.full((count, 2), -1, dtype=np.int64)
    margins = np.full(count, -1.0)
    for window, words in enumerate(windows):
        tokens = np.flatnonzero(words >= 0)
        margin = np.full(len(tokens), np.inf)
        if window:
            margin = np.minimum(margin, tokens)
        if window < len(windows) - 1:
            margin = np.minimum(margin, len(words) - 1 - tokens)
        better = margin > margins[words[tokens]]
        own = words[tokens[better]]
        found[own, 0], found[own, 1], margins[own] = window, tokens[better], margin[better]
    return found


def _gold(examples: Sequence[TaggedExample]) -> Ints:
    return np.array([tag for one in examples for tag in one.tags], dtype=np.int64)
