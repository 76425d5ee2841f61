"""Teachers from outside: models with tokens of their own, and files, asked example by example."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from quala.checkpoint import load_any_model, padding, predict
from quala.data.characters import CharacterAnswers, Floats, log_softmax, of_windows
from quala.data.features import Example, FeatureSet, Ints, QAExample
from quala.data.formats import format_of
from quala.data.spec import DataSpec
from quala.data.task import Span, Task, Value
from quala.data.teacher_file import VALUE, ClassAnswers, TeacherFile
from quala.data.tokenize import FastTokenizer
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.foreign import (
    ForeignModel,
    foreign_config,
    foreign_kind,
    foreign_labels,
    load_foreign,
    most_tokens,
)
from quala.models.load import label_names, load_tokenizer, stored_facts


class Answerer(Protocol):
    """Something that answers examples, whatever tokens a student has."""

    @property
    def place(self) -> str:
        """A folder, a name on the hub or a file."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of its outputs; none if these have no names."""

    def answers(self, examples: Sequence[QAExample]) -> CharacterAnswers:
        """Return the answers to questions; a row of fill where there is none."""

    def classes(self, examples: Sequence[Example]) -> Floats:
        """Return probabilities, or values, (E, C); nan where there are none."""

    def tags(self, examples: Sequence[Example]) -> list[Floats]:
        """Return probabilities of the tags of each example's words, (W, C); nan where unknown."""

    def embeddings(self, examples: Sequence[Example]) -> list[Floats]:
        """Return the embeddings (T, H) of each example's texts."""

    def missing(self, examples: Sequence[Example]) -> list[str]:
        """Return the ids of examples without an answer."""


@dataclass(frozen=True)
class FileTeacher:
    """A file of answers."""

    file: TeacherFile

    @property
    def place(self) -> str:
        return self.file.place

    @property
    def labels(self) -> tuple[str, ...]:
        content = self.file.content
        return content.labels if isinstance(content, ClassAnswers) else ()

    def answers(self, examples: Sequence[QAExample]) -> CharacterAnswers:
        return self.file.answers(examples)

    def classes(self, examples: Sequence[Example]) -> Floats:
        return self.file.classes(examples)

    def tags(self, examples: Sequence[Example]) -> list[Floats]:
        raise QualaError(f"`{self.place}`: a file holds no tags of words; give a model.")

    def embeddings(self, examples: Sequence[Example]) -> list[Floats]:
        raise QualaError(f"`{self.place}`: a file holds no embeddings; give a model.")

    def missing(self, examples: Sequence[Example]) -> list[str]:
        return self.file.missing(examples)


