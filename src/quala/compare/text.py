"""A comparison's table as text: headings, cells, and the notes that they need."""

from __future__ import annotations

import csv
import io
import json
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quala.compare.charts import Style, styles
from quala.compare.group import (
    SIGNED,
    UNKNOWN_BITS,
    Claim,
    Line,
    Published,
    Spread,
    Table,
    published,
    tables,
)
from quala.compare.trials import TEACHER, Costs, Place, Trial
from quala.errors import QualaError
from quala.report.table import ABSENT, MIB, metric_name
from quala.results import GIGA, Row

AT_LEAST = "≥ "
MILLION = 1e6
LATENCY, MACHINES = string.ascii_lowercase, string.ascii_uppercase
"""Letters of the places of latencies and of the machines of trainings."""
TEACHER_NAME = "fine-tuned teacher"
TRAINING = (
    "#", "Training: steps x passes in a step, inputs in a batch", "Steps", "Passes", "Inputs",
    "Seconds", "Calibration, search: seconds", "Teacher: steps", "Teacher: seconds",
)  # fmt: skip
LATENCIES = (
    "Latency: the median per input, each run timed by itself; speed-up: over the fine-tuned "
    "teacher, timed side by side in that run"
)


def system_name(system: str, claims: Published) -> str:
    """Return what a page calls a system."""
    return TEACHER_NAME if system == TEACHER else claims.name(system)


def headings(table: Table) -> list[str]:
    """Return the headings of `cells`."""
    return [
        "#",
        "System",
        "Setting",
        "Bits w-e-a",
        "Parameters",
        "Size MiB",
        "GMACs padded",
        "GMACs mean",
        *(["EM"] if _has_exact(table) else []),
        metric_name(table.metric),
        "n",
        "Latency ms",
        "Speed-up",
        "Training s",
        "Passes",
        "Published by its paper",
    ]


def cells(table: Table, claims: Published) -> list[list[str]]:
    """Return the lines of a table as text."""
    return [_cells(line, table, claims) for line in table.lines]


def _cells(line: Line, table: Table, claims: Published) -> list[str]:
    exact = [_of(line.spread(lambda row: row.exact_match))] if _has_exact(table) else []
    return [
        str(line.number),
        system_name(line.system, claims),
        line.label or ABSENT,
        line.bits,
        _parameters(line),
        _mean(line.spread(lambda row: row.size_bytes / MIB), "{:.2f}"),
        _mean(line.spread(lambda row: row.macs_padded / GIGA), "{:.3f}"),
        _mean(line.spread(lambda row: row.macs_mean / GIGA), "{:.3f}"),
        *exact,
        line.score.text(),
        str(len(line.trials)),
        _timed(line.latencies, table, "{:.2f}".format),
        _timed(line.shares, table, lambda share: f"{1 / share:.2f}x"),
        _seconds(line, table),
        _counted(line, line.cost(lambda costs: costs.passes)),
        line.claim.text() if line.claim else ABSENT,
    ]


def training_cells(table: Table) -> list[list[str]]:
    """Return what each line's training cost, matching `TRAINING`; teachers have no line here."""
    return [_training(line) for line in table.lines if line.system != TEACHER]


def _training(line: Line) -> list[str]:
    costs = line.trials[0].costs
    stages = [
        f"{work.stage} {work.steps:,} x {work.passes // work.steps}, {work.inputs // work.passes}"
        for work in costs.training
    ] + [f"{name} from outside" for name in costs.missing]
    counted = (
        line.cost(lambda costs: costs.steps),
        line.cost(lambda costs: costs.passes),
        line.cost(lambda costs: costs.inputs),
        line.cost(lambda costs: costs.seconds),
    )
    unknown = any(trial.teacher.partial for trial in line.trials)
    teacher = (
        line.cost(lambda costs: costs.steps, teacher=True),
        line.cost(lambda costs: costs.seconds, teacher=True),
    )
    return [
        str(line.number),
        "; ".join(stages) or "none",
        *(_counted(line, figure) for figure in counted),
        _bounded(
            line.cost(lambda costs: costs.other_seconds).mean,
            partial=any(trial.costs.other_partial for trial in line.trials),
        ),
        *(_bounded(figure.mean, partial=unknown) for figure in teacher),
    ]


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


