"""A task with its four slices, and the scores of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quala.data.features import Example, FeatureSet
from quala.data.formats import format_of
from quala.data.read import is_single_file
from quala.data.slices import cut, subsample
from quala.data.spec import DataSpec
from quala.data.task import Outcome, Outputs, Task
from quala.data.tokenize import FastTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Both shares are guesses: most of a small data set is trained on.
SHARE_OF_TRAIN = 5
SHARE_OF_FILE = 10


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
    """A task and its slices, which are read and tokenized on first use.

    Search and selection are cut from train, never from test, each at most a fifth of it. A single
    file has no splits: a tenth of it, whole articles, becomes its test slice.

    Outputs are logits feature by feature: (n, 2) for spans, (C,) for classes, (1,) for values.
    """

    def __init__(
        self,
        spec: DataSpec,
        tokenizer: PreTrainedTokenizerBase,
        *,
        names: tuple[str, ...] | None = None,
    ) -> None:
        self.spec, self.names = spec, names
        self._tokenizer = tokenizer
        self._format = format_of(spec)

    @cached_property
    def task(self) -> Task:
        """The task; where the format does not define it, the training labels do."""
        return self._format.known_task(self.spec) or self._read_train[1]

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

    def _slice(self, name: str) -> Slice:
        if name == "test" and not self._is_single_file:
            examples, _ = self._format.read(self.spec, self.spec.test_split, self.task)
        else:
            examples = self._cut[name]
        limit = {"train": self.spec.max_train, "test": self.spec.max_test}.get(name)
        return Slice(name, subsample(examples, limit, seed=self.spec.seed), self._tokenize)

    @cached_property
    def _is_single_file(self) -> bool:
        return is_single_file(self.spec)

    @cached_property
    def _read_train(self) -> tuple[list[Example], Task]:
        return self._format.read(self.spec, self.spec.train_split, None)

    @cached_property
    def _cut(self) -> dict[str, list[Example]]:
        """The slices of train or, `test` included, of a single file."""
        train, _ = self._read_train
        most = len(train) // SHARE_OF_TRAIN
        asked = {"search": self.spec.search_size, "selection": self.spec.selection_size}
        sizes = {name: min(size, most) for name, size in asked.items()}
        if self._is_single_file:
            sizes = {"test": max(1, len(train) // SHARE_OF_FILE), **sizes}
        return cut(train, sizes, seed=self.spec.seed)

    def _tokenize(self, examples: list[Example]) -> FeatureSet:
        tokenizer = FastTokenizer.of(self._tokenizer)
        return self._format.features(examples, tokenizer, self.spec)

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
