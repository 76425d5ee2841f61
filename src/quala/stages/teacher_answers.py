"""Soft labels for a student from any teachers: computed once, on the student's tokens, on disk.

A teacher of answers that reads the student's tokens answers window by window. Any other one is
asked example by example, as a file is, and its answers are mapped by characters, as in
`quala.data.characters`, or by the names of classes. The weighted mean of the distributions is
stored, as log-probabilities.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch

from quala.checkpoint import Checkpoint, load_with_data, predict
from quala.compress.losses import TeacherOutput
from quala.data.characters import LOWEST, log_softmax, on_tokens
from quala.data.features import Batch, QAExample
from quala.data.spec import DataSpec
from quala.data.task import Span, Value
from quala.data.teacher_file import is_teacher_file, read_teacher_file
from quala.errors import QualaError
from quala.models.load import label_names, load_tokenizer, read_config
from quala.stages.options import OWN_TEACHER
from quala.stages.outside_teacher import (
    Answerer,
    FileTeacher,
    ModelTeacher,
    lacks_answers,
    training_device,
    words_of,
)
from quala.stages.teacher import (
    CachedTeacher,
    Teacher,
    check_teacher,
    fill,
    offsets_of,
    same_ids,
    seen_features,
)
from quala.stages.teacher_cache import MEBIBYTE, AnswerStore, Array, Ints, Layout

if TYPE_CHECKING:
    from quala.stage import StageContext
    from quala.stages.options import TaughtConfig
    from quala.stages.training import Plan

FOLDER = "teachers"
AT_ONCE = 8
"""Batches of a teacher between two notes of progress: enough to sort inputs by length."""
UNTAUGHT = float(np.finfo(np.float32).min)
"""Of every output of an input that no teacher knows: soft losses take it for padding, so that the
input counts 0."""


class _Source(Protocol):
    """One teacher."""

    def on_rows(self, rows: Ints) -> list[Array | None]:
        """Return log-probabilities (n, 2) or (C,), or a value (1,), for rows of the features."""


def reads_tokens(source: str | Path, student: Any) -> bool:
    """Tell if a model of a family of quala's has the ids of the student's tokenizer."""
    if is_teacher_file(source):
        return False
    try:
        read_config(source)
    except QualaError:  # of another family, or damaged, which is said where it is loaded
        return False
    return same_ids(load_tokenizer(source), student) is None


def teacher_places(config: TaughtConfig, inputs: Mapping[str, Any]) -> list[str]:
    """Return where the teachers of the options are, none if there are no such options."""
    return [
        str(inputs.get(f"teachers.{number}", inputs.get(place) if place == OWN_TEACHER else place))
        for number, place in enumerate(config.teachers)
    ]


def store_answers(
    places: Sequence[str],
    config: TaughtConfig,
    context: StageContext,
    *,
    student: Checkpoint,
    spec: DataSpec,
    plan: Plan,
) -> CachedTeacher:
    """Store the mean answer of teachers to all inputs of a training, on the student's tokens.

    A call that was killed is resumed. Raises QualaError for a teacher that does not fit, for
    examples that a file lacks, unless `teacher_missing` is "skip", and for a full disk.
    """
    started = time.perf_counter()
    rows = seen_features(plan, config)
    sources = [_source(place, config, context, student=student, spec=spec) for place in places]
    features, task = plan.features, student.data.task
    width = _width(sources, rows) if task.headless else task.num_labels
    lengths = features.lengths[rows]
    nothing = np.zeros(len(rows) + 1, dtype=np.int64)
    layout = Layout(
        rows=rows,
        answers=offsets_of(lengths if task.per_token else np.ones_like(lengths)),
        tokens=nothing,
        outputs=width,
        spans=task.per_token,
        states=(),
        hidden=student.model.arch.hidden,
        entries=0,
        full_precision=True,
    )
    store = AnswerStore(context.scratch / FOLDER, layout)
    weights = np.array(config.teacher_weights or [1.0] * len(places))
    untaught = 0

    def answers(slots: Sequence[int]) -> tuple[torch.Tensor, tuple[()]]:
        nonlocal untaught
        found = [source.on_rows(rows[slots]) for source in sources]
        mixed = [
            mean_answer(
                [one[at] for one in found],
                weights,
                shape=(*([int(lengths[slot])] if task.per_token else []), width),
                values=task.headless or isinstance(task, Value),
            )
            for at, slot in enumerate(slots)
        ]
        untaught += sum(bool(one.max() == UNTAUGHT) for one in mixed)
        return torch.from_numpy(np.concatenate([np.atleast_2d(one) for one in mixed])), ()

    batches = _whole_examples(features.example[rows], AT_ONCE * config.batch_size)
    fill(store, batches, answers, context, what="the teachers' answers", training=config)
    if untaught:
        context.logger.warning("%d of %d inputs have no soft labels.", untaught, len(rows))
    seconds = time.perf_counter() - started
    size = layout.bytes / MEBIBYTE
    return CachedTeacher(store, [], {"cache/mebibytes": size, "cache/seconds": seconds})


def _width(sources: Sequence[_Source], rows: Ints) -> int:
    """Return the width of the teachers' embeddings, by those of one text."""
    widths = {
        len(one) for source in sources for one in source.on_rows(rows[:1]) if one is not None
    }
    if len(widths) > 1:
        raise QualaError(
            "The mean of several teachers' embeddings needs one width, got "
            f"{', '.join(map(str, sorted(widths)))}."
        )
    return widths.pop()


