"""The measure stage: one row of scores, sizes and times for each model and length."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig

from quala.architecture import config_facts
from quala.checkpoint import cut_out, ensure_tuned, load_with_data
from quala.compress.quantize.files import packed_state
from quala.compress.quantize.integer import bits_of, weight_counts
from quala.cost import active_parameters, mean_macs, padded_macs, preset, size_bytes
from quala.data.batches import eval_batches
from quala.data.features import equal_lengths
from quala.data.formats import format_of
from quala.data.task import Outcome, Task
from quala.data.taskdata import SUMMARY
from quala.durable import read_whole, replacing, write_whole
from quala.lengths import FULL, Layers, LengthConfig, layers_name
from quala.metrics.interval import Sample
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import weights_file
from quala.results import FINE_TUNED, PARTS, SUPERNET, Latency, Role, Row, predictions_file
from quala.runtime.engine import Engine, Inputs, TorchEngine, open_model
from quala.runtime.timing import watched
from quala.search.result import choose, read_result
from quala.search.trie import PrefixCache, TrieWalk
from quala.stored import read_object, read_stored

if TYPE_CHECKING:
    from quala.checkpoint import Checkpoint
    from quala.search.result import SearchResult
    from quala.stage import Progress, StageContext
    from quala.stages.result_options import MeasureConfig


def random_model(name: str, task: Task) -> LengthAdaptiveModel:
    """Return the preset `name` with random weights; time does not depend on them."""
    arch = preset(name)
    auto = getattr(transformers, task.auto_class)
    keys = config_facts(arch.family).keys
    sizes = {key: getattr(arch, name) for name, key in keys.items()}
    sizes |= arch.relative.to_config() if arch.relative is not None else {}
    config = AutoConfig.for_model(arch.family, num_labels=task.num_labels, **sizes)
    with torch.random.fork_rng(devices=[]):
        hf = auto.from_config(config)
    return LengthAdaptiveModel(hf.eval(), task=task)


Points = dict[LengthConfig | None, Role]
"""The lengths that a model is measured at (None: full length), and the roles of their rows."""
Logits = Iterator[tuple[Sequence[int], np.ndarray]]
"""The points that agree on the logits of a batch, and these logits."""


@dataclass(frozen=True, eq=False)
class MeasuredModel:
    """A model that gives one row for each of its points."""

    name: str
    opened: Checkpoint
    points: Points
    size_bytes: int
    scored: bool = True
    note: str | None = None
    """What is to be said of the chosen row."""

    def row_name(self, point: LengthConfig | None) -> str:
        """Return the name of the row of a point."""
        return f"{self.name} {name_of(point)}"


class Scores:
    """The test scores by model and lengths, stored as soon as they are known."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scored.json"
        self.predictions = folder / "predictions"
        self.predictions.mkdir(exist_ok=True)
        self._known: dict[str, dict[str, dict[str, Any]]] = read_whole(self._file) or {}

    def of(self, measured: MeasuredModel, point: LengthConfig | None) -> dict[str, Any]:
        """Return the scores and intervals of one row, nothing for a model that is only timed."""
        found = self._known.get(measured.name, {}).get(name_of(point), {})
        return {key: value for key, value in found.items() if key != DETAILS}

    def details(self) -> dict[str, Any]:
        """Return by row, where there is more than its score: all metrics, and each class."""
        return {
            f"{model} {point}": found[DETAILS]
            for model, points in self._known.items()
            for point, found in points.items()
            if found.get(DETAILS)
        }

    def add(
        self, measured: MeasuredModel, engine: Engine, *, batch_size: int, progress: Progress
    ) -> None:
        """Score a model at all its points in one walk over the test set, unless it is done."""
        if measured.name in self._known:
            progress.advance(_work(measured))
            return
        outputs = _outputs(measured, engine, batch_size, progress)
        data, part = measured.opened.data, measured.opened.data.test
        found, full = {}, dict[str, Sample]()
        for point, values in zip(measured.points, outputs, strict=True):
            metrics, predictions = data.judge(part, values)
            outcome = Outcome(part.examples, part.features, values)
            samples = data.task.samples(outcome, predictions)
            full = full or samples  # the first point is the full length
            found[name_of(point)] = _scored(metrics, data.task.metric, samples, full)
            if more := metrics.keys() - {data.task.metric, "exact_match"}:
                others = {name: score for name, score in metrics.items() if name in more}
                classes = data.task.per_class(outcome)
                found[name_of(point)][DETAILS] = {"metrics": others, "classes": classes}
            name = predictions_file(measured.name, name_of(point))
            with replacing(self.predictions / name) as draft:
                draft.write_text(json.dumps(predictions), encoding="utf-8")
        self._known[measured.name] = found
        write_whole(self._file, json.dumps(self._known))


