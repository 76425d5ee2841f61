"""A comparison as tables of texts, as JSON and as CSV."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from quala.compare.group import (
    SIGNED,
    UNKNOWN_BITS,
    Comparison,
    Line,
    Spread,
    Table,
    system_name,
)
from quala.compare.published import Published
from quala.compare.trials import TEACHER, Costs, Place, Trial
from quala.report.table import ABSENT, MIB, metric_name, to_csv, to_frame
from quala.results import GIGA, Row

if TYPE_CHECKING:
    from pandas import DataFrame


TITLE = "Compression recipes, compared"
FORMAT = 1
AT_LEAST = "≥ "
MILLION = 1e6
LATENCY, MACHINES = string.ascii_lowercase, string.ascii_uppercase
"""Letters of the places of latencies and of the machines of trainings."""
LATENCIES = (
    "Latency: the median per input, each run timed by itself; speed-up: over the fine-tuned "
    "teacher, timed side by side in that run"
)
CLAIMS_NOTE = (
    "What the papers report of their own models: other teachers, other data, other machines and "
    "runtimes. No figure here can be compared with one that was measured above."
)


def format_spread(
    spread: Spread | None,
    form: str = "{:.2f}",
    *,
    deviation: bool = False,
    lower_bound: bool = False,
) -> str:
    """Return the mean as text, with its `deviation` if asked for; a dash for nothing known.

    Nothing is known of a `lower_bound` of 0.
    """
    if spread is None or (lower_bound and not spread.mean):
        return ABSENT
    text = spread.text(form) if deviation else form.format(spread.mean)
    return f"{AT_LEAST}{text}" if lower_bound else text


def measured_texts(table: Table, claims: Published) -> DataFrame:
    """Return the lines of a table as texts; exact match only where it was measured."""
    exact = any(trial.row.exact_match is not None for line in table.lines for trial in line.trials)
    return to_frame(_measured(line, table, claims, exact=exact) for line in table.lines)


def _measured(line: Line, table: Table, claims: Published, *, exact: bool) -> dict[str, str]:
    def figure(value: Callable[[Row], float | None], form: str, *, deviation: bool = False) -> str:
        return format_spread(line.spread(value), form, deviation=deviation)

    def timed(figures: Mapping[Place, Spread], form: str) -> str:
        """Return a figure of the timing at each place where it is known."""
        texts = (
            format_spread(figures[place], form) + _mark(table.places, place, LATENCY)
            for place in table.places
            if place in figures
        )
        return " / ".join(texts) or ABSENT

    machines = "".join(_mark(table.machines, machine, MACHINES) for machine in line.machines)
    speedups = {place: Spread((1 / share.mean,)) for place, share in line.shares.items()}
    return {
        "#": str(line.number),
        "System": system_name(line.system, claims),
        "Setting": line.label or ABSENT,
        "Bits w-e-a": line.bits,
        "Parameters": _parameters(line),
        "Size MiB": figure(lambda row: row.size_bytes / MIB, "{:.2f}"),
        "GMACs padded": figure(lambda row: row.macs_padded / GIGA, "{:.3f}"),
        "GMACs mean": figure(lambda row: row.macs_mean / GIGA, "{:.3f}"),
        **({"EM": figure(lambda row: row.exact_match, "{:.2f}", deviation=True)} if exact else {}),
        metric_name(table.metric): line.score.text(),
        "n": str(len(line.trials)),
        "Latency ms": timed(line.latencies, "{:.2f}"),
        "Speed-up": timed(speedups, "{:.2f}x"),
        "Training s": _training_figure(line, lambda costs: costs.seconds) + machines,
        "Passes": _training_figure(line, lambda costs: costs.passes),
        "Published by its paper": line.claim.text() if line.claim else ABSENT,
    }


def training_texts(table: Table) -> DataFrame | None:
    """Return the training costs of each line but the teachers', None without such lines."""
    lines = [line for line in table.lines if line.system != TEACHER]
    return to_frame(map(_training, lines)) if lines else None


def _training(line: Line) -> dict[str, str]:
    costs = line.trials[0].costs
    stages = [
        f"{work.stage} {work.steps:,} x {work.passes // work.steps}, {work.inputs // work.passes}"
        for work in costs.training
    ] + [f"{name} from outside" for name in costs.missing]
    teacher_partial = any(trial.teacher.partial for trial in line.trials)
    teacher = {
        "Teacher: steps": line.cost(lambda costs: costs.steps, teacher=True),
        "Teacher: seconds": line.cost(lambda costs: costs.seconds, teacher=True),
    }
    return {
        "#": str(line.number),
        "Training: steps x passes in a step, inputs in a batch": "; ".join(stages) or "none",
        "Steps": _training_figure(line, lambda costs: costs.steps),
        "Passes": _training_figure(line, lambda costs: costs.passes),
        "Inputs": _training_figure(line, lambda costs: costs.inputs),
        "Seconds": _training_figure(line, lambda costs: costs.seconds),
        "Calibration, search: seconds": format_spread(
            line.cost(lambda costs: costs.other_seconds),
            "{:,.0f}",
            lower_bound=any(trial.costs.other_partial for trial in line.trials),
        ),
        **{
            name: format_spread(spread, "{:,.0f}", lower_bound=teacher_partial)
            for name, spread in teacher.items()
        },
    }


def _training_figure(line: Line, figure: Callable[[Costs], float]) -> str:
    return format_spread(line.cost(figure), "{:,.0f}", lower_bound=line.partial)


