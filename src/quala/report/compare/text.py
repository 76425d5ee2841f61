"""A comparison's table as text: headings, cells, and the notes that they need."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence

from quala.report.compare.group import UNKNOWN_BITS, Line, Table
from quala.report.compare.published import Published
from quala.report.compare.spread import SIGNED, Spread
from quala.report.compare.trial import TEACHER, Place
from quala.report.rows import GIGA
from quala.report.table import ABSENT, MIB, metric_name

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
