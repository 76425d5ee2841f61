"""A task with its four slices, and the scores of its outputs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quala.data.features import Example, FeatureSet
from quala.data.formats import Glue, format_of
from quala.data.labels import LabelOrder, listed, outputs_of, positive_class
from quala.data.read import is_single_file, numbered_names, remarks, source_files, split_sources
from quala.data.slices import Cut, cut, subsample, texts_of
from quala.data.spec import DataSpec
from quala.data.task import Classes, Outcome, Outputs, Span, Task, Value
from quala.data.tokenize import FastTokenizer
from quala.errors import QualaError
from quala.metrics.glue import check_metrics
from quala.metrics.ranking import RANKING_METRICS
from quala.redact import recorded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Both shares are guesses: most of a small data set is trained on.
SHARE_OF_TRAIN = 5
SHARE_OF_FILE = 10
# A guess: reading so many bytes takes seconds, which a training does not notice.
EARLY_TEST = 2**28
SUMMARY = "data.json"
SLICES = ("train", "search", "selection", "test")

log = logging.getLogger(__name__)


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
    file has no splits: a tenth of it, or `test_size`, becomes its test slice. With train the test
    split is read too, unless it is on the hub or large, so that no fault of it is found late.

    Outputs are logits feature by feature: (n, 2) for spans, (n, K) for tags, (C,) for classes,
    (1,) for values, and (H,) for embeddings.
    `names` are the labels of the model that the data are for, in the order of its outputs; () if
    it names none, None for a new head; `null_threshold` is the model's, if it has one. Raises
    QualaError for `test_size` where there are splits.
    """

    def __init__(
        self,
        spec: DataSpec,
        tokenizer: PreTrainedTokenizerBase,
        *,
        names: tuple[str, ...] | None = None,
        null_threshold: float | None = None,
    ) -> None:
        self.spec = spec
        self.notes: list[str] = []
        """What a reader of scores has to know of the data."""
        self._left_out: dict[str, int] = {}
        self._tokenizer = tokenizer
        self._names = names
        self._null_threshold = null_threshold
        self._format = format_of(spec)
        if spec.test_size is not None and not self._is_single_file:
            raise QualaError(
                "`data.test_size` is for a single file; data with splits have `data.max_test`."
            )

    @cached_property
    def task(self) -> Task:
        """The task; where the format does not define it, the training labels do."""
        own, outputs, spec = self._own_task, self.label_order, self.spec
        if spec.metric not in (None, own.metric):
            raise QualaError(f"`data.metric` must be {own.metric} here, got {spec.metric}.")
        if not own.has_classes or outputs is None:
            if spec.labels or spec.f1_class:
                raise QualaError("`data.labels` and `data.f1_class` are for classes with names.")
            if isinstance(own, Span) and own.null:
                return replace(own, null_threshold=self._null_threshold)
            if type(own) in (Classes, Value):
                check_metrics(own.metrics, own.num_labels if type(own) is Classes else None)
            return own
        names = outputs.names
        if len(names) < 2:
            raise QualaError(f"Classes need at least two labels, train has {listed(names)} only.")
        if outputs.spelled != names:
            self._note(f"The labels {listed(outputs.spelled)} are called {listed(names)}.")
        if self._names == () and not spec.labels and {*names} - {*map(str, range(len(names)))}:
            self._note(f"The model names no outputs: taken as {listed(names)} (`data.labels`).")
        own = replace(own, num_labels=len(names), names=names)  # type: ignore[call-arg]
        if not isinstance(own, Classes):
            return own
        metrics, positive = own.metrics, own.positive
        if spec.f1_class is not None:
            metrics = tuple(dict.fromkeys((*metrics, "f1")))
        ranked = [name for name in metrics if name in RANKING_METRICS]
        check_metrics(ranked, len(names))
        if positive is None and ("f1" in metrics or ranked):
            positive = positive_class(outputs, spec)
            what = "Rankings count" if ranked else "F1 counts"
            self._note(f"{what} `{names[positive]}` as the positive class.")
        return replace(own, metrics=metrics, positive=positive)

    @cached_property
    def _own_task(self) -> Task:
        """The task with the labels as the data spell them, in the data's order."""
        return self._format.known_task(self.spec) or self._read_train[1]

    @cached_property
    def label_order(self) -> LabelOrder | None:
        """The classes in the order of the model, None for other tasks."""
        own = self._own_task
        names = getattr(own, "names", ()) if own.has_classes else ()
        return self._order(names) if names else None

    def _order(self, own: Sequence[str]) -> LabelOrder:
        numbers = isinstance(self._format, Glue) and all(map(str.isdecimal, own))
        called = numbered_names(self.spec) if numbers and self._names else ()
        return outputs_of(own, self.spec, self._names, called)

    def places_in(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return, for each output of the model, the place of its label among other `names`.

        They are found by name, numbers as `label_order` finds those of the data. Raises
        QualaError where the labels are not the same.
        """
        order = self.label_order
        if order is None:
            raise QualaError("Labels have names for classes only.")
        numbers = isinstance(self._format, Glue) and all(map(str.isdecimal, order.names))
        called = numbered_names(self.spec) if numbers else ()
        found = outputs_of(order.names, replace(self.spec, labels=()), names, called)
        if len(found.names) != len(order.names):
            raise QualaError(f"{len(names)} labels are not those of {len(order.names)} outputs.")
        return found.places

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
        limit = {"train": self.spec.max_train, "test": self.spec.max_test}
        _ = self.task
        if name == "test" and not self._is_single_file:
            examples = self._read_test
        else:
            examples = self._in_order(self._cut[name], self._read_train[1])
        kept = self._limited(examples, limit.get(name))
        if len(kept) < len(examples):
            self._left_out[f"{name}: beyond data.max_{name}"] = len(examples) - len(kept)
        if name == "train":
            files = {part: listed(names) for part, names in split_sources(self.spec).items()}
            log.info("Data: train from %(train)s, test from %(test)s.", files)
            if self._tests_early():
                _ = self._compared
        if name != "test" or self._is_single_file or len(kept) < len(examples):
            self._tell_labels(name, kept)
        return Slice(name, kept, partial(self._tokenize, name))

    def _limited(self, examples: list[Example], size: int | None) -> list[Example]:
        units = [self._format.unit(one) for one in examples]
        kept = set(subsample([*dict.fromkeys(units)], size, seed=self.spec.seed))
        return [one for one, unit in zip(examples, units, strict=True) if unit in kept]

    def _tests_early(self) -> bool:
        """Return whether the test split is compared, and read, with train."""
        files = source_files(self.spec)["test"]
        return bool(files) and sum(file.stat().st_size for file in files) <= EARLY_TEST

    @cached_property
    def _read_test(self) -> list[Example]:
        """The examples of the test split."""
        task, split = self.task, self.spec.test_split
        if self.label_order is not None:
            task = replace(task, names=self.label_order.spelled)  # type: ignore[call-arg]
        examples, found = self._format.read(self.spec, split, task)
        self._note(*remarks(examples, split), *self._format.remarks(self.spec))
        examples = self._in_order(examples, found)
        self._tell_labels("test split" if self.spec.max_test else "test", examples)
        return examples

    def _tell_labels(self, name: str, examples: list[Example]) -> None:
        counts = [f"{one} {count:g}" for one, count in self.task.label_counts(examples).items()]
        labels = f", labels {listed(counts)}" if counts else ""
        log.info("%s: %d examples%s.", name.capitalize(), len(examples), labels)

    @cached_property
    def _compared(self) -> None:
        """Note the texts of other slices that train has too."""
        parts = dict(self._cut)
        own = parts.pop("train")
        checks = [(name, part, own) for name, part in parts.items()]
        if not self._is_single_file:
            checks.append(("test", self._read_test, self._read_train[0]))
        held: dict[int, set[Hashable]] = {}
        for name, part, train in checks:
            if id(train) not in held:
                texts = texts_of(train)
                held[id(train)] = {key for text in texts for key in (text.whole, *text.parts)}
            keys, texts = held[id(train)], texts_of(part)
            known = [one for one, text in zip(part, texts, strict=True) if text.whole in keys]
            near = sum(any(key in keys for key in text.parts) for text in texts)
            if known:
                text = str(getattr(known[0], "question", getattr(known[0], "text", known[0].id)))
                self._note(
                    f"{len(known)} of {len(part)} {name} examples stand in train too "
                    f"(first: `{text:.60}`)."
                )
            if near > len(known):
                self._note(f"{near} of {len(part)} {name} examples share a text with train.")

    def _in_order(self, examples: list[Example], found: Task) -> list[Example]:
        """Return the examples of a task with the class of each in the order of the model."""
        outputs = self.label_order
        names = getattr(found, "names", ())
        if outputs is None or names == outputs.spelled:
            return examples
        return found.reordered(examples, self._order(names).places)

    @cached_property
    def _is_single_file(self) -> bool:
        return is_single_file(self.spec)

    @cached_property
    def _read_train(self) -> tuple[list[Example], Task]:
        examples, task = self._format.read(self.spec, self.spec.train_split, None)
        self._note(*remarks(examples, self.spec.train_split))
        return examples, task

    @cached_property
    def _cut(self) -> Mapping[str, list[Example]]:
        """The slices of train or, `test` included, of a single file."""
        train, _ = self._read_train
        spec, sizes, left = self.spec, {}, len(train)
        if self._is_single_file:
            sizes["test"] = _count(spec.test_size, left)
            left -= 0 if spec.test_size is None else sizes["test"]
        most = max(left // SHARE_OF_TRAIN, int(left > 2))
        sizes |= {"search": min(spec.search_size, most)}
        sizes |= {"selection": min(spec.selection_size, most)}
        found = cut(train, sizes, seed=spec.seed, apart=self._is_single_file)
        self._tell(found, len(train))
        return found.slices

    def _tell(self, found: Cut[Example], total: int) -> None:
        """Log how the slices were cut, and keep what scores depend on for the summary."""
        spec, rows = self.spec, {name: len(part) for name, part in found.slices.items()}
        if "test" in rows:
            self._note(
                f"`{Path(str(spec.path)).name}` is one file: {rows['test']} of its {total} "
                "examples are the test slice; `data.test_size` changes that."
            )
        counts = ", ".join(f"{name} {rows[name]}" for name in SLICES if name in rows)
        log.info("Slices by %s with data.seed=%d: %s.", found.by, spec.seed, counts)
        asked = {"search": spec.search_size, "selection": spec.selection_size}
        short = [f"{one} {rows[one]} of {size}" for one, size in asked.items() if rows[one] < size]
        if short:
            self._note(
                f"Fewer examples than asked for ({', '.join(short)}): a slice has at most a fifth "
                "of train."
            )
        for name, lost in found.lost.items():
            self._left_out[f"other examples of {found.by}s in {name}"] = lost
        if found.lost:
            self._note(
                f"{sum(found.lost.values())} of {total} examples are in no slice: others of "
                f"their {found.by} are in {' or '.join(found.lost)}."
            )
        if found.by == "question":
            self._note("The slices share passages, but no question: the passages are too few.")
        if found.shares_articles:
            self._note(
                "The slices share articles, but no passage: the articles are too few or too large."
            )

    def _note(self, *sentences: str) -> None:
        for sentence in sentences:
            if sentence not in self.notes:
                self.notes.append(sentence)
                log.info(sentence)

    def summary(self, *, whole: bool = False) -> dict[str, Any]:
        """Return what a report says of the data, in JSON's types.

        That is the files of each split, rows and labels of each slice that was opened (all that
        can be, with `whole`), the rows that were left out, by reason, and the notes.
        """
        files: dict[str, list[str]] = {}
        unread = []
        try:
            files = split_sources(self.spec)
            _ = [getattr(self, name) for name in (*SLICES, "_compared") if whole]
        except QualaError as error:
            unread = [f"Not all slices can be read: {error}"]
        opened = {name: vars(self)[name].examples for name in SLICES if name in vars(self)}
        return {
            "files": files,
            "slices": {name: len(examples) for name, examples in opened.items()},
            "labels": {
                name: counts
                for name, examples in opened.items()
                if (counts := self.task.label_counts(examples))
            },
            "left_out": {**self._format.left_out, **self._left_out},
            "notes": [*self.notes, *unread],
        }

    def save_summary(self, folder: Path, *, whole: bool = False) -> None:
        """Write the summary to data.json."""
        text = json.dumps(recorded(self.summary(whole=whole)), indent=1, ensure_ascii=False)
        (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")

    def _tokenize(self, name: str, examples: list[Example]) -> FeatureSet:
        tokenizer = FastTokenizer.of(self._tokenizer)
        found = self._format.features(examples, tokenizer, self.spec)
        for note in found.notes:
            self._note(f"{name}: {note}")
        return found

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


def _count(size: float | None, rows: int) -> int:
    """Return the examples of the test slice of a single file."""
    if size is None:
        return max(1, rows // SHARE_OF_FILE)
    return max(1, round(rows * size)) if size < 1 else int(size)
