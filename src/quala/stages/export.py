"""Export: write the model as a folder that a runtime serves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.checkpoint import Checkpoint, ensure_tuned, load_with_data
from quala.cost import padded_macs
from quala.data.formats import format_of
from quala.data.read import is_single_file
from quala.data.spec import DEMO
from quala.errors import QualaError
from quala.export.folder import ExportSettings, front_of, write_export
from quala.lengths import LengthConfig, read_layers
from quala.redact import recorded
from quala.results import float_model, speedup_base, with_speedups
from quala.runtime.card import MeasuredData, Point
from quala.stages.measure import read_data, read_rows
from quala.stages.report import titled

if TYPE_CHECKING:
    from quala.data.spec import DataSpec
    from quala.stage import StageContext
    from quala.stages.result_options import ExportConfig


BATCH = 32
"""Inputs of a batch where a model of another tool is tuned; the result does not depend on it."""


def run(
    config: ExportConfig, context: StageContext, inputs: Mapping[str, Any]
) -> dict[str, float]:
    """Export `model` with the front that `measure` scored."""
    opened = load_with_data(inputs["model"], inputs["data"])
    ensure_tuned(opened, batch_size=BATCH)
    data, measured = inputs["data"], read_data(inputs["measure"])
    settings = ExportSettings(
        windows=data.windows,
        decoding=data.decoding,
        name=titled(config.title, measured),
        runtime=config.runtime,
        threads=config.threads,
        repeats=config.repeats,
        provenance=context.provenance,
        license=config.license,
        test=measured_data(data, str(measured.get("title") or format_of(data).title(data))),
    )
    card = write_export(
        opened.model,
        opened.tokenizer,
        context.output,
        front=measured_front(opened, inputs["measure"]),
        settings=settings,
    )
    size = (context.output / "model.onnx").stat().st_size
    return {"export/bytes": float(size), "export/points": float(len(card.front))}


def measured_data(spec: DataSpec, title: str) -> MeasuredData:
    """Return what the scores are of; a single file has no splits, and is not on the hub."""
    facts = {"title": title, "split": "" if is_single_file(spec) else spec.test_split}
    if spec.name and spec.name != DEMO:
        facts |= {"name": spec.name, "subset": spec.subset or ""}
    return MeasuredData(**recorded(facts))


def measured_front(opened: Checkpoint, folder: Path) -> list[Point]:
    """Return the rows of a measure stage that belong to the exported model, as points.

    Raises QualaError for rows of another size of model or input, or of another metric.
    """
    layers, longest = opened.model.num_layers, opened.data.spec.max_length
    full = LengthConfig.full(layers=layers, sequence_length=longest)
    measured = with_speedups(read_rows(folder))
    own, base = float_model(measured), speedup_base(measured)
    rows = [row for row in measured if row.model == measured[-1].model]  # it is the last one
    points = []
    for row in rows:
        over = [(own, row.own_speedup), (base, row.speedup)]
        lengths = full
        if row.lengths is not None:
            units = read_layers(row.layers, layers=len(row.lengths)) if row.layers else ()
            lengths = LengthConfig(row.lengths, longest, units)
        fits = len(lengths.lengths) == layers and row.metric == opened.data.task.metric
        fits = fits and (not lengths.layers or lengths.layers in opened.model.structures)
        if not fits or row.macs_padded != padded_macs(opened.model.arch, lengths):
            raise QualaError(
                "The rows of `measure` are of another model, task or data.max_length than the "
                f"exported one: measure it anew (`{row.tokens}` has {row.macs_padded} MACs)."
            )
        points.append(
            Point(
                lengths,
                row.score,
                row.macs_padded,
                row.macs_mean,
                examples=row.examples,
                interval=row.interval,
                speedups={one.model: ratio for one, ratio in over if one and ratio},
                chosen=row.role == "chosen",
            )
        )
    # Older versions measured a chosen full length twice.
    return front_of(list({point.lengths: point for point in points}.values()))
