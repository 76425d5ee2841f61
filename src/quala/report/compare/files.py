"""A comparison as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from quala.report.compare.comparison import CLAIMS, CLAIMS_NOTE, TITLE, Comparison, provenance
from quala.report.compare.group import Line, Table
from quala.report.compare.spread import Spread
from quala.report.compare.text import TRAINING, cells, headings, notes, training_cells
from quala.report.compare.trial import Costs, Trial
from quala.report.rows import Row

FORMAT = 1
_FIGURES: dict[str, Callable[[Row], float | None]] = {
    "exact_match": lambda row: row.exact_match,
    "parameters": lambda row: row.parameters,
    "nonzero": lambda row: row.nonzero,
    "size_bytes": lambda row: row.size_bytes,
    "macs_padded": lambda row: row.macs_padded,
    "macs_mean": lambda row: row.macs_mean,
}
_COSTS: dict[str, Callable[[Costs], float]] = {
    "train_steps": lambda costs: costs.steps,
    "train_passes": lambda costs: costs.passes,
    "train_inputs": lambda costs: costs.inputs,
    "train_seconds": lambda costs: costs.seconds,
    "other_seconds": lambda costs: costs.other_seconds,
}
_CSV = (
    "table", "data", "row", "system", "setting", "differences", "bits", "tokens", "metric", "n",
    "score", "score_deviation", "score_lowest", "score_highest", *_FIGURES, *_COSTS,
    "train_partial", "teacher_steps", "teacher_seconds", "latency_ms", "latency_place", "speedup",
    "seeds", "runs", "published",
)  # fmt: skip


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain values; a figure has one value for each seed."""
    return {
        "format": FORMAT,
        "title": TITLE,
        "tables": [
            {
                "title": table.title,
                "data": table.data,
                "metric": table.metric,
                "notes": notes(table),
                "rows": [_row(line, comparison) for line in table.lines],
            }
            for table in comparison.tables
        ],
        "published": [
            asdict(claim) | {"arxiv": comparison.claims.papers[claim.system]}
            for claim in comparison.shown_claims
        ],
        "sources": dict(comparison.claims.sources),
        "left_out": dict(comparison.left_out),
    }


def _row(line: Line, comparison: Comparison) -> dict[str, Any]:
    return {
        "row": line.number,
        "system": line.system,
        "name": comparison.names[line.system],
        "setting": line.label,
        "differences": line.differences,
        "bits": line.bits,
        "tokens": line.tokens,
        "n": len(line.trials),
        "score": _values(line.score),
        **{name: _values(line.spread(figure)) for name, figure in _FIGURES.items()},
        "latency_ms": [
            {**asdict(place), **_values(spread)} for place, spread in line.latencies.items()
        ],
        "latency_share": [
            {**asdict(place), **_values(spread)} for place, spread in line.shares.items()
        ],
        "partial": line.partial,
        "trials": [_trial(trial) for trial in line.trials],
        "published": line.claim.text() if line.claim else None,
    }


def _values(spread: Spread | None) -> dict[str, Any]:
    if spread is None:
        return {"mean": None, "deviation": None, "values": []}
    return {"mean": spread.mean, "deviation": spread.deviation, "values": list(spread.values)}


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "run": trial.run,
        "seeds": list(trial.seeds),
        "commit": trial.commit,
        "started": trial.started.isoformat(),
        "setting": dict(trial.setting),
        "costs": asdict(trial.costs),
        "teacher_costs": asdict(trial.teacher),
    }


def csv_text(comparison: Comparison) -> str:
    """Return CSV with a header, unrounded means; absent figures are empty.

    Latencies are those of the place where most lines of the table were timed, of another one
    only where a line has no other; `latency_place` names it.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(_CSV)
    for table in comparison.tables:
        writer.writerows(_csv_cells(line, table) for line in table.lines)
    return target.getvalue()


def _csv_cells(line: Line, table: Table) -> Iterator[object]:
    yield from (table.title, table.data, line.number, line.system, line.label, line.differences)
    yield from (line.bits, line.tokens, table.metric, len(line.trials))
    score = line.score
    yield from (score.mean, score.deviation, min(score.values), max(score.values))
    for figure in _FIGURES.values():
        found = line.spread(figure)
        yield found.mean if found else None
    yield from (line.cost(cost).mean for cost in _COSTS.values())
    yield str(line.partial).lower()
    yield from (
        line.cost(_COSTS[name], teacher=True).mean for name in ("train_steps", "train_seconds")
    )
    place = next((place for place in table.places if place in line.latencies), None)
    yield from (line.latencies[place].mean, place) if place else (None, None)
    share = line.shares.get(place) if place else None
    yield 1 / share.mean if share else None
    yield " ".join(",".join(map(str, trial.seeds)) for trial in line.trials)
    yield " ".join(trial.run for trial in line.trials)
    yield line.claim.text() if line.claim else None


def markdown(comparison: Comparison, pictures: Sequence[str]) -> str:
    """Return a comparison as Markdown; `pictures` are the files of the tables' charts."""
    blocks = [f"# {TITLE}"]
    for table, picture in zip(comparison.tables, pictures, strict=True):
        blocks += _table_blocks(table, picture, comparison)
    if comparison.shown_claims:
        blocks += ["## What the papers say", CLAIMS_NOTE]
        blocks.append(_markdown_table(CLAIMS, comparison.claim_cells()))
    if comparison.left_out:
        told = [f"{run}: {why}" for run, why in comparison.left_out.items()]
        blocks += ["## Left out", _list(told)]
    return "\n\n".join(blocks) + "\n"


def _table_blocks(table: Table, picture: str, comparison: Comparison) -> Iterator[str]:
    yield f"## {table.title}"
    yield f"Data {table.data[:16]}."
    yield _markdown_table(headings(table), cells(table, comparison.claims))
    yield _list(notes(table))
    yield f"![Score against cost]({picture})"
    told = [f"{line.number}: {line.differences}" for line in table.lines if line.differences]
    if told:
        yield "### Settings, in full"
        yield _list(told)
    training = training_cells(table)
    if training:
        yield "### Training"
        yield _markdown_table(TRAINING, training)
    yield "### Runs"
    yield _list(provenance(table))


def _markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    escaped = ([text.replace("|", "\\|") for text in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _list(texts: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def json_text(comparison: Comparison) -> str:
    """Return `to_json` as text."""
    return json.dumps(to_json(comparison), indent=1) + "\n"
