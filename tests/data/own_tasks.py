"""Tasks of one's own: topics of a sentence, any number of them; tags of tokens."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quala.data.features import ClassificationExample, Example, FeatureSet
from quala.data.formats import DataFormat
from quala.data.read import split_rows
from quala.data.spec import DataSpec
from quala.data.task import Outcome, Task
from quala.data.tokenize import FastTokenizer, sentence_features


@dataclass(frozen=True, slots=True)
class TopicsExample:
    """A text and, for each topic, 1 where the text has it."""

    id: str
    text: str
    labels: tuple[int, ...]

    @property
    def article(self) -> Hashable:
        """Equal texts are in one slice."""
        return self.text

    passage = article


@dataclass(frozen=True)
class Topics(Task):
    """One yes or no for each topic."""

    metrics: tuple[str, ...] = ("accuracy",)
    names: tuple[str, ...] = ()

    kind: ClassVar[str] = "data.own_tasks.Topics"

    @property
    def additive(self) -> bool:
        return True

    def distributions(self, logits: Tensor, attention_mask: Tensor) -> Tensor:
        """Return no and yes for each topic, (B, K, 2): the loss is a binary cross-entropy."""
        return torch.stack((torch.zeros_like(logits), logits), dim=-1)

    def judge(self, outcome: Outcome) -> tuple[dict[str, float], dict[str, str]]:
        right, chosen = self._answered(outcome)
        return {"accuracy": float(right.mean())}, chosen

    def example_scores(self, outcome: Outcome) -> NDArray[np.float64]:
        return self._answered(outcome)[0]

    def _answered(self, outcome: Outcome) -> tuple[NDArray[np.float64], dict[str, str]]:
        """Return the share of topics that are right, (E,), and the topics by example id."""
        examples, logits = outcome.by_example()
        yes = np.array(logits) > 0  # (E, K)
        gold = np.array([example.labels for example in examples]) > 0
        names = np.array(self.names)
        chosen = {one.id: " ".join(names[row]) for one, row in zip(examples, yes, strict=True)}
        return 100.0 * (yes == gold).mean(axis=1), chosen


class TopicsFormat(DataFormat):
    """Rows of `text` and `topics`, names with spaces between them."""

    def read(self, spec: DataSpec, split: str, task: Task | None) -> tuple[list[Example], Task]:
        rows = [row for _, row in split_rows(spec, split)]
        if task is None:
            names = tuple(sorted({name for row in rows for name in row["topics"].split()}))
            task = Topics(len(names), names=names)
        examples: list[Example] = [
            TopicsExample(
                str(number), row["text"], tuple(int(name in row["topics"]) for name in task.names)
            )
            for number, row in enumerate(rows)
        ]
        return examples, task

    def features(
        self, examples: Sequence[Any], tokenizer: FastTokenizer, spec: DataSpec
    ) -> FeatureSet:
        texts = [ClassificationExample(one.id, one.text, None) for one in examples]
        features = sentence_features(texts, tokenizer, max_length=spec.max_length)
        return replace(features, labels=np.array([one.labels for one in examples]))


@dataclass(frozen=True)
class Tags(Topics):
    """One of K tags for each token. The question-answering head is a linear map of each token."""

    kind: ClassVar[str] = "data.own_tasks.Tags"
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    per_token: ClassVar[bool] = True

    def distributions(self, logits: Tensor, attention_mask: Tensor) -> Tensor:
        return logits  # (B, n, K): n choices