def mean_answer(
    answers: Sequence[Array | None], weights: Array, *, shape: tuple[int, ...], values: bool
) -> Array:
    """Return the weighted mean of distributions, as log-probabilities, or of `values`.

    Those that are None, or nan, do not count; without any an input, or a token, is untaught.
    """
    known = [(one, share) for one, share in zip(answers, weights) if one is not None]
    if not known:
        return np.full(shape, UNTAUGHT, dtype=np.float32)
    tables = np.stack([one for one, _ in known]).astype(np.float64)
    weight = np.array([share for _, share in known], dtype=np.float64)
    shares = weight.reshape(-1, *[1] * (tables.ndim - 1)) * ~np.isnan(tables)
    total = shares.sum(axis=0)
    if values:
        return np.asarray((shares * tables).sum(axis=0) / total, dtype=np.float32)
    with np.errstate(divide="ignore"):
        parts = np.nan_to_num(tables) + np.log(shares / np.where(total > 0, total, 1))
    mean = np.maximum(np.logaddexp.reduce(parts, axis=0), LOWEST)
    return np.asarray(np.where(total > 0, mean, UNTAUGHT), dtype=np.float32)


def _whole_examples(owners: Array, size: int) -> list[list[int]]:
    """Return the slots in batches of `size` examples, all windows of one together."""
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    edges = [*first[::size].tolist(), len(owners)]
    return [list(range(low, high)) for low, high in pairwise(edges)]


def _source(
    place: str,
    config: TaughtConfig,
    context: StageContext,
    *,
    student: Checkpoint,
    spec: DataSpec,
) -> _Source:
    if isinstance(student.data.task, Span) and reads_tokens(place, student.tokenizer):
        teacher = load_with_data(place, spec)
        check_teacher(teacher, student)
        teacher.model.hf.to(training_device())  # type: ignore[arg-type]
        return _ByToken(replace(teacher, data=student.data), config.batch_size)
    answerer: Answerer
    examples, task = student.data.train.examples, student.data.task
    if is_teacher_file(place):
        answerer = FileTeacher(read_teacher_file(Path(place).expanduser()))
        if isinstance(task, Span) and lacks_answers(examples) and not answerer.file.null:
            context.logger.warning(
                '`%s` never says "no answer": its soft labels give the questions without one '
                "some words of their contexts.", place,
            )  # fmt: skip
    else:
        answerer = ModelTeacher.load(place, spec, task, config.batch_size, examples)
    if lacking := answerer.missing(examples):
        what = (
            f"`{place}` has no answers to {len(lacking):,} of {len(examples):,} training examples,"
            f" such as `{lacking[0]}`"
        )
        if len(lacking) == len(examples):
            raise QualaError(f"{what}: it is of other data.")
        if config.teacher_missing == "refuse":
            raise QualaError(f"{what}; `teacher_missing=skip` trains them without soft labels.")
        if isinstance(student.data.task, Value):
            raise QualaError(f"{what}, which a regression cannot leave out.")
        context.logger.warning("%s: they have no soft labels of it.", what)
    return _ByExample(answerer, student, _class_places(answerer, student))


def _class_places(answerer: Answerer, student: Checkpoint) -> Sequence[int] | None:
    """Return the teacher's column of each output of the student; None where it has no classes."""
    task, labels = student.data.task, answerer.labels
    if isinstance(task, Span) or task.headless:
        return None
    if isinstance(task, Value):
        return [0]
    own = label_names(task)
    if not labels:  # by place, as for a model without names everywhere in quala
        return range(task.num_labels)
    try:
        return student.data.places_in(labels)
    except QualaError as error:
        raise QualaError(
            f"The labels of the teacher `{answerer.place}` are {', '.join(labels)}, the student's "
            f"{', '.join(own)}: they must be the same names, in any order."
        ) from error