def _parameters(line: Line) -> str:
    total, nonzero = (
        format_spread(line.spread(figure), "{:.3g} M")
        for figure in (
            lambda row: None if row.parameters is None else row.parameters / MILLION,
            lambda row: None if row.nonzero is None else row.nonzero / MILLION,
        )
    )
    return total if nonzero == total else f"{total} ({nonzero} not 0)"


def claim_texts(comparison: Comparison) -> DataFrame | None:
    """Return what the papers report of the compared systems, None where they report nothing."""
    claims = comparison.claims
    if not comparison.shown_claims:
        return None
    return to_frame(
        {
            "System": comparison.names[claim.system],
            "Data": claim.data,
            "Published": claim.claim,
            "Setting": claim.setting + (f", {claim.bits}" if claim.bits else ""),
            "Paper": f"arXiv {claims.papers[claim.system]}",
            "Read in": claims.sources[claim.source],
        }
        for claim in comparison.shown_claims
    )


def notes(table: Table) -> list[str]:
    """Return the sentences without which the table would mislead."""
    return list(_notes(table))


def _notes(table: Table) -> Iterator[str]:
    yield (
        "A row is one system in one setting; runs that differ in the seed only are its n models. "
        "Scores, percent, on the test set: the mean and, for n = 2, both values, for more "
        f"{SIGNED} the standard deviation (n - 1); other figures are means."
    )
    yield (
        "GMACs padded: an input padded to the full sequence; GMACs mean: the average over the "
        "real inputs. Size: the stored file of the compressed model, 4 bytes a parameter for the "
        "teacher. Passes: forward and backward passes of a batch, without the teacher's."
    )
    yield from legends(table)
    elsewhere = [line for line in table.lines if not {*table.places[:1]} <= line.latencies.keys()]
    if table.places and elsewhere:
        numbers = ", ".join(str(line.number) for line in elsewhere)
        yield f"Not in the latency chart, because they were not timed there: {numbers}."
    if any(trial.front for line in table.lines for trial in line.trials):
        yield (
            "Faint marks: other lengths of a length-adaptive model, one measurement each; the "
            "front is drawn over the rows."
        )
    if any("not 0" in _parameters(line) for line in table.lines):
        yield "Parameters that are 0 were pruned or rounded to 0."
    if any(line.bits == UNKNOWN_BITS["int8"] for line in table.lines):
        yield "8-?-8: a report of an older version, which does not say how wide embeddings are."
    if any(line.partial for line in table.lines):
        yield (
            f"{AT_LEAST.strip()}: a lower bound. An output was given from outside, or a training "
            "was resumed by a version that timed its last process only."
        )


def legends(table: Table) -> Iterator[str]:
    """Yield where latencies and training seconds were taken, with the letters that cells bear."""
    for lead, names, letters in (
        (LATENCIES, [str(place) for place in table.places], LATENCY),
        ("Training seconds", list(table.machines), MACHINES),
    ):
        if names:
            yield f"{lead}; {_legend(names, letters)}."


def _legend(names: Sequence[str], letters: str) -> str:
    if len(names) == 1:
        return names[0]
    told = "; ".join(f"[{letter}] {name}" for letter, name in zip(letters, names))
    return f"not to be compared between {told}"


def _mark(names: Sequence[object], name: object, letters: str) -> str:
    return f" [{letters[names.index(name)]}]" if len(names) > 1 else ""


def provenance(table: Table) -> list[str]:
    """Return for each line its runs with their seeds, commits and dates."""
    return [f"{line.number}: {'; '.join(_origins(line))}" for line in table.lines]


def _origins(line: Line) -> Iterator[str]:
    for trial in line.trials:
        seeds = ", ".join(map(str, trial.seeds)) or "-"
        commit = trial.commit[:8] or "none"
        day = trial.started.date().isoformat()
        yield f"run {trial.run} (seed {seeds}, commit {commit}, {day})"


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
    lines = ((line, table) for table in comparison.tables for line in table.lines)
    return to_csv(to_frame(_csv_record(line, table) for line, table in lines))


def _csv_record(line: Line, table: Table) -> dict[str, object]:
    score = line.score
    figures = {name: line.spread(figure) for name, figure in _FIGURES.items()}
    place = next((place for place in table.places if place in line.latencies), None)
    share = line.shares.get(place) if place else None
    return {
        "table": table.title,
        "data": table.data,
        "row": line.number,
        "system": line.system,
        "setting": line.label,
        "differences": line.differences,
        "bits": line.bits,
        "tokens": line.tokens,
        "metric": table.metric,
        "n": len(line.trials),
        "score": score.mean,
        "score_deviation": score.deviation,
        "score_lowest": min(score.values),
        "score_highest": max(score.values),
        **{name: spread.mean if spread else None for name, spread in figures.items()},
        **{name: line.cost(cost).mean for name, cost in _COSTS.items()},
        "train_partial": str(line.partial).lower(),
        "teacher_steps": line.cost(lambda costs: costs.steps, teacher=True).mean,
        "teacher_seconds": line.cost(lambda costs: costs.seconds, teacher=True).mean,
        "latency_ms": line.latencies[place].mean if place else None,
        "latency_place": place,
        "speedup": 1 / share.mean if share else None,
        "seeds": " ".join(",".join(map(str, trial.seeds)) for trial in line.trials),
        "runs": " ".join(trial.run for trial in line.trials),
        "published": line.claim.text() if line.claim else None,
    }
