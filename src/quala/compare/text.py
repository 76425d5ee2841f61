"""A comparison as tables of texts, as JSON and as CSV."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from quala.compare.group import SIGNED, UNKNOWN_BITS, Comparison, Line, Spread, Table
from quala.compare.published import published
from quala.compare.trials import ROW_FIGURES, TEACHER, Place, Trial
from quala.metrics.interval import interval_text, metric_name
from quala.report.table import ABSENT, MIB, format_number, to_csv, to_frame
from quala.results import GIGA
from quala.runtime.hardware import BUSY

if TYPE_CHECKING:
    from pandas import DataFrame


TITLE = "Compression recipes, compared"
FORMAT = 1
AT_LEAST = "≥ "
MILLION = 1e6
INTERVAL = "95 %"
LATENCY, MACHINES = string.ascii_lowercase, string.ascii_uppercase
"""Letters of the places of latencies and of the machines of trainings."""
LATENCIES = (
    "Latency: the median per input, timed separately in each run. Speed-up: over the fine-tuned "
    "teacher, timed in the same run."
)
CLAIMS_NOTE = (
    "What the papers report of their own models: other teachers, other data, other machines and "
    "runtimes. No figure here can be compared with one that was measured above."
)
TRAINING = {
    "Steps": "train_steps",
    "Passes": "train_passes",
    "Inputs": "train_inputs",
    "Seconds": "train_seconds",
    "Calibration, search: seconds": "other_seconds",
}
TAUGHT = {"Teacher: steps": "teacher_steps", "Teacher: seconds": "teacher_seconds"}
"""Figures of the training and of the teacher's, by their headings."""


def measured_texts(table: Table) -> DataFrame:
    """Return the lines of a table as texts; exact match and intervals only where known."""
    exact = any(line.spread("exact_match") for line in table.lines)
    intervals = any(line.interval for line in table.lines)
    return to_frame(
        _measured(line, table, exact=exact, intervals=intervals) for line in table.lines
    )


