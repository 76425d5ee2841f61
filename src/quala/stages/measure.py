"""Measure: score the test set once for each reported row, and time all rows side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from quala.cost import macs, mean_macs, size_bytes
from quala.data.batches import eval_batches
from quala.lengths import LengthConfig
from quala.report.rows import Latency, Role, Row
from quala.runtime.latency import Timed, measure_latency
from quala.runtime.session import open_session
from quala.search.budget import choose
from quala.search.trie import PrefixCache, TrieWalk
from quala.stages.checkpoint import Opened, open_checkpoint
from quala.stages.files import write_whole
from quala.stages.reference import random_model
from quala.stages.search import read_result

if TYPE_CHECKING:
    from quala.data.batch import Batch
    from quala.search.result import SearchResult
    from quala.stages.config import MeasureConfig
    from quala.workflow import Progress, StageContext

ROWS = "rows.json"
FULL = "full"


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


def run(
    config: MeasureConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Score and time baseline, supernet and integer `model` at full length and on the front."""
    found = read_result(inputs["search"])
    models = _models(config, inputs, found)
    scores = _Scores(context.scratch)
    scored = [measured for measured in models if measured.scored]
    features = models[-1].opened.data.test.features
    with context.progress("measure: test set", len(scored) * len(features)) as progress:
        for measured in scored:
            scores.add(measured, config, progress)
    with context.progress("measure: latency", config.latency_inputs) as progress:
        latency = _latency(models, config, progress)
    rows = [row for measured in models for row in _rows(measured, scores, latency)]
    shutil.copytree(scores.predictions, context.output / "predictions")
    text = json.dumps([asdict(row) for row in rows], indent=1)
    (context.output / ROWS).write_text(text + "\n", encoding="utf-8")
    return _headline(rows)


def read_rows(folder: Path) -> list[Row]:
    """Read what a measure stage left."""
    return [Row.from_json(row) for row in json.loads((folder / ROWS).read_text(encoding="utf-8"))]


def _models(
    config: MeasureConfig, inputs: Mapping[str, Any], found: SearchResult
) -> list[Measured]:
    integer = open_checkpoint(inputs["model"], inputs["data"])
    data = integer.data
    points, chosen = _front_points(config, found)
    roles: tuple[Role, ...] = tuple("chosen" if point == chosen else "front" for point in points)
    models = []
    first: Role = "baseline"
    if config.reference is not None:
        model = random_model(config.reference, data.task)
        opened = replace(integer, model=model)
        size = size_bytes(model.arch, "fp32")
        name = f"{config.reference}, random weights"
        models.append(Measured(name, opened, (None,), (first,), size, scored=False))
        first = "full"
    for name, key, role in (("fine-tuned", "baseline", first), ("supernet", "supernet", "full")):
        opened = open_checkpoint(inputs[key], inputs["data"])
        size = size_bytes(opened.model.arch, "fp32")
        models.append(Measured(name, opened, (None,), (role,), size))
    stored = (Path(inputs["model"]) / "model.safetensors").stat().st_size
    models.append(Measured("quala", integer, (None, *points), ("full", *roles), stored))
    return models


def _front_points(
    config: MeasureConfig, found: SearchResult
) -> tuple[tuple[LengthConfig, ...], LengthConfig]:
    """Return points spread evenly over the front, dearest first, and the chosen one among them.

    The choice is made by the search slice's scores, so that the test set decides nothing.
    """
    chosen = choose(found.front, max_loss=config.max_loss).lengths
    lengths = [
        point.lengths
        for point in found.front
        if any(point.lengths.drops) or point.lengths == chosen
    ]
    places = np.linspace(0, len(lengths) - 1, min(config.front_points, len(lengths))).round()
    # the chosen point takes the place of its nearest neighbour
    places[np.abs(places - lengths.index(chosen)).argmin()] = lengths.index(chosen)
    kept = {lengths[int(place)] for place in places}
    ordered = [point.lengths for point in reversed(found.front) if point.lengths in kept]
    return tuple(ordered), chosen


class _Scores:
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
        return self._known.get(measured.name, {}).get(_key(point), {})

    def add(self, measured: Measured, config: MeasureConfig, progress: Progress) -> None:
        """Score a model at all its points in one walk over the test set, unless it is done."""
        features = measured.opened.data.test.features
        if measured.name in self._known:
            progress.advance(len(features))
            return
        outputs = _outputs(measured, config, progress)
        data = measured.opened.data
        found = {}
        for point, values in zip(measured.points, outputs, strict=True):
            found[_key(point)], predictions = data.judge(data.test, values)
            name = f"{measured.name} {_key(point)}".replace(" ", "_").replace(",", "-")
            answers = json.dumps(predictions)
            (self.predictions / f"{name}.json").write_text(answers, encoding="utf-8")
        self._known[measured.name] = found
        write_whole(self._file, json.dumps(self._known))