def _timed(figures: Mapping[Place, Spread], table: Table, form: Callable[[float], str]) -> str:
    """Return a figure of the timing at each place where it is known."""
    told = (
        form(figures[place].mean) + _mark(table.places, place, LATENCY)
        for place in table.places
        if place in figures
    )
    return " / ".join(told) or ABSENT


def _seconds(line: Line, table: Table) -> str:
    marks = "".join(_mark(table.machines, machine, MACHINES) for machine in line.machines)
    return _counted(line, line.cost(lambda costs: costs.seconds)) + marks


def _counted(line: Line, figure: Spread) -> str:
    return _bounded(figure.mean, partial=line.partial)


def _bounded(value: float, *, partial: bool) -> str:
    """Return a figure of a training; of one that nobody tracked nothing is known."""
    if partial and not value:
        return ABSENT
    return f"{AT_LEAST if partial else ''}{value:,.0f}"


def _parameters(line: Line) -> str:
    counts = [
        _mean(line.spread(figure), "{:.3g} M")
        for figure in (
            lambda row: None if row.parameters is None else row.parameters / MILLION,
            lambda row: None if row.nonzero is None else row.nonzero / MILLION,
        )
    ]
    total, nonzero = counts
    return total if nonzero == total else f"{total} ({nonzero} not 0)"


def _of(spread: Spread | None) -> str:
    return ABSENT if spread is None else spread.text()


def _mean(spread: Spread | None, form: str) -> str:
    return ABSENT if spread is None else form.format(spread.mean)


def _has_exact(table: Table) -> bool:
    return any(trial.row.exact_match is not None for line in table.lines for trial in line.trials)


TITLE = "Compression recipes, compared"
CLAIMS = ("System", "Data", "Published", "Setting", "Paper", "Read in")
CLAIMS_NOTE = (
    "What the papers say of their own models: other teachers, other data, other machines and "
    "runtimes. No figure here can be compared with one that was measured above."
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tables of measured rows, what the papers say, and the runs that could not be read.

    Raises QualaError without a row.
    """

    tables: tuple[Table, ...]
    claims: Published
    left_out: Mapping[str, str]
    """Reasons by run."""

    @classmethod
    def of(cls, trials: Sequence[Trial], left_out: Mapping[str, str]) -> Comparison:
        """Compare trials; `left_out` are reasons by run."""
        return cls(tables(trials, published()), published(), left_out)

    def __post_init__(self) -> None:
        if not self.tables:
            raise QualaError("A comparison needs at least one run with a scored row, got none.")

    @property
    def systems(self) -> list[str]:
        """The systems of all tables."""
        return sorted({line.system for table in self.tables for line in table.lines})

    @property
    def names(self) -> dict[str, str]:
        """What the page calls each system."""
        return {system: system_name(system, self.claims) for system in self.systems}

    @property
    def styles(self) -> Mapping[str, Style]:
        """How each system looks, in all tables alike."""
        return styles(self.systems)

    @property
    def shown_claims(self) -> tuple[Claim, ...]:
        """What the papers say of the systems that are compared."""
        return self.claims.of(self.systems)

    def claim_cells(self) -> list[list[str]]:
        """Return the claims as text, matching `CLAIMS`."""
        return [
            [
                self.names[claim.system],
                claim.data,
                claim.claim,
                claim.setting + (f", {claim.bits}" if claim.bits else ""),
                f"arXiv {self.claims.papers[claim.system]}",
                self.claims.sources[claim.source],
            ]
            for claim in self.shown_claims
        ]


def provenance(table: Table) -> list[str]:
    """Return for each line its runs with their seeds, commits and dates."""
    return [f"{line.number}: {'; '.join(_origins(line))}" for line in table.lines]


def _origins(line: Line) -> Iterator[str]:
    for trial in line.trials:
        seeds = ", ".join(map(str, trial.seeds)) or "-"
        commit = trial.commit[:8] or "none"
        day = trial.started.date().isoformat()
        yield f"run {trial.run} (seed {seeds}, commit {commit}, {day})"


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
