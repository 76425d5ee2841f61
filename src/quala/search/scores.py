"""The scores of a search's candidates example by example, in a file beside its study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optuna.storages.journal import JournalFileBackend

from quala.lengths import LengthConfig, layers_name, read_layers
from quala.search.evaluate import Evaluation
from quala.search.storage import JournalLock, mend

SCORES = "scores.jsonl"


class Scores:
    """The scores of all examples, one line a candidate, beside the study of a search.

    They are too many for Optuna's attributes. A line is on disk before its trial is told, so that
    nothing is scored twice after a kill, or when the study itself is lost.
    """

    def __init__(self, folder: Path, *, sequence_length: int) -> None:
        path = folder / SCORES
        mend(path)
        self._log = JournalFileBackend(str(path), JournalLock(path))
        self._sequence_length = sequence_length
        self._known: dict[LengthConfig, Evaluation] = {}
        self._lines = 0

    def add(self, found: Sequence[Evaluation]) -> None:
        """Write what was scored, but for what is there already."""
        known = self.read()
        lines = [
            {
                "lengths": list(one.lengths.lengths),
                **({"layers": layers_name(one.lengths.layers)} if one.lengths.layers else {}),
                "cost": one.cost,
                "score": one.score,
                "stopped": one.stopped,
                "examples": list(one.examples),
            }
            for one in found
            if one.lengths not in known
        ]
        if lines:
            self._log.append_logs(lines)

    def get(self, lengths: LengthConfig) -> Evaluation | None:
        """Return what lengths have scored, None where they have not."""
        return self._known.get(lengths) or self.read().get(lengths)

    def read(self) -> dict[LengthConfig, Evaluation]:
        """Return all that this and other processes have scored so far."""
        for line in self._log.read_logs(self._lines):
            counts, units = tuple(line.pop("lengths")), line.pop("layers", None)
            layers = read_layers(units, layers=len(counts)) if units else ()
            lengths = LengthConfig(counts, self._sequence_length, layers)
            line["examples"] = tuple(line["examples"])
            self._known[lengths] = Evaluation(lengths, **line)
            self._lines += 1
        return self._known