def _measured(line: Line, table: Table, *, exact: bool, intervals: bool) -> dict[str, str]:
    def timed(figures: Mapping[Place, Spread], form: str) -> str:
        """Return a figure of the timing at each place where it is known."""
        texts = (
            form.format(figures[place].mean) + _mark(table.places, place, LATENCY)
            for place in table.places
            if place in figures
        )
        return " / ".join(texts) or ABSENT

    machines = "".join(_mark(table.machines, machine, MACHINES) for machine in line.machines)
    speedups = {place: Spread((1 / share.mean,)) for place, share in line.shares.items()}
    matches = line.spread("exact_match")
    return {
        "#": str(line.number),
        "System": line.name,
        "Setting": line.label or ABSENT,
        "Bits w-e-a": line.bits,
        "Parameters": _parameters(line),
        "Size MiB": format_number(line.mean("size_bytes", MIB)),
        "GMACs padded": format_number(line.mean("macs_padded", GIGA), "{:.3f}"),
        "GMACs mean": format_number(line.mean("macs_mean", GIGA), "{:.3f}"),
        **({"EM": matches.text() if matches else ABSENT} if exact else {}),
        **(
            {f"EM {INTERVAL}": interval_text(line.exact_match_interval)}
            if exact and intervals
            else {}
        ),
        metric_name(table.metric): line.score.text(),
        **({INTERVAL: interval_text(line.interval)} if intervals else {}),
        "n": str(len(line.trials)),
        "Latency ms": timed(line.latencies, "{:.2f}") + f" {BUSY}" * line.busy,
        "Speed-up": timed(speedups, "{:.2f}x") + f" {BUSY}" * line.busy,
        "Training s": _cost(line, "train_seconds") + machines,
        "Passes": _cost(line, "train_passes"),
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
    return {
        "#": str(line.number),
        "Training: steps x passes in a step, inputs in a batch": "; ".join(stages) or "none",
        **{heading: _cost(line, name) for heading, name in (TRAINING | TAUGHT).items()},
    }


def _cost(line: Line, name: str) -> str:
    """Return a mean cost as text; of a lower bound that is 0, nothing is known."""
    mean, text = line.mean(name), format_number(line.mean(name), "{:,.0f}")
    if not any(trial.partial(name) for trial in line.trials):
        return text
    return f"{AT_LEAST}{text}" if mean else ABSENT


def _parameters(line: Line) -> str:
    total, nonzero = (
        format_number(line.mean(name, MILLION), "{:.3g} M") for name in ("parameters", "nonzero")
    )
    notes = [] if nonzero == total else [f"{nonzero} not 0"]
    if (active := line.trials[0].row.active) is not None:
        notes.append(f"{format_number(active / MILLION, '{:.3g} M')} active")
    return f"{total} ({', '.join(notes)})" if notes else total


def claim_texts(comparison: Comparison) -> DataFrame | None:
    """Return what the papers report of the compared systems, None where they report nothing."""
    known = published()
    records = [
        {
            "System": known.name(claim.system),
            "Data": claim.data,
            "Published": claim.claim,
            "Setting": claim.setting + (f", {claim.bits}" if claim.bits else ""),
            "Paper": f"arXiv {known.papers[claim.system]}",
            "Read in": known.sources[claim.source],
        }
        for claim in comparison.claims
    ]
    return to_frame(records) if records else None


def notes(table: Table) -> list[str]:
    """Return the explanations that a table needs."""
    lines = table.lines
    found = [
        "A row is one system in one setting; its n models are runs that differ only in the seed. "
        "Scores are in percent, on the test set: the mean and, for n = 2, both values, for larger "
        f"n {SIGNED} the standard deviation (n - 1). Other figures are means.",
        "GMACs padded: an input padded to the full sequence; GMACs mean: the average over the "
        "real inputs. Size: the stored file of the compressed model, 4 bytes a parameter for the "
        "teacher. Passes: forward and backward passes of a batch, without the teacher's.",
        *interval_notes(table),
        *legends(table),
    ]
    elsewhere = [line for line in lines if not {*table.places[:1]} <= line.latencies.keys()]
    if table.places and elsewhere:
        numbers = ", ".join(str(line.number) for line in elsewhere)
        found.append(f"Not in the latency chart: lines timed elsewhere or not at all, {numbers}.")
    if any(trial.front for line in lines for trial in line.trials):
        found.append(
            "Faint marks are other lengths of a length-adaptive model, one measurement each; the "
            "front is the front of the rows."
        )
    if any("not 0" in _parameters(line) for line in lines):
        found.append("Parameters that are 0 were pruned or rounded to 0.")
    if any("active" in _parameters(line) for line in lines):
        found.append("Active parameters are those that a token passes, of its own experts.")
    if any(line.bits == UNKNOWN_BITS["int8"] for line in lines):
        found.append(
            "8-?-8: an older version made the report; it did not record the bits of embeddings."
        )
    if any(line.partial for line in lines):
        found.append(
            f"{AT_LEAST.strip()}: a lower bound. An output was given from outside, or a training "
            "was resumed by an older version, which recorded only its last process."
        )
    return found


def interval_notes(table: Table) -> list[str]:
    """Return what intervals are of, and that times were disturbed, where that is so."""
    found = []
    if any(line.interval for line in table.lines):
        count = f"{table.examples:,} " if table.examples else ""
        found.append(
            f"{INTERVAL}: the interval of the score over the {count}test examples, as if they "
            "were independent; for n above 1 the mean of the models' bounds."
        )
    if any(line.busy for line in table.lines):
        found.append(f"{BUSY} Measured while the machine was busy; see the run's own report.")
    return found


def legends(table: Table) -> Iterator[str]:
    """Yield where latencies and training seconds were measured, with the letters used in cells."""
    for lead, names, letters in (
        (LATENCIES, [str(place) for place in table.places], LATENCY),
        ("Training seconds.", list(table.machines), MACHINES),
    ):
        if len(names) == 1:
            yield f"{lead} Measured on {names[0]}."
        elif names:
            places = "; ".join(f"[{letter}] {name}" for letter, name in zip(letters, names))
            yield f"{lead} Not comparable between {places}."


def _mark(names: Sequence[object], name: object, letters: str) -> str:
    return f" [{letters[names.index(name)]}]" if len(names) > 1 else ""


def provenance(table: Table) -> list[str]:
    """Return for each line its runs with their seeds, commits and dates."""
    return [f"{line.number}: {'; '.join(map(_origin, line.trials))}" for line in table.lines]


def _origin(trial: Trial) -> str:
    seeds = ", ".join(map(str, trial.seeds)) or "-"
    commit, day = trial.commit[:8] or "none", trial.started.date().isoformat()
    return f"run {trial.run} (seed {seeds}, commit {commit}, {day})"


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
                "examples": table.examples,
                "notes": notes(table),
                "rows": [_row(line) for line in table.lines],
            }
            for table in comparison.tables
        ],
        "published": [
            asdict(claim) | {"arxiv": published().papers[claim.system]}
            for claim in comparison.claims
        ],
        "sources": dict(published().sources),
        "left_out": dict(comparison.left_out),
    }


def _row(line: Line) -> dict[str, Any]:
    return {
        "row": line.number,
        "system": line.system,
        "name": line.name,
        "setting": line.label,
        "differences": line.differences,
        "bits": line.bits,
        "tokens": line.tokens,
        "n": len(line.trials),
        "score": _values(line.score),
        "interval": line.interval,
        "exact_match_interval": line.exact_match_interval,
        "busy": line.busy,
        **{name: _values(line.spread(name)) for name in ROW_FIGURES},
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
    return to_csv(_csv_record(line, table) for line, table in lines)


def _csv_record(line: Line, table: Table) -> dict[str, object]:
    score = line.score
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
        "examples": table.examples,
        "score_95_low": line.interval and line.interval[0],
        "score_95_high": line.interval and line.interval[1],
        "exact_match_95_low": line.exact_match_interval and line.exact_match_interval[0],
        "exact_match_95_high": line.exact_match_interval and line.exact_match_interval[1],
        **{name: line.mean(name) for name in (*ROW_FIGURES, *TRAINING.values())},
        "train_partial": str(line.partial).lower(),
        **{name: line.mean(name) for name in TAUGHT.values()},
        "latency_ms": line.latencies[place].mean if place else None,
        "latency_place": place,
        "latency_busy": str(line.busy).lower(),
        "speedup": 1 / share.mean if share else None,
        "seeds": " ".join(",".join(map(str, trial.seeds)) for trial in line.trials),
        "runs": " ".join(trial.run for trial in line.trials),
        "published": line.claim.text() if line.claim else None,
    }
