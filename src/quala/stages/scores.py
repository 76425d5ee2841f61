"""Test scores of models at their length configurations, kept as soon as they are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from quala.data.batches import eval_batches
from quala.data.groups import equal_lengths
from quala.lengths import LengthConfig
from quala.runtime.session import Session, TorchSession
from quala.search.trie import PrefixCache, TrieWalk
from quala.stages.files import write_whole

if TYPE_CHECKING:
    from quala.data.batch import Batch
    from quala.report.rows import Role
    from quala.stages.checkpoint import Opened
    from quala.workflow import Progress

FULL = "full"
Outputs = list[list[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Measured:
    """A model that gives one row for each of its length configurations (None: full length)."""

    name: str
    opened: Opened
    points: tuple[LengthConfig | None, ...]
    roles: tuple[Role, ...]
    size_bytes: int
    scored: bool = True

    @property
    def precision(self) -> str:
        """What the row says of the weights."""
        return self.opened.precision


class Scores:
    """The test scores by model and lengths, written down as soon as they are known."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scores.json"
        self.predictions = folder / "predictions"
        self.predictions.mkdir(exist_ok=True)
        self._known: dict[str, dict[str, dict[str, float]]] = (
            json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        )

    def of(self, measured: Measured, point: LengthConfig | None) -> dict[str, float]:
        """Return the metrics of one row, nothing for a model that is only timed."""
        return self._known.get(measured.name, {}).get(name_of(point), {})

    def add(
        self, measured: Measured, session: Session, *, batch_size: int, progress: Progress
    ) -> None:
        """Score a model at all its points in one walk over the test set, unless it is done."""
        features = measured.opened.data.test.features
        if measured.name in self._known:
            progress.advance(len(features))
            return
        outputs = _outputs(measured, session, batch_size, progress)
        data = measured.opened.data
        found = {}
        for point, values in zip(measured.points, outputs, strict=True):
            found[name_of(point)], predictions = data.judge(data.test, values)
            name = f"{measured.name} {name_of(point)}".replace(" ", "_").replace(",", "-")
            answers = json.dumps(predictions)
            (self.predictions / f"{name}.json").write_text(answers, encoding="utf-8")
        self._known[measured.name] = found
        write_whole(self._file, json.dumps(self._known))


def name_of(point: LengthConfig | None) -> str:
    """Return the name of a length configuration in files and tables."""
    return FULL if point is None else str(point)


def _outputs(measured: Measured, session: Session, batch_size: int, progress: Progress) -> Outputs:
    """Return the logits of every test feature at every point."""
    opened = measured.opened
    features = opened.data.test.features
    spans = opened.model.task_kind == "question-answering"
    outputs: Outputs = [[np.empty(0)] * len(features) for _ in measured.points]
    # A fast runtime loses more to padding than it gains from fuller batches.
    cut = eval_batches if isinstance(session, TorchSession) else equal_lengths
    for rows in cut(features.lengths, batch_size):
        batch = features.batch(rows, pad_to=opened.pad_to)
        for members, logits in _logits(measured, session, batch):
            for row, values in zip(rows, logits, strict=True):
                kept = values[: features.lengths[row]] if spans else values
                for member in members:
                    outputs[member][row] = kept
        progress.advance(len(rows))
    return outputs


def _logits(
    measured: Measured, session: Session, batch: Batch
) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """Yield which points have which logits; PyTorch shares the layers that points agree on."""
    if not isinstance(session, TorchSession):
        for number, point in enumerate(measured.points):
            yield [number], session.run(batch, point).numpy()
        return
    opened = measured.opened
    model = opened.model.eval()
    full = LengthConfig.full(layers=model.num_layers, sequence_length=opened.data.spec.max_length)
    genes = [point or full for point in measured.points]
    with torch.inference_mode():
        for members, logits in TrieWalk(model, PrefixCache(0), 0, batch).logits(genes):
            yield members, logits.float().numpy()