def _key(point: LengthConfig | None) -> str:
    return FULL if point is None else str(point)


def _outputs(
    measured: Measured, config: MeasureConfig, progress: Progress
) -> list[list[np.ndarray]]:
    """Return the logits of every test feature at every point, sharing the layers that agree."""
    opened = measured.opened
    model, features = opened.model.eval(), opened.data.test.features
    spans = model.task_kind == "question-answering"
    full = LengthConfig.full(layers=model.num_layers, sequence_length=opened.data.spec.max_length)
    genes = [point or full for point in measured.points]
    outputs: list[list[np.ndarray]] = [[np.empty(0)] * len(features) for _ in genes]
    with torch.inference_mode():
        for rows in eval_batches(features.lengths, config.batch_size):
            batch = features.batch(rows, pad_to=opened.pad_to)
            for members, logits in TrieWalk(model, PrefixCache(0), 0, batch).logits(genes):
                for row, values in zip(rows, logits.float().numpy(), strict=True):
                    kept = values[: features.lengths[row]] if spans else values
                    for member in members:
                        outputs[member][row] = kept
            progress.advance(len(rows))
    return outputs


def _latency(
    models: Sequence[Measured], config: MeasureConfig, progress: Progress
) -> dict[str, Latency]:
    """Time one input at a time, the same inputs for every row."""
    sessions = {
        measured.name: open_session(
            config.runtime,
            measured.opened.model,
            sequence_length=measured.opened.data.spec.max_length,
            threads=config.threads,
        )
        for measured in models
    }
    timed = [
        Timed(
            name=f"{measured.name} {_key(point)}",
            session=sessions[measured.name],
            lengths=point,
            batches=_timed_inputs(measured, config),
        )
        for measured in models
        for point in measured.points
    ]
    milliseconds = measure_latency(
        timed, warmup=config.warmup, threads=config.threads, advance=progress.advance
    )
    return {
        name: Latency(*np.percentile(values, (50, 90, 99)).tolist())
        for name, values in milliseconds.items()
    }


def _timed_inputs(measured: Measured, config: MeasureConfig) -> list[Batch]:
    opened = measured.opened
    features, vocabulary = opened.data.test.features, opened.model.arch.vocabulary
    count = min(config.latency_inputs, len(features))
    rows = np.random.default_rng(config.seed).permutation(len(features))[:count]
    batches = [features.batch([int(row)], pad_to=opened.pad_to) for row in rows]
    for batch in batches:
        # A reference of another vocabulary reads other words; its time is the same.
        batch["input_ids"] %= vocabulary
    return batches


def _rows(measured: Measured, scores: _Scores, latency: Mapping[str, Latency]) -> list[Row]:
    opened = measured.opened
    arch, longest = opened.model.arch, opened.data.spec.max_length
    metric = opened.data.task.metric
    full = LengthConfig.full(layers=arch.layers, sequence_length=longest)
    rows = []
    for point, role in zip(measured.points, measured.roles, strict=True):
        lengths = point or full
        found = scores.of(measured, point)
        padded = macs(arch, lengths.lengths, longest)
        natural = mean_macs(arch, lengths, opened.data.test.features.lengths)
        rows.append(
            Row(
                model=measured.name,
                precision=measured.precision,
                size_bytes=measured.size_bytes,
                tokens="full" if point is None else str(point),
                macs_padded=padded,
                macs_mean=float(padded) if opened.pad_to is not None else natural,
                role=role,
                lengths=None if point is None else point.lengths,
                score=found.get(metric),
                exact_match=found.get("exact_match"),
                metric=metric,
                latency_ms=latency[f"{measured.name} {_key(point)}"],
            )
        )
    return rows


def _headline(rows: Sequence[Row]) -> dict[str, float]:
    """Return the figures of the chosen row and of the full-length rows, for the run's metrics."""
    figures: dict[str, float] = {"test/rows": float(len(rows))}
    for row in rows:
        if row.role in ("full", "chosen") and row.score is not None:
            name = f"{row.model.replace(' ', '_')}_{row.role}"
            figures[f"test/{name}_{row.metric}"] = row.score
            figures[f"test/{name}_gmacs"] = row.macs_mean / 1e9
            if row.latency_ms is not None:
                figures[f"test/{name}_latency_ms"] = row.latency_ms.median
    return figures