def _scored(
    metrics: Mapping[str, float],
    metric: str,
    samples: Mapping[str, Sample],
    full: Mapping[str, Sample],
) -> dict[str, Any]:
    """Return the fields of a row that come from the test set."""
    own = samples.get(metric)
    exact = samples.get("exact_match")
    parts = {name: metrics[name] for name in PARTS if name in metrics}
    return parts | {
        "score": metrics.get(metric),
        "exact_match": metrics.get("exact_match"),
        "interval": own and own.interval(),
        "exact_match_interval": exact and exact.interval(),
        "loss_interval": own.loss(full[metric]) if own and samples is not full else None,
    }


def _work(measured: MeasuredModel) -> int:
    """Return how many features a model is run on, over all of its points."""
    return len(measured.points) * len(measured.opened.data.test.features)


def name_of(point: LengthConfig | None) -> str:
    """Return the name of a length configuration in files and tables."""
    return FULL if point is None else point.name


def _outputs(
    measured: MeasuredModel, engine: Engine, batch_size: int, progress: Progress
) -> list[list[np.ndarray]]:
    """Return the logits of every test feature at every point."""
    features = measured.opened.data.test.features
    task = measured.opened.model.task
    outputs: list[list[np.ndarray]] = [[np.empty(0)] * len(features) for _ in measured.points]
    points = [*measured.points]
    alike: dict[Layers, list[int]] = {}
    for number, point in enumerate(points):
        alike.setdefault(point.layers if point else (), []).append(number)
    run: Callable[[Checkpoint, Sequence[LengthConfig | None], Sequence[int]], Logits]
    for layers, numbers in alike.items():
        same = [points[number] for number in numbers]
        if engine.name == TorchEngine.name:
            cut, run = (
                eval_batches,
                partial(_shared_logits, cut_out(measured.opened.model, layers)),
            )
        else:  # padding costs these runtimes more than fuller batches gain
            cut, run = equal_lengths, partial(_served_logits, engine)
        for rows in cut(features.lengths, batch_size):
            for members, logits in run(measured.opened, same, rows):
                for row, values in zip(rows, logits, strict=True):
                    kept = task.cut(values, features.lengths[row])
                    for member in members:
                        outputs[numbers[member]][row] = kept
            progress.advance(len(rows) * len(same))
    return outputs


def _served_logits(
    engine: Engine,
    opened: Checkpoint,
    points: Sequence[LengthConfig | None],
    rows: Sequence[int],
) -> Logits:
    """Run each point by itself."""
    inputs = opened.data.test.features.arrays(rows, pad_to=opened.pad_to)
    for number, point in enumerate(points):
        yield [number], engine.logits(inputs, point)


def _shared_logits(
    part: LengthAdaptiveModel,
    opened: Checkpoint,
    points: Sequence[LengthConfig | None],
    rows: Sequence[int],
) -> Logits:
    """Run the layers that points of one sub-network agree on once, in PyTorch."""
    longest = opened.data.spec.max_length
    full = LengthConfig.full(layers=part.num_layers, sequence_length=longest)
    lengths = [point.extracted if point else full for point in points]
    batch = opened.data.test.features.batch(rows, pad_to=opened.pad_to)
    with torch.inference_mode():
        for members, logits in TrieWalk(part.eval(), PrefixCache(0), 0, batch).logits(lengths):
            yield members, logits.float().numpy()


ROWS, TITLE, DETAILS = "rows.json", "title.txt", "details"


