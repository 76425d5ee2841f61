"""Tasks: for each kind the head, the loss, the soft labels and the scores.

Nothing here imports torch before it computes with tensors, so that planning and answering do not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from quala.data.decode import answer_samples, best_answers, decode_answers, null_differences
from quala.data.features import Batch, ClassificationExample, Example, FeatureSet, QAExample
from quala.data.spec import Decoding
from quala.errors import QualaError
from quala.metrics.classes import class_counts, class_table
from quala.metrics.glue import MEANS_OF_F1, compute_metric
from quala.metrics.interval import Sample, resampled
from quala.metrics.ranking import RANKING_METRICS, query_scores
from quala.metrics.squad import (
    NULL_METRICS,
    answer_f1,
    best_null_threshold,
    evaluate_null_predictions,
    evaluate_predictions,
)
from quala.plugins import TASKS

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Logits = NDArray[np.floating[Any]]
Outputs = Sequence[Logits]
Predictions = Mapping[str, str]
Divergence = Callable[["Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A slice and the logits of its features `rows`, or of all of them.

    Raises QualaError when there is not one output per feature.
    """

    examples: Sequence[Example]
    features: FeatureSet
    outputs: Outputs
    rows: Sequence[int] | None = None

    def __post_init__(self) -> None:
        expected = len(self.features) if self.rows is None else len(self.rows)
        if expected != len(self.outputs):
            raise QualaError(
                f"Expected the outputs of {expected} features, got {len(self.outputs)}."
            )

    def by_example(self) -> tuple[list[Example], list[Logits]]:
        """Return examples of one feature each, in the order of the slice, and their logits."""
        owners = self.features.example
        owners = owners if self.rows is None else owners[list(self.rows)]
        order = np.argsort(owners, kind="stable").tolist()
        examples = [self.examples[int(owners[place])] for place in order]
        return examples, [self.outputs[place] for place in order]


