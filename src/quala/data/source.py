"""The examples of the four slices, read when they are first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from quala.data.examples import Example
from quala.data.labels import LabelScheme
from quala.data.read import is_single_file, read_glue, read_squad
from quala.data.slices import cut, subsample
from quala.data.spec import DEMO, DataSpec
from quala.data.task import Task
from quala.metrics.glue import task_metrics

SLICES = ("train", "search", "selection", "test")
SHARE_OF_TRAIN = 5
SHARE_OF_FILE = 10


class Source:
    """The slices of a specification: search and selection are cut from train, never from test.

    Each of them is at most a fifth of train, so that small data sets keep something to learn.
    A single file has no splits: a tenth of it, whole articles, becomes its test slice.
    """

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec

    @cached_property
    def task(self) -> Task:
        """The task; the classes of a GLUE task are read off its training labels."""
        if self.spec.task == "squad":
            return Task("question-answering", 2, "f1")
        names = self._labelled[1].names
        metric = task_metrics(self.spec.subset, regression=names is None)[0]
        if names is None:
            return Task("regression", 1, metric)
        return Task("classification", len(names), metric)

    def examples(self, name: str) -> list[Example]:
        """Return the examples of the slice train, search, selection or test."""
        if name == "test":
            return subsample(self._test, self.spec.max_test, seed=self.spec.seed)
        found = self._cut[name]
        limit = self.spec.max_train if name == "train" else None
        return subsample(found, limit, seed=self.spec.seed)

    @cached_property
    def _single(self) -> bool:
        return is_single_file(self.spec)

    @cached_property
    def _labelled(self) -> tuple[list[Example], LabelScheme]:
        examples, scheme = read_glue(self.spec, self.spec.train_split)
        return list(examples), scheme

    @cached_property
    def _demo(self) -> tuple[list[Example], list[Example]]:
        from quala.data.demo import demo_examples

        train, test = demo_examples()
        return list(train), list(test)

    @cached_property
    def _train(self) -> list[Example]:
        if self.spec.name == DEMO:
            return self._demo[0]
        if self.spec.task == "glue":
            return self._labelled[0]
        return list(read_squad(self.spec, self.spec.train_split))

    @cached_property
    def _test(self) -> Sequence[Example]:
        if self.spec.name == DEMO:
            return self._demo[1]
        if self._single:
            return self._cut["test"]
        if self.spec.task == "glue":
            return read_glue(self.spec, self.spec.test_split, scheme=self._labelled[1])[0]
        return read_squad(self.spec, self.spec.test_split)

    @cached_property
    def _cut(self) -> dict[str, list[Example]]:
        most = len(self._train) // SHARE_OF_TRAIN
        asked = {"search": self.spec.search_size, "selection": self.spec.selection_size}
        sizes = {name: min(size, most) for name, size in asked.items()}
        if self._single:
            sizes = {"test": max(1, len(self._train) // SHARE_OF_FILE), **sizes}
        return cut(self._train, sizes, seed=self.spec.seed)