@dataclass(frozen=True)
class ModelTeacher:
    """A model with its own tokenizer, which cuts contexts into windows of its own.

    The windows have the data's `max_length`, `doc_stride` and `max_question_length` in tokens of
    the teacher, or as many as it reads. Texts of two sentences are cut as the student's are.
    """

    place: str
    model: LengthAdaptiveModel | ForeignModel
    tokenizer: FastTokenizer
    labels: tuple[str, ...]
    spec: DataSpec
    batch_size: int
    null: bool = False
    """Whether "no answer" is one of the choices, as the data have such questions."""

    @classmethod
    def load(
        cls,
        source: str | Path,
        spec: DataSpec,
        task: Task,
        batch_size: int,
        examples: Sequence[Example] = (),
    ) -> ModelTeacher:
        """Load a teacher of any family, or a checkpoint of quala's, on the device of trainings.

        Its answers have "no answer" where `examples` have such questions. Raises QualaError for
        one of another task, and for a checkpoint that was not trained for such questions.
        """
        model: LengthAdaptiveModel | ForeignModel
        tokenizer = load_tokenizer(source)
        null = isinstance(task, Span) and lacks_answers(examples)
        if stored_facts(source) or task.headless:
            model = load_any_model(source, task=task if task.headless else None)
            if null and not getattr(model.task, "null", False):
                raise QualaError(
                    f"The teacher `{source}` was not trained with unanswerable questions, which "
                    "these data have: finetune trains it with them by `data.unanswerable=keep`."
                )
            labels, longest = label_names(model.task), cast("int | None", model.arch.longest)
        else:
            kind = foreign_kind(source)
            if kind not in (None, task.kind):
                raise QualaError(
                    f"The teacher `{source}` is for {kind}, the data for {task.kind}."
                )
            model = load_foreign(source, task, tokenizer)
            config = foreign_config(source)
            labels, longest = foreign_labels(config), most_tokens(model.hf, tokenizer)
        if model.task.kind != task.kind:
            raise QualaError(
                f"The teacher `{source}` is for {model.task.kind}, the data for {task.kind}."
            )
        model.hf.to(training_device())  # type: ignore[arg-type]
        spec = _fitted(spec, longest, str(source))
        labels = () if isinstance(task, Span) else (VALUE,) if isinstance(task, Value) else labels
        fast = _fast(tokenizer, source)
        return cls(str(source), model.eval(), fast, labels, spec, batch_size, null)

    def answers(self, examples: Sequence[QAExample]) -> CharacterAnswers:
        features, outputs = self._asked(examples)
        return of_windows(features, outputs, examples=len(examples), null=self.null)

    def classes(self, examples: Sequence[Example]) -> Floats:
        logits = np.stack(self._asked(examples)[1]).astype(np.float64)
        return logits if self.labels == (VALUE,) else np.exp(log_softmax(logits))

    def tags(self, examples: Sequence[Example]) -> list[Floats]:
        features, outputs = self._asked(examples)
        words = words_of(features)
        found = [np.full((0, outputs[0].shape[1]), np.nan) for _ in examples]
        # A word of two windows is answered by the first that has it.
        for row in reversed(range(len(features))):
            own = words[features.offsets[row] : features.offsets[row + 1]]
            example = int(features.example[row])
            lacking = int(own.max(initial=-1)) + 1 - len(found[example])
            found[example] = np.pad(
                found[example], ((0, max(0, lacking)), (0, 0)), constant_values=np.nan
            )
            found[example][own[own >= 0]] = np.exp(log_softmax(outputs[row][own >= 0]))
        return found

    def embeddings(self, examples: Sequence[Example]) -> list[Floats]:
        features, outputs = self._asked(examples)
        found: list[list[Floats]] = [[] for _ in examples]
        for example, output in zip(features.example.tolist(), outputs, strict=True):
            found[example].append(output)
        return [np.stack(one) for one in found]

    def missing(self, examples: Sequence[Example]) -> list[str]:
        return []

    def _asked(self, examples: Sequence[Example]) -> tuple[FeatureSet, list[Floats]]:
        features = format_of(self.spec).features(examples, self.tokenizer, self.spec)
        pad_to = padding(self.spec, getattr(self.model, "semantics", "natural"))
        found = predict(self.model, features, batch_size=self.batch_size, pad_to=pad_to)
        if not all(np.isfinite(one).all() for one in found):
            raise QualaError(f"The teacher `{self.place}` gives outputs that are not finite.")
        return features, cast("list[Floats]", found)


def lacks_answers(examples: Sequence[Example]) -> bool:
    """Tell whether there are questions without an answer."""
    return any(not getattr(one, "answers", ()) for one in examples)


def words_of(features: FeatureSet) -> Ints:
    """Return the word that each token begins (T,), -1 for the other tokens."""
    words: Ints | None = getattr(features, "words", None)
    if words is None:
        raise QualaError("A teacher of tags needs words, which these data do not have.")
    return words


def _fast(tokenizer: PreTrainedTokenizerBase, source: str | Path) -> FastTokenizer:
    try:
        return FastTokenizer.of(tokenizer)
    except QualaError as error:
        raise QualaError(f"The teacher `{source}`: {error}") from error


def _fitted(spec: DataSpec, longest: int | None, source: str) -> DataSpec:
    """Return the data with windows that a teacher of `longest` tokens reads."""
    if longest is None or longest >= spec.max_length:
        return dataclasses.replace(spec, pad_to_max=False)
    try:
        return dataclasses.replace(
            spec,
            max_length=longest,
            doc_stride=min(spec.doc_stride, longest // 4),
            max_question_length=min(spec.max_question_length, longest // 4),
            pad_to_max=False,
        )
    except QualaError as error:
        raise QualaError(f"The teacher `{source}` reads {longest} tokens: {error}") from error


def training_device() -> torch.device:
    """Return where Lightning will train."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