@dataclass(frozen=True)
class Task(ABC):
    """The outputs of a model, and how they are trained and scored.

    Each subclass is one kind of task and holds all that differs between kinds. `metrics` names
    the scores, the primary one first. Raises QualaError for fewer than one output.
    """

    num_labels: int
    """Outputs of the head, K."""
    metrics: tuple[str, ...]

    kind: ClassVar[str]
    """The name in `quala.plugins.TASKS`, or the dotted path of the class. quala.json stores it."""
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    """The class of transformers that loads the model with its head."""
    per_token: ClassVar[bool] = False
    """Whether each token has logits, (B, n, K); otherwise each input has, (B, K).

    Logits of dropped tokens are restored: they come from the last layer that had the token.
    """
    headless: ClassVar[bool] = False
    """Whether the output is the encoder's own, pooled to (B, H), and the model has no head."""
    has_classes: ClassVar[bool] = False
    """Whether outputs are labels, whose `names` have the order of the model's."""
    significance: ClassVar[str] = "cls"
    """The ranking of tokens where the configuration names none."""

    def __post_init__(self) -> None:
        if self.num_labels < 1:
            raise QualaError(f"`num_labels` must be at least 1, got {self.num_labels}.")

    @property
    def metric(self) -> str:
        """The primary metric."""
        return self.metrics[0]

    @property
    def additive(self) -> bool:
        """Whether the primary metric is the mean of the examples' scores."""
        return False

    @property
    def keeps_first(self) -> bool:
        """Whether the first token, [CLS], is never dropped, because the head reads it."""
        return True

    @property
    def facts(self) -> dict[str, float]:
        """What quala.json says of the task beside its kind, outputs and labels."""
        return {}

    @property
    def tuned(self) -> bool:
        """Whether all is known that `tune` chooses."""
        return True

    def tune(self, outcome: Outcome) -> Task:
        """Return the task with what it decides by chosen on the selection slice."""
        return self

    def cut(self, logits: Logits, tokens: int) -> Logits:
        """Return the logits of one feature of `tokens` tokens, without padding."""
        return logits[:tokens] if self.per_token else logits

    @abstractmethod
    def distributions(self, logits: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the unnormalized log-scores of D independent choices among K, (B, D, K)."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean over B and D of the cross-entropy with the labels (B, D).

        Raises QualaError for a batch without labels.
        """
        from torch.nn import functional

        labels = labels_of(batch)
        scores = self.distributions(logits, batch["attention_mask"]).float()  # (B, D, K)
        return functional.cross_entropy(scores.flatten(0, 1), labels.flatten())

    def soft_loss(
        self, student: Tensor, teacher: Tensor, attention_mask: Tensor, divergence: Divergence
    ) -> Tensor:
        """Return the divergence of the student's distributions from the teacher's."""
        return divergence(
            self.distributions(student, attention_mask).float(),
            self.distributions(teacher, attention_mask).float(),
        )

    @abstractmethod
    def judge(self, outcome: Outcome) -> tuple[dict[str, float], dict[str, str]]:
        """Return the metrics in percent, the primary one first, and a prediction by example id."""

    @abstractmethod
    def example_scores(self, outcome: Outcome) -> Floats:
        """Return the primary metric of each example, 0 to 100.

        Raises QualaError where the metric is no mean over examples.
        """

    def samples(self, outcome: Outcome, predictions: Mapping[str, str]) -> dict[str, Sample]:
        """Return what the uncertainty of metrics is read from, by metric, where it is known.

        `predictions` are those of `judge`.
        """
        found = self.sample_of(outcome.examples, predictions)
        if found is None and self.additive:
            scores = self.example_scores(outcome)
            found = Sample(scores, len(scores))
        return {} if found is None else {self.metric: found}

    def sample_of(self, examples: Sequence[Example], said: Predictions) -> Sample | None:
        """Return that of the primary metric from what `judge` said; None where it needs logits."""
        return None

    def per_class(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Return precision, recall, F1 and support of each class; nothing without classes."""
        return []

    def label_counts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return how often each label occurs, by name, or the range and mean of values."""
        return {}

    def reordered(self, examples: Sequence[Example], places: Sequence[int]) -> list[Example]:
        """Return the examples with class i as class `places[i]`, for a task that has classes."""
        raise NotImplementedError


@dataclass(frozen=True)
class Span(Task):
    """The start and the end of an answer in the context: question answering (SQuAD).

    With `null` a question may have no answer (SQuAD 2.0): then start and end are at [CLS], which
    therefore is never dropped, as scores of different layers do not compare. No answer is given
    where [CLS] is ahead of the best answer by more than `null_threshold` (None: not tuned yet, 0).
    """

    num_labels: int = 2
    metrics: tuple[str, ...] = ("f1", "exact_match")
    decoding: Decoding = field(default_factory=Decoding)
    null: bool = False
    null_threshold: float | None = None

    kind: ClassVar[str] = "question-answering"
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    per_token: ClassVar[bool] = True
    significance: ClassVar[str] = "span"

    def __post_init__(self) -> None:
        _check_outputs(self, 2)

    @property
    def keeps_first(self) -> bool:
        return self.null

    @property
    def facts(self) -> dict[str, float]:
        return {"null_threshold": self.null_threshold or 0.0} if self.null else {}

    @property
    def tuned(self) -> bool:
        return not self.null or self.null_threshold is not None

    def tune(self, outcome: Outcome) -> Task:
        """Return the task with the threshold of the highest F1, the official `find_best_thresh`.

        It is tuned at full length and holds for all lengths: a property of the model.
        """
        if not self.null:
            return self
        asked, answers, differences = self._answered(outcome)
        gains = [
            [answer_f1(text, one.answers, null=True) for text in (answers[one.id], "")]
            for one in asked
        ]
        answered, null = np.array(gains).reshape(-1, 2).T
        threshold = best_null_threshold(list(differences.values()), answered, null)
        return replace(self, null_threshold=threshold)

    @property
    def additive(self) -> bool:
        return True

    def label_counts(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return how many questions have an answer, where some may have none."""
        if not self.null:
            return {}
        lacking = sum(isinstance(one, QAExample) and not one.answers for one in examples)
        return {"answer": len(examples) - lacking, "no answer": lacking}

    def distributions(self, logits: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the log-scores (B, 2, n) of start and end; padding has the lowest value."""
        import torch

        padding = attention_mask.unsqueeze(1) == 0  # (B, 1, n)
        lowest = torch.finfo(logits.dtype).min
        return logits.transpose(1, 2).masked_fill(padding, lowest)  # (B, 2, n)

    def judge(self, outcome: Outcome) -> tuple[dict[str, float], dict[str, str]]:
        asked, predictions = self._predicted(outcome)
        if self.null:
            found = evaluate_null_predictions(asked, predictions)
            return {name: found[name] for name in NULL_METRICS if name in found}, predictions
        score = evaluate_predictions(asked, predictions)
        return {"f1": score.f1, "exact_match": score.exact_match}, predictions

    def example_scores(self, outcome: Outcome) -> Floats:
        asked, predictions = self._predicted(outcome)
        return 100.0 * np.array(
            [answer_f1(predictions[one.id], one.answers, null=self.null) for one in asked]
        )

    def samples(self, outcome: Outcome, predictions: Mapping[str, str]) -> dict[str, Sample]:
        examples = cast("Sequence[QAExample]", outcome.examples)
        return answer_samples(examples, predictions, null=self.null)

    def sample_of(self, examples: Sequence[Example], said: Predictions) -> Sample | None:
        asked = cast("Sequence[QAExample]", examples)
        return answer_samples(asked, said, null=self.null).get(self.metric)

    def _predicted(self, outcome: Outcome) -> tuple[list[QAExample], dict[str, str]]:
        """Return the questions of an outcome, and the answer to each, "" for none."""
        asked, answers, differences = self._answered(outcome)
        null = {one for one, ahead in differences.items() if ahead > (self.null_threshold or 0.0)}
        return asked, {one: "" if one in null else text for one, text in answers.items()}

    def _answered(
        self, outcome: Outcome
    ) -> tuple[list[QAExample], dict[str, str], dict[str, float]]:
        """Return the questions, their best answers and, with `null`, how far none is ahead."""
        examples = cast("Sequence[QAExample]", outcome.examples)
        decoded = decode_answers(
            examples,
            outcome.features,
            outcome.outputs,
            decoding=replace(self.decoding, keep=1),
            rows=outcome.rows,
        )
        ahead = {}
        if self.null:
            ahead = null_differences(outcome.features, outcome.outputs, decoded, rows=outcome.rows)
        return (
            [examples[index] for index in decoded],
            best_answers(examples, decoded),
            {examples[index].id: difference for index, difference in ahead.items()},
        )


@dataclass(frozen=True)
class Classes(Task):
    """One class of a sentence or a pair; `names` are the labels in the order of the outputs."""

    metrics: tuple[str, ...] = ("accuracy", *MEANS_OF_F1)
    names: tuple[str, ...] = ()
    positive: int | None = None
    """The class that `f1` is of, and that is relevant in rankings; None: class 1."""

    kind: ClassVar[str] = "classification"
    has_classes: ClassVar[bool] = True

    @property
    def additive(self) -> bool:
        return self.metric == "accuracy"

    @property
    def _f1_class(self) -> int:
        return 1 if self.positive is None else self.positive

    def distributions(self, logits: Tensor, attention_mask: Tensor) -> Tensor:
        return logits.unsqueeze(1)  # (B, 1, C)

    def judge(self, outcome: Outcome) -> tuple[dict[str, float], dict[str, str]]:
        examples, predicted, gold = _predicted_and_gold(outcome)
        chosen = predicted.argmax(axis=1)
        positive = self._f1_class
        scores = {
            name: float(self._by_query(name, examples, predicted, gold).mean())
            if name in RANKING_METRICS
            else compute_metric(name, chosen, gold, positive=positive)
            for name in self.metrics
        }
        return scores, {
            example.id: self.names[int(one)] if self.names else str(one)
            for example, one in zip(examples, chosen, strict=True)
        }

    def samples(self, outcome: Outcome, predictions: Mapping[str, str]) -> dict[str, Sample]:
        if self.metric not in RANKING_METRICS:
            return super().samples(outcome, predictions)
        examples, predicted, gold = _predicted_and_gold(outcome)
        values = self._by_query(self.metric, examples, predicted, gold)
        return {self.metric: Sample(values, len(values))}

    def sample_of(self, examples: Sequence[Example], said: Predictions) -> Sample | None:
        if self.metric in RANKING_METRICS:  # whose scores are no labels
            return None
        names = self.names or tuple(map(str, range(self.num_labels)))
        chosen = np.array([names.index(said[one.id]) for one in examples])
        gold = np.array(_known_labels(examples))
        if self.additive:
            return Sample(np.where(chosen == gold, 100.0, 0.0), len(gold))
        return resampled(self.metric, chosen, gold, positive=self._f1_class)

    def example_scores(self, outcome: Outcome) -> Floats:
        _, predicted, gold = _predicted_and_gold(outcome)
        return np.where(predicted.argmax(axis=1) == gold, 100.0, 0.0)

    def _by_query(
        self, metric: str, examples: Sequence[Example], logits: Floats, gold: NDArray[Any]
    ) -> Floats:
        """Return the scores of queries whose items are ranked by the positive of two classes."""
        of = self._f1_class
        return query_scores(
            metric, logits[:, of] - logits[:, 1 - of], gold == of, _queries(examples)
        )

    def per_class(self, outcome: Outcome) -> list[dict[str, Any]]:
        _, predicted, gold = _predicted_and_gold(outcome)
        names = self.names or tuple(map(str, range(self.num_labels)))
        return class_table(names, class_counts(predicted.argmax(axis=1), gold, len(names)))

    def label_counts(self, examples: Sequence[Example]) -> dict[str, float]:
        counts = Counter(_known_labels(examples))
        return {name: counts[index] for index, name in enumerate(self.names)}

    def reordered(self, examples: Sequence[Example], places: Sequence[int]) -> list[Example]:
        labeled = cast("Sequence[ClassificationExample]", examples)
        return [replace(one, label=places[int(one.label or 0)]) for one in labeled]


@dataclass(frozen=True)
class Value(Task):
    """One number of a sentence or a pair: regression."""

    num_labels: int = 1
    metrics: tuple[str, ...] = ("pearson_spearman",)

    kind: ClassVar[str] = "regression"

    def __post_init__(self) -> None:
        _check_outputs(self, 1)

    def distributions(self, logits: Tensor, attention_mask: Tensor) -> Tensor:
        """Raise QualaError: a regression has no choices."""
        raise QualaError("A regression has no distributions.")

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean squared error."""
        from torch.nn import functional

        return functional.mse_loss(logits.float(), labels_of(batch))

    def soft_loss(
        self, student: Tensor, teacher: Tensor, attention_mask: Tensor, divergence: Divergence
    ) -> Tensor:
        """Return the mean squared error, whatever the divergence."""
        from torch.nn import functional

        return functional.mse_loss(student.float(), teacher.float())

    def judge(self, outcome: Outcome) -> tuple[dict[str, float], dict[str, str]]:
        examples, predicted, gold = _predicted_and_gold(outcome)
        values = predicted[:, 0]
        scores = {
            name: float(query_scores(name, values, gold, _queries(examples)).mean())
            if name in RANKING_METRICS
            else compute_metric(name, values, gold)
            for name in self.metrics
        }
        named = zip(examples, values, strict=True)
        return scores, {example.id: str(value) for example, value in named}

    def sample_of(self, examples: Sequence[Example], said: Predictions) -> Sample | None:
        values, gold = [float(said[one.id]) for one in examples], _known_labels(examples)
        if self.metric in RANKING_METRICS:
            found = query_scores(self.metric, values, gold, _queries(examples))
            return Sample(found, len(found))
        return resampled(self.metric, values, gold)

    def example_scores(self, outcome: Outcome) -> Floats:
        raise QualaError("A correlation is no mean over examples: it has no example scores.")

    def label_counts(self, examples: Sequence[Example]) -> dict[str, float]:
        return value_range(examples)


def task_of(kind: str, num_labels: int) -> Task:
    """Return the task of a stored kind. Raises QualaError for a kind that is not known."""
    task: Task = TASKS.find(kind)(num_labels=num_labels)
    return task


def value_range(examples: Sequence[Example]) -> dict[str, float]:
    """Return the least, the greatest and the mean label."""
    known = _known_labels(examples)
    return {"min": min(known), "max": max(known), "mean": sum(known) / len(known)} if known else {}


def _known_labels(examples: Sequence[Example]) -> list[int | float]:
    labels = (getattr(one, "label", None) for one in examples)
    return [label for label in labels if label is not None]


def _queries(examples: Sequence[Example]) -> list[str]:
    rows = cast("Sequence[ClassificationExample]", examples)
    return [one.text if one.group is None else one.group for one in rows]


def _check_outputs(task: Task, expected: int) -> None:
    if task.num_labels != expected:
        raise QualaError(
            f"`num_labels` of a {task.kind} task must be {expected}, got {task.num_labels}."
        )


def labels_of(batch: Batch) -> Tensor:
    """Return the labels of a batch. Raises QualaError for one without."""
    if "labels" not in batch:
        raise QualaError("The loss needs labels, got a batch without them.")
    return batch["labels"]


def _predicted_and_gold(outcome: Outcome) -> tuple[list[Example], Floats, NDArray[Any]]:
    """Return the examples, their logits (E, K) and their labels (E,)."""
    examples, logits = outcome.by_example()
    gold = np.array([cast("ClassificationExample", example).label for example in examples])
    return examples, np.array(logits, dtype=np.float64), gold