@dataclass(frozen=True)
class _ByToken:
    """A teacher of answers that reads the student's tokens."""

    teacher: Checkpoint
    batch_size: int

    def on_rows(self, rows: Ints) -> list[Array | None]:
        features = self.teacher.data.train.features
        model = self.teacher.model.eval()
        outputs = predict(
            model, features, batch_size=self.batch_size, pad_to=self.teacher.pad_to, rows=rows
        )
        return [log_softmax(one.T).T for one in outputs]


@dataclass(frozen=True)
class _ByExample:
    """A teacher that is asked example by example."""

    answerer: Answerer
    student: Checkpoint
    places: Sequence[int] | None

    def on_rows(self, rows: Ints) -> list[Array | None]:
        part = self.student.data.train
        owners = part.features.example[rows]
        asked = list(dict.fromkeys(owners.tolist()))
        examples = [part.examples[one] for one in asked]
        if self.places is not None and self.student.data.task.per_token:
            return self._tags(rows, dict(zip(asked, self.answerer.tags(examples), strict=True)))
        if self.places is not None:
            return self._classes(examples)
        if self.student.data.task.headless:
            known = dict(zip(asked, self.answerer.embeddings(examples), strict=True))
            # The texts of an example are features one after the other.
            first = np.searchsorted(part.features.example, owners)
            at_row = zip(owners.tolist(), (rows - first).tolist(), strict=True)
            return [known[owner][place] for owner, place in at_row]
        questions = cast("list[QAExample]", examples)
        answers = self.answerer.answers(questions)
        at = {owner: number for number, owner in enumerate(asked)}
        return [
            self._on_window(
                int(row), questions[at[owner]],
                answers.character[at[owner]], answers.log_probability[at[owner]],
            )
            for row, owner in zip(rows, owners.tolist(), strict=True)
        ]  # fmt: skip

    def _on_window(
        self, row: int, question: QAExample, character: Array, scores: Array
    ) -> Array | None:
        features = self.student.data.train.features
        if features.char_spans is None or features.context_range is None:
            raise QualaError("Teachers of other tokens need the characters under each token.")
        low, high = features.context_range[row].tolist()
        first, tokens = int(features.offsets[row]), int(features.lengths[row])
        try:
            return on_tokens(
                character,
                scores,
                context=question.context,
                spans=features.char_spans[first + low : first + high],
                head=low,
                tokens=tokens,
            )
        except QualaError as error:
            raise QualaError(
                f"`{self.answerer.place}`, question `{question.id}`: {error}; is it of other data?"
            ) from error

    def _tags(self, rows: Ints, tags: Mapping[int, Array]) -> list[Array | None]:
        """Return the tags of words on the student's first token of each; nan on all others."""
        features, places = self.student.data.train.features, list(self.places or ())
        words, found = words_of(features), list[Array | None]()
        for row in rows.tolist():
            own = words[features.offsets[row] : features.offsets[row + 1]]
            said = tags[int(features.example[row])]
            known = (own >= 0) & (own < len(said))
            table = np.full((len(own), len(places)), np.nan)
            with np.errstate(divide="ignore"):
                table[known] = np.maximum(np.log(said[own[known]][:, places]), LOWEST)
            found.append(table)
        return found

    def _classes(self, examples: Sequence[Any]) -> list[Array | None]:
        found = self.answerer.classes(examples)
        wanted = self.student.data.task.num_labels
        if self.places is None or found.shape[1] != wanted:
            raise QualaError(
                f"`{self.answerer.place}` has {found.shape[1]} classes, the student {wanted}."
            )
        ordered = found[:, list(self.places)]
        if not isinstance(self.student.data.task, Value):
            with np.errstate(divide="ignore"):
                ordered = np.maximum(np.log(ordered), LOWEST)
        return [None if np.isnan(one).any() else one for one in ordered]


class AnswersOf:
    """The answers of stored teachers, with the inner states of a teacher of the same tokens."""

    def __init__(self, answers: CachedTeacher, states: Teacher | None = None):
        self.answers, self.states = answers, states
        self.figures: Mapping[str, float] = answers.figures

    @property
    def width(self) -> int:
        return (self.states or self.answers).width

    def to(self, device: torch.device) -> None:
        """Move the model with the inner states."""
        if self.states is not None:
            self.states.to(device)

    def outputs(self, batch: Batch, *, traced: bool = False) -> TeacherOutput:
        """Return the stored answers and, if `traced`, the inner states."""
        found = self.answers.outputs(batch, traced=False)
        if not traced or self.states is None:
            return found
        return replace(self.states.outputs(batch, traced=True), logits=found.logits)
