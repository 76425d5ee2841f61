"""Embeddings of texts: the encoder's own output, pooled and normalized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from quala.data.features import Batch, ClassificationExample, Example
from quala.data.task import Divergence, Floats, Outcome, Predictions, Task, value_range
from quala.errors import QualaError, unknown
from quala.metrics.glue import compute_metric
from quala.metrics.interval import Sample, resampled

if TYPE_CHECKING:
    from torch import Tensor

Pooling = Literal["mean", "cls"]
EMBEDDING_METRICS = ("spearman", "pearson")
SHARPNESS = 20.0
"""Similarities are multiplied by it before their softmax: the usual scale of sentence encoders
that are trained by contrast (a temperature of 0.05)."""


@dataclass(frozen=True)
class Embedding(Task):
    """An embedding of each text, (B, H), scored by the cosine of pairs.

    `mean` pooling is over all tokens of an input: a dropped one counts with its last hidden
    state. `cls` reads the first token. `pooling` None is what the model says, else the mean.
    """

    num_labels: int = 1
    metrics: tuple[str, ...] = EMBEDDING_METRICS
    pooling: Pooling | None = None
    normalize: bool = True
    """Whether embeddings have the length 1."""

    kind: ClassVar[str] = "embedding"
    auto_class: ClassVar[str] = "AutoModel"
    headless: ClassVar[bool] = True
    significance: ClassVar[str] = "column_sum"
    """On STS-B it loses least where tokens are dropped early (docs/guide/embeddings.md)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling is not None and self.pooling not in get_args(Pooling):
            raise unknown("`pooling`", self.pooling, get_args(Pooling))

    def distributions(self, logits: Tensor, attention_mask: Tensor) -> Tensor:
        """Raise QualaError: an embedding has no choices."""
        raise QualaError("An embedding has no distributions.")

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Raise QualaError: embeddings follow a teacher's."""
        raise QualaError(
            "Embeddings have no labels to learn, only a teacher to follow: leave `finetune` out "
            "and set `hard` and `sub_hard` to 0, `teacher` to 1, as experiment=sts does."
        )

    def soft_loss(
        self, student: Tensor, teacher: Tensor, attention_mask: Tensor, divergence: Divergence
    ) -> Tensor:
        """Return one minus the cosine with the teacher's, plus how similarities diverge.

        The latter are the softmax of each text's cosines with the others of the batch, times 20.
        Teachers of another width give the similarities alone.
        """
        from torch.nn import functional

        own, goal = (
            functional.normalize(side.float(), dim=-1) for side in (student, teacher.detach())
        )
        total = own.new_zeros(())
        if own.shape == goal.shape:
            total = total + (1 - (own * goal).sum(dim=-1)).mean()
        if len(own) > 1:
            total = total + divergence(_relations(own), _relations(goal))
        return total

    def judge(self, outcome: Outcome) -> tuple[dict[str, float], dict[str, str]]:
        pairs, cosines, gold = _cosines(outcome)
        scores = {name: compute_metric(name, cosines, gold) for name in self.metrics}
        named = zip(pairs, cosines.tolist(), strict=True)
        return scores, {example.id: str(cosine) for example, cosine in named}

    def sample_of(self, examples: Sequence[Example], said: Predictions) -> Sample | None:
        pairs = cast("Sequence[ClassificationExample]", examples)
        cosines = [float(said[one.id]) for one in pairs]
        gold = np.array([one.label for one in pairs], dtype=np.float64)
        return resampled(self.metric, cosines, gold)

    def example_scores(self, outcome: Outcome) -> Floats:
        raise QualaError("A correlation is no mean over examples: it has no example scores.")

    def label_counts(self, examples: Sequence[Example]) -> dict[str, float]:
        return value_range(examples)


def _relations(embeddings: Tensor) -> Tensor:
    """Return the scaled cosines (B, 1, B) of each text with the others, the lowest with itself."""
    import torch

    scores = SHARPNESS * embeddings @ embeddings.T
    lowest = torch.finfo(scores.dtype).min
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return scores.masked_fill(own, lowest).unsqueeze(1)


def _cosines(
    outcome: Outcome,
) -> tuple[list[ClassificationExample], Floats, NDArray[np.float64]]:
    """Return the pairs, the cosine of each, (E,), and their labels, (E,).

    The two texts of a pair are two features, one after the other.
    """
    rows = np.arange(len(outcome.outputs)) if outcome.rows is None else np.asarray(outcome.rows)
    order = np.argsort(rows, kind="stable")
    vectors = np.array([outcome.outputs[place] for place in order.tolist()], dtype=np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    owners = outcome.features.example[rows[order]][::2].tolist()
    pairs = [cast("ClassificationExample", outcome.examples[owner]) for owner in owners]
    gold = np.array([one.label for one in pairs], dtype=np.float64)
    return pairs, np.asarray((vectors[::2] * vectors[1::2]).sum(axis=1)), gold
