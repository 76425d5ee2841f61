"""What a question or a sentence is before it is tokenised."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QAExample:
    """A question about a context; no answers when it is only to be answered.

    `answer_starts` are character offsets into `context`, one per answer.
    """

    id: str
    title: str
    context: str
    question: str
    answers: tuple[str, ...] = ()
    answer_starts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassificationExample:
    """One sentence or a pair; the label is a class index, or a float for regression."""

    id: str
    text: str
    text_pair: str | None
    label: int | float | None = None


Example = QAExample | ClassificationExample
