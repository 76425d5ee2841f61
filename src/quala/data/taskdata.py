"""A task with its four slices and the way its outputs are scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quala.data.features import Example, FeatureSet
from quala.data.formats import format_of
from quala.data.slices import Source
from quala.data.spec import DataSpec
from quala.data.task import Outcome, Outputs, Task
from quala.data.tokenize import FastTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(eq=False)
class Slice:
    """The examples of train, search, selection or test; tokenized when first needed."""

    name: str
    examples: list[Example]
    tokenize: Callable[[list[Example]], FeatureSet] = field(repr=False)

    @cached_property
    def features(self) -> FeatureSet:
        """The tokenized examples; a long question and context make several."""
        return self.tokenize(self.examples)


class TaskData:
    """A task and its slices, read and tokenized on first use and kept on the object.

    Outputs are logits feature by feature: (n, 2) for spans, (C,) for classes, (1,) for values.
    """

    def __init__(self, spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> None:
        self.spec = spec
        self._tokenizer = tokenizer
        self._source = Source(spec)

    @cached_property
    def task(self) -> Task:
        return self._source.task

    @cached_property
    def train(self) -> Slice:
        return self._slice("train")

    @cached_property
    def search(self) -> Slice:
        return self._slice("search")

    @cached_property
    def selection(self) -> Slice:
        return self._slice("selection")

    @cached_property
    def test(self) -> Slice:
        return self._slice("test")

    def score(
        self, part: Slice, outputs: Outputs, rows: Sequence[int] | None = None
    ) -> dict[str, float]:
        """Return the metrics in percent, the task's primary metric first.

        `outputs[i]` belongs to feature `rows[i]`; without `rows` there is one per feature.
        """
        return self.task.judge(Outcome(part.examples, part.features, outputs, rows))[0]

    def judge(self, part: Slice, outputs: Outputs) -> tuple[dict[str, float], dict[str, str]]:
        """Return the metrics as `score` does, and the prediction of each example by its id.

        That is the answer's text (spans), the class or the value.
        """
        return self.task.judge(Outcome(part.examples, part.features, outputs))

    def example_scores(
        self, part: Slice, outputs: Outputs, rows: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """Return F1 (spans) or correctness (classes) of each example, 0 to 100.

        One value for each example that the features `rows` (None: all) belong to, in the order
        of the slice. Raises QualaError for regression, whose metric is no mean over examples.
        """
        return self.task.example_scores(Outcome(part.examples, part.features, outputs, rows))

    def _slice(self, name: str) -> Slice:
        return Slice(name, self._source.examples(name), self._tokenize)

    def _tokenize(self, examples: list[Example]) -> FeatureSet:
        tokenizer = FastTokenizer.of(self._tokenizer)
        return format_of(self.spec).features(examples, tokenizer, self.spec)