def run(
    config: MeasureConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Score and time baseline, supernet and integer `model` at full length and on the front.

    `supernet` and `search` may be missing: then there are no rows of it, or no front.
    """
    found = read_result(inputs["search"]) if "search" in inputs else None
    models = _models(config, inputs, found)
    scores = Scores(context.scratch)
    engines = {
        measured.name: open_model(
            config.runtime,
            measured.opened.model,
            sequence_length=measured.opened.data.spec.max_length,
            threads=config.threads,
        )
        for measured in models
    }
    scored = [measured for measured in models if measured.scored]
    with context.progress("measure: test set", sum(map(_work, scored))) as progress:
        for measured in scored:
            engine = engines[measured.name]
            scores.add(measured, engine, batch_size=config.batch_size, progress=progress)
    with context.progress("measure: latency", config.latency_inputs) as progress:
        latency = _latency(models, engines, config, progress)
    rows = [row for measured in models for row in _rows(measured, scores, latency)]
    shutil.copytree(scores.predictions, context.output / "predictions")
    data = models[-1].opened.data
    data.save_summary(context.output, whole=True)
    text = json.dumps([row.to_json() for row in rows], indent=1)
    (context.output / ROWS).write_text(text + "\n", encoding="utf-8")
    if details := scores.details():
        text = json.dumps(details, indent=1, ensure_ascii=False)
        (context.output / f"{DETAILS}.json").write_text(text + "\n", encoding="utf-8")
    title = format_of(data.spec).title(data.spec, data.test.examples)
    (context.output / TITLE).write_text(title + "\n", encoding="utf-8")
    return _headline(rows)


def read_rows(folder: Path) -> list[Row]:
    """Read the rows of a measure stage."""
    found: list[Row] = read_stored(list[Row], folder / ROWS)
    return found


def read_data(folder: Path) -> dict[str, Any]:
    """Read what a measure stage says of its data and its classes; older versions said nothing."""
    summary, title, details = folder / SUMMARY, folder / TITLE, folder / f"{DETAILS}.json"
    found = read_object(summary) if summary.is_file() else {}
    if details.is_file():
        found[DETAILS] = read_object(details)
    named = {"title": title.read_text(encoding="utf-8").strip()} if title.is_file() else {}
    return named | found


def _models(
    config: MeasureConfig, inputs: Mapping[str, Any], found: SearchResult | None
) -> list[MeasuredModel]:
    integer = load_with_data(inputs["model"], inputs["data"])
    ensure_tuned(integer, batch_size=config.batch_size)
    layers, longest = integer.model.num_layers, integer.data.spec.max_length
    own: Points = {None: "full"}
    points: Points = {}
    note = None
    if found is not None:
        own_parts = integer.model.structures
        found = found.fitting(sequence_length=longest, layers=layers, structures=own_parts)
        chosen, note = _choice(config, found, integer)
        points = _front(config, found, chosen, _kept_by(integer))
        if chosen is None:
            own = {None: "chosen"}
    models = []
    first: Role = "baseline"
    if config.reference is not None:
        model = random_model(config.reference, integer.data.task)
        opened = replace(integer, model=model)
        size = size_bytes(model.arch, "fp32")
        name = f"{config.reference}, random weights"
        models.append(MeasuredModel(name, opened, {None: first}, size, scored=False))
        first = "full"
    baseline: Points = {None: first}
    supernet: Points = {None: "full"}
    for point, role in points.items():
        if config.supernet in ("front", role):
            supernet[point] = "supernet"
    for name, key, each in (
        (FINE_TUNED, "baseline", baseline),
        (SUPERNET, "supernet", supernet),
    ):
        if key in inputs:
            opened = load_with_data(inputs[key], inputs["data"])
            ensure_tuned(opened, batch_size=config.batch_size)
            size = size_bytes(opened.model.arch, "fp32")
            models.append(MeasuredModel(name, opened, each, size))
    stored = weights_file(inputs["model"]).stat().st_size
    name = config.name or "model"
    models.append(MeasuredModel(name, integer, {**own, **points}, stored, note=note))
    return models


Kept = Callable[[LengthConfig], Hashable]


def _kept_by(opened: Checkpoint) -> Kept:
    """Return what tells points apart: the layers, and the tokens kept of each test input."""
    counts = np.unique(opened.data.test.features.lengths).tolist()
    if opened.pad_to is not None:
        counts = [opened.pad_to]
    return lambda lengths: (lengths.layers, *(lengths.kept(count) for count in counts))


def _full_of(lengths: LengthConfig) -> LengthConfig:
    longest = lengths.sequence_length
    return LengthConfig.full(layers=len(lengths.lengths), sequence_length=longest)


def _choice(
    config: MeasureConfig, found: SearchResult, opened: Checkpoint
) -> tuple[LengthConfig | None, str | None]:
    """Return the chosen lengths; None for the full length, and why it was chosen.

    The choice is made by the search slice's scores, so that the test set decides nothing.
    """
    point = choose(found, max_loss=config.max_loss, certainty=config.certainty)
    if point.lengths.is_full:
        unit = "point" if config.max_loss == 1 else "points"
        elastic = any(one.lengths.layers for one in found.candidates)
        return None, (
            f"The full length was chosen: no shorter lengths{' or smaller layers' * elastic} stay "
            f"within {config.max_loss:g} "
            f"{unit} of it on the {point.examples:,} examples of the search slice at "
            f"{100 * config.certainty:g} % certainty."
        )
    kept = _kept_by(opened)
    if kept(point.lengths) == kept(_full_of(point.lengths)):
        return None, f"The chosen lengths {point.lengths} drop no token of any test input."
    return point.lengths, None


def _front(
    config: MeasureConfig, found: SearchResult, chosen: LengthConfig | None, kept: Kept
) -> Points:
    """Return points spread evenly over the front, dearest first, with the chosen lengths.

    Lengths that keep the same tokens are one point, and the full length is none of them.
    """
    points = [point.lengths for point in found.front]  # cheapest first
    different = {kept(lengths): lengths for lengths in points}
    if chosen is not None:
        different[kept(chosen)] = chosen
    different.pop(kept(_full_of(points[0])), None)
    lengths = list(different.values())
    wanted = config.front_points - (chosen is None)  # the full length's row is one then
    places = np.linspace(0, len(lengths) - 1, min(wanted, len(lengths))).round()
    if chosen is not None:  # it takes the place of its nearest neighbor
        places[np.abs(places - lengths.index(chosen)).argmin()] = lengths.index(chosen)
    measured = {lengths[int(place)] for place in places}
    return {
        point: "chosen" if point == chosen else "front"
        for point in reversed(lengths)
        if point in measured
    }


def _latency(
    models: Sequence[MeasuredModel],
    engines: Mapping[str, Engine],
    config: MeasureConfig,
    progress: Progress,
) -> dict[str, Latency]:
    """Time one input at a time, the same inputs for every row."""
    calls = {
        measured.row_name(point): [
            partial(engines[measured.name].logits, inputs, point)
            for inputs in _timed_inputs(measured, config)
        ]
        for measured in models
        for point in measured.points
    }
    times, conditions = watched([*calls.values()], warmup=config.warmup, advance=progress.advance)
    found = {}
    for name, values in zip(calls, times, strict=True):
        median, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
        found[name] = Latency(median, p90, p99, conditions)
    return found


def _timed_inputs(measured: MeasuredModel, config: MeasureConfig) -> Iterator[Inputs]:
    opened = measured.opened
    features, vocabulary = opened.data.test.features, opened.model.arch.vocabulary
    count = min(config.latency_inputs, len(features))
    for row in np.random.default_rng(config.seed).permutation(len(features))[:count]:
        inputs = features.arrays([int(row)], pad_to=opened.pad_to)
        # The reference model may have a smaller vocabulary; its time does not depend on the ids.
        inputs["input_ids"] %= vocabulary
        yield inputs


def _rows(measured: MeasuredModel, scores: Scores, latency: Mapping[str, Latency]) -> list[Row]:
    opened = measured.opened
    arch, longest = opened.model.arch, opened.data.spec.max_length
    metric = opened.data.task.metric
    full = LengthConfig.full(layers=arch.layers, sequence_length=longest)
    bits, sizes = bits_of(opened.model), dict[Layers, tuple[int, int, int]]()
    rows = []
    for point, role in measured.points.items():
        lengths = point or full
        if lengths.layers not in sizes:
            sizes[lengths.layers] = _sizes(measured, lengths.layers)
        parameters, nonzero, stored = sizes[lengths.layers]
        found = scores.of(measured, point)
        padded = padded_macs(arch, lengths)
        natural = mean_macs(arch, lengths, opened.data.test.features.lengths)
        rows.append(
            Row(
                model=measured.name,
                precision=opened.precision,
                size_bytes=stored,
                tokens=name_of(point),
                macs_padded=padded,
                macs_mean=float(padded) if opened.pad_to is not None else natural,
                role=role,
                lengths=None if point is None else point.lengths,
                metric=metric,
                latency_ms=latency[measured.row_name(point)],
                bits=bits,
                parameters=parameters,
                nonzero=nonzero,
                active=active_parameters(arch) if arch.routed else None,
                examples=len(opened.data.test.examples) if found else None,
                note=measured.note if role == "chosen" else None,
                layers=layers_name(lengths.layers) if lengths.layers else "",
                **found,
            )
        )
    return rows


def _sizes(measured: MeasuredModel, layers: Layers) -> tuple[int, int, int]:
    """Return the parameters of a sub-network, how many of them are not 0, and its bytes."""
    model = measured.opened.model
    part = cut_out(model, layers)
    saved = _tensor_bytes(model) - _tensor_bytes(part) if layers else 0
    return *weight_counts(part.hf), measured.size_bytes - saved


def _tensor_bytes(model: LengthAdaptiveModel) -> int:
    return sum(one.numel() * one.element_size() for one in packed_state(model.hf).values())


def _headline(rows: Sequence[Row]) -> dict[str, float]:
    """Return the figures of the chosen row and of the full-length rows, for the run's metrics."""
    figures: dict[str, float] = {"test/rows": float(len(rows))}
    for row in rows:
        chosen = ("chosen",) if row.lengths else ("full", "chosen")
        roles = {"full": ("full",), "chosen": chosen}.get(row.role, ())
        if row.score is None:
            continue
        for role in roles:
            name = f"{row.model.replace(' ', '_')}_{role}"
            figures[f"test/{name}_{row.metric}"] = row.score
            for part in PARTS:
                if (value := getattr(row, part)) is not None:
                    figures[f"test/{name}_{part}"] = value
            figures[f"test/{name}_gmacs"] = row.macs_mean / 1e9
            if row.latency_ms is not None:
                figures[f"test/{name}_latency_ms"] = row.latency_ms.median
    return figures
