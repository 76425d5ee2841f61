"""What `search_strategies.py` searches: a synthetic objective, or the F1 of a checkpoint."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quala.errors import QualaError
from quala.lengths import LengthConfig, constant_drop
from quala.search.evaluate import Evaluation, Evaluator
from quala.search.space import Space
from quala.search.strategy import EvaluatedLengths

WEIGHTS = (30.0, 12.0, 5.0, 2.0, 1.0, 0.5)
GIGA = 1e9


class Synthetic:
    """A smooth objective: early drops lose most, and what a layer loses saturates."""

    def cost(self, lengths: LengthConfig) -> float:
        """Return what is linear and quadratic in the tokens that reach each layer."""
        before = (lengths.sequence_length, *lengths.lengths)
        return float(sum(b + b * b / 100 + 2 * a for b, a in zip(before, lengths.lengths)))

    def evaluate(self, configs: Sequence[LengthConfig]) -> list[Evaluation]:
        """Score candidates."""
        return [
            Evaluation(lengths, self.cost(lengths), _synthetic_score(lengths))
            for lengths in configs
        ]

    def recall(self, scored: Sequence[Evaluation]) -> None:
        """Forget: there is nothing to gain from earlier scores."""


def _synthetic_score(lengths: LengthConfig) -> float:
    shares = (length / lengths.sequence_length for length in lengths.lengths)
    return 90.0 - sum(w * (1 - share) ** 2 for w, share in zip(WEIGHTS, shares))


@dataclass
class Store:
    """Scores each candidate once, and keeps the scores in `file`, a JSON line per candidate.

    The first line holds `identity`. Raises QualaError for a file of another objective.
    """

    inner: Evaluator
    file: Path
    identity: dict[str, Any]
    piece: int = 60
    seconds: float = 0.0
    scored: int = 0
    _scores: dict[LengthConfig, float] = field(default_factory=dict)
    _costs: dict[LengthConfig, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if not self.file.exists():
            self._append([self.identity])
        whole = self.file.read_bytes()
        if not whole.endswith(b"\n"):  # its writer was killed in the last line
            whole = whole[: whole.rfind(b"\n") + 1]
            self.file.write_bytes(whole)
        first, *rest = (json.loads(line) for line in whole.splitlines())
        if first != self.identity:
            raise QualaError(f"`{self.file}` holds the scores of another objective: {first}.")
        longest = int(self.identity["sequence_length"])
        for entry in rest:
            self._scores[LengthConfig(tuple(entry["lengths"]), longest)] = entry["score"]

    def cost(self, lengths: LengthConfig) -> float:
        """Return the cost of lengths."""
        if lengths not in self._costs:
            self._costs[lengths] = self.inner.cost(lengths)
        return self._costs[lengths]

    def evaluate(self, configs: Sequence[LengthConfig]) -> list[Evaluation]:
        """Score candidates, the new ones together, `piece` at a time."""
        fresh = [lengths for lengths in dict.fromkeys(configs) if lengths not in self._scores]
        for start in range(0, len(fresh), self.piece):
            self._score(fresh[start : start + self.piece])
        return [
            Evaluation(lengths, self.cost(lengths), self._scores[lengths]) for lengths in configs
        ]

    def recall(self, scored: Sequence[Evaluation]) -> None:
        """Ignore earlier scores: the file has them."""

    def known(self, configs: Sequence[LengthConfig]) -> list[EvaluatedLengths]:
        """Score candidates and return what a strategy learns of them."""
        return [
            EvaluatedLengths(found.lengths, found.cost, found.score)
            for found in self.evaluate(configs)
        ]

    def _score(self, candidates: Sequence[LengthConfig]) -> None:
        start = time.process_time()
        found = {scored.lengths: scored.score for scored in self.inner.evaluate(candidates)}
        self.seconds += time.process_time() - start
        self.scored += len(candidates)
        self._append(
            [{"lengths": lengths.lengths, "score": score} for lengths, score in found.items()]
        )
        self._scores |= found

    def _append(self, entries: Sequence[dict[str, Any]]) -> None:
        with self.file.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(entry) + "\n" for entry in entries)


def published_space(*, layers: int, longest: int, step: int, floor: float) -> Space:
    """Return all lengths that cost no less than dropping the share `floor` at every layer."""
    lower = constant_drop(floor, layers=layers, sequence_length=longest)
    return Space(layers, longest, step=step, lower=lower)


def synthetic_store(file: Path, *, step: int, floor: float) -> tuple[Store, Space]:
    """Return the synthetic objective of six layers and 384 tokens."""
    space = published_space(layers=len(WEIGHTS), longest=384, step=step, floor=floor)
    identity = {"objective": "synthetic", "sequence_length": space.sequence_length}
    return Store(Synthetic(), file, identity), space


def checkpoint_store(
    model: Path,
    data: str | None,
    file: Path,
    *,
    questions: int,
    batch: int,
    step: int,
    floor: float,
    test: bool = False,
) -> tuple[Store, Space]:
    """Return the F1 of a checkpoint on a slice of SQuAD's train set (the demo set without `data`).

    The cost is the mean GMACs of the slice's inputs. Every candidate is scored on all questions;
    those of the test set with `test`.
    """
    # torch is imported for a checkpoint only
    from quala.checkpoint import load_with_data
    from quala.cost import mean_macs
    from quala.data.spec import DataSpec
    from quala.models.load import weights_file
    from quala.search.evaluate import SharedEvaluator, TaskScoring, cut_chunks

    sizes = {"max_length": 128, "doc_stride": 32, "max_question_length": 32}
    place: dict[str, Any] = {"path": data} if data else {"name": "demo", **sizes}
    size = {"max_test": questions} if test else {"search_size": questions}
    opened = load_with_data(model, DataSpec(task="squad", **size, **place))
    part = opened.data.test if test else opened.data.search
    longest = opened.data.spec.max_length
    chunks = cut_chunks(part, examples=questions, batch_size=batch, seed=0, pad_to=opened.pad_to)
    evaluator = SharedEvaluator(
        opened.model,
        chunks,
        TaskScoring(opened.data, part),
        lambda lengths: mean_macs(opened.model.arch, lengths, part.features.lengths) / GIGA,
        patience=None,
        cache_bytes=1024 * 2**20,
    )
    identity = {
        "objective": opened.precision,
        "weights": _digest(weights_file(model)),
        "questions": [example.id for example in part.examples],
        "batch": batch,
        "sequence_length": longest,
    }
    space = published_space(
        layers=opened.model.num_layers, longest=longest, step=step, floor=floor
    )
    return Store(evaluator, file, identity), space


def _digest(file: Path) -> str:
    with file.open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()
