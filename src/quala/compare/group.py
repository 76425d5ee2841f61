"""Rows and tables of a comparison: trials grouped by data, system, setting and seed."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from quala.compare.published import Claim, published
from quala.compare.trials import TEACHER, Place, Setting, Trial
from quala.errors import QualaError
from quala.metrics.interval import Bounds
from quala.results import Row
from quala.workflow.sweep import short_name

SIGNED = "±"


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of one figure, at least one: one value per seed."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of the values that are known, None where none is."""
        known = tuple(float(value) for value in values if value is not None)
        return cls(known) if known else None

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample's standard deviation (n - 1), None for fewer than three seeds."""
        return statistics.stdev(self.values) if len(self.values) > 2 else None

    @property
    def error(self) -> float:
        """Half the height of an error bar: the deviation, or half the range of two seeds."""
        if self.deviation is not None:
            return self.deviation
        return (max(self.values) - min(self.values)) / 2

    def text(self, form: str = "{:.2f}") -> str:
        """Return the mean and, for several seeds, `± deviation` or `(low–high)` of two."""
        mean = form.format(self.mean)
        if len(self.values) == 1:
            return mean
        if self.deviation is None:
            low, high = (form.format(value) for value in sorted(self.values))
            return f"{mean} ({low}–{high})"
        return f"{mean} {SIGNED} {form.format(self.deviation)}"


TEACHER_NAME = "fine-tuned teacher"
KINDS = {"teacher": "", "full": "full length", "chosen": "chosen lengths"}
UNKNOWN_BITS = {"fp32": "32-32-32", "int8": "8-?-8"}
"""Bits by precision, for older reports without bits: int8 embeddings are 8-bit or float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of a comparison: a system in one setting, over its seeds.

    `trials` holds the newest measurement of each model. `latencies` are milliseconds by place,
    `shares` the same as shares of the teacher's latency. `differences` are all the options in
    which the lines of the system differ.
    """

    number: int
    system: str
    label: str
    differences: str
    trials: tuple[Trial, ...]
    latencies: Mapping[Place, Spread]
    shares: Mapping[Place, Spread]
    claim: Claim | None

    @property
    def name(self) -> str:
        """The displayed name of the system."""
        return TEACHER_NAME if self.system == TEACHER else published().name(self.system)

    def spread(self, figure: str) -> Spread | None:
        """Return one of a trial's `figures` over the seeds, None where it is unknown."""
        return Spread.of(trial.figures()[figure] for trial in self.trials)

    def mean(self, figure: str, unit: float = 1.0) -> float | None:
        """Return the mean of a figure over the seeds in a unit, None where it is unknown."""
        spread = self.spread(figure)
        return spread.mean / unit if spread else None

    @property
    def score(self) -> Spread:
        """The metric on the test set, in percent."""
        spread = self.spread("score")
        assert spread is not None  # only rows with a score are trials
        return spread

    @property
    def interval(self) -> Bounds | None:
        """The 95 % interval of the score over the test examples, the mean over the seeds."""
        return _mean_bounds(trial.row.interval for trial in self.trials)

    @property
    def exact_match_interval(self) -> Bounds | None:
        """The same of exact match."""
        return _mean_bounds(trial.row.exact_match_interval for trial in self.trials)

    @property
    def busy(self) -> bool:
        """Whether a latency was measured while the machine was busy."""
        return any(trial.row.latency_ms and trial.row.latency_ms.busy for trial in self.trials)

    @property
    def bits(self) -> str:
        """Bits of weights, embeddings and activations."""
        return _joined(bits_of(trial.row) for trial in self.trials)

    @property
    def tokens(self) -> str:
        """The tokens per layer; of several seeds, all that differ."""
        return _joined(trial.row.tokens for trial in self.trials)

    @property
    def machines(self) -> tuple[str, ...]:
        """The machines of the trainings."""
        works = (work for trial in self.trials for work in trial.costs.training)
        return tuple(dict.fromkeys(work.machine for work in works))

    @property
    def partial(self) -> bool:
        """Whether the known costs are a lower bound."""
        return any(trial.costs.partial for trial in self.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The lines of one task and data, which have one metric."""

    title: str
    data: str
    metric: str
    lines: tuple[Line, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """Where latencies were measured, the place of the most lines first."""
        counts = Counter(place for line in self.lines for place in line.latencies)
        return tuple(place for place, _ in counts.most_common())

    @property
    def examples(self) -> int | None:
        """The test examples that scores are of, None where a report does not say."""
        known = {trial.row.examples for line in self.lines for trial in line.trials}
        return known.pop() if len(known) == 1 else None

    @property
    def one_teacher(self) -> bool:
        """Whether all lines have one teacher, so that shares of its latency can be compared."""
        return [line.system for line in self.lines].count(TEACHER) == 1

    @property
    def differences(self) -> list[str]:
        """The options in which settings differ, for each line that has any."""
        return [f"{line.number}: {line.differences}" for line in self.lines if line.differences]

    @property
    def machines(self) -> tuple[str, ...]:
        """The machines of the trainings, the machine of the most lines first."""
        counts = Counter(machine for line in self.lines for machine in line.machines)
        return tuple(machine for machine, _ in counts.most_common())


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tables of measured rows, and the reasons why runs were left out, by run."""

    tables: tuple[Table, ...]
    left_out: Mapping[str, str]

    @classmethod
    def of(cls, trials: Sequence[Trial], left_out: Mapping[str, str]) -> Comparison:
        """Group trials: a table for each task and data, with the newest measurement of each model.

        Raises QualaError without a trial.
        """
        if not trials:
            raise QualaError("A comparison needs at least one run with a scored row, got none.")
        newest = sorted(trials, key=lambda trial: trial.started, reverse=True)
        parts = _grouped(newest, lambda trial: (trial.data, trial.row.metric))
        titles = _titles([part[0] for part in parts])
        return cls(tuple(map(_table, titles, parts)), left_out)

    @property
    def systems(self) -> list[str]:
        """The systems of all tables."""
        return sorted({line.system for table in self.tables for line in table.lines})

    @property
    def reasons(self) -> list[str]:
        """The runs that were left out, each with the reason."""
        return [f"{run}: {reason}" for run, reason in self.left_out.items()]

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Published results of the systems that are compared, on the data of a table."""
        data = {trial.data_title for table in self.tables for line in table.lines
                for trial in line.trials}  # fmt: skip
        return published().of(self.systems, data)


def _grouped(trials: Iterable[Trial], key: Callable[[Trial], Hashable]) -> list[list[Trial]]:
    """Return the trials in groups of equal keys, in order of appearance."""
    groups: dict[Hashable, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(key(trial), []).append(trial)
    return list(groups.values())


def _table(title: str, trials: Sequence[Trial]) -> Table:
    """Return the table of some trials, the newest first."""
    systems = _grouped(trials, lambda trial: trial.system)
    systems.sort(key=lambda own: (own[0].system != TEACHER, own[0].system))
    settings = (setting for own in systems for setting in _settings(own))
    return Table(
        title=title,
        data=trials[0].data,
        metric=trials[0].row.metric,
        lines=tuple(_line(number, *one) for number, one in enumerate(settings, start=1)),
    )


def _settings(trials: Sequence[Trial]) -> Iterator[tuple[str, str, list[Trial]]]:
    """Yield label, differences and trials of each setting, full lengths before chosen ones.

    A full length that all seeds chose is one line.
    """

    def rows(part: Sequence[Trial]) -> set[tuple[str, str]]:
        return {(trial.run, trial.row.model) for trial in part}

    own = {kind: [trial for trial in trials if trial.kind == kind] for kind in KINDS}
    grouped = {
        kind: _grouped(one, lambda trial: tuple(trial.setting.items()))
        for kind, one in own.items()
    }
    full = [
        rows(part) for part in grouped["chosen"] if all(one.row.lengths is None for one in part)
    ]
    same = [rows(part) for part in grouped["full"] if rows(part) in full]
    for kind, suffix in KINDS.items():
        parts = [part for part in grouped[kind] if kind != "chosen" or rows(part) not in same]
        parts.sort(key=lambda part: part[-1].started)
        settings = [part[0].setting for part in parts]
        named = frozenset[str]().union(*(trial.named for part in parts for trial in part))
        ordered = sorted(
            zip(labels(settings, named), all_differences(settings), parts),
            key=lambda one: natural_order(one[0]),
        )
        # Without chosen lengths, all lengths are full and need no suffix.
        shown = suffix if own["chosen"] else ""
        for label, differences, part in ordered:
            also = "also chosen" if kind == "full" and rows(part) in same else ""
            yield ", ".join(filter(None, [label, shown, also])), differences, part


def _line(number: int, label: str, differences: str, trials: Sequence[Trial]) -> Line:
    models = [part[0] for part in _grouped(trials, lambda trial: trial.identity)]
    models.sort(key=lambda trial: (trial.seeds, trial.started))
    first = models[0]
    return Line(
        number=number,
        system=first.system,
        label=label,
        differences=differences,
        trials=tuple(models),
        latencies=_by_place(trials, lambda trial: trial.row.median_ms),
        shares=_by_place(trials, lambda trial: trial.share(trial.row)),
        claim=published().nearest(
            first.system, bits=bits_of(first.row), kind=first.kind, data=first.data_title
        ),
    )


def _by_place(
    trials: Sequence[Trial], figure: Callable[[Trial], float | None]
) -> dict[Place, Spread]:
    """Return a figure of the timing by place, the newest of each model."""
    found: dict[Place, dict[str, float]] = {}
    for trial in trials:
        value = figure(trial)
        if value is not None:
            found.setdefault(trial.place, {}).setdefault(trial.identity, value)
    return {place: Spread(tuple(values.values())) for place, values in found.items()}


def _titles(trials: Sequence[Trial]) -> list[str]:
    """Return a title for each data; options are added where titles would be equal."""
    sources = [
        {key: str(one) for key, one in trial.spec.items() if key != "path" and one is not None}
        for trial in trials
    ]
    titles = [f"{trial.spec['task']}, {trial.data_title}" for trial in trials]
    named = {"subset", "name", "task"}
    for title in set(titles):
        same = [number for number, one in enumerate(titles) if one == title]
        options = [{k: v for k, v in sources[n].items() if k not in named} for n in same]
        for number, text in zip(same, all_differences(options)):
            titles[number] = ", ".join(filter(None, [title, text]))
    return titles


def bits_of(row: Row) -> str:
    """Return the bits of a row; reports of older versions have only its precision."""
    if row.bits is not None:
        return row.bits
    if row.precision in UNKNOWN_BITS:
        return UNKNOWN_BITS[row.precision]
    return "-".join(part.replace("-", "/") for part in re.split("[wea]", row.precision) if part)


def _mean_bounds(intervals: Iterable[Bounds | None]) -> Bounds | None:
    """Return the mean of the bounds, None where one is unknown."""
    known = list(intervals)
    lows, highs = zip(*(one or (math.nan, math.nan) for one in known))
    return (statistics.fmean(lows), statistics.fmean(highs)) if all(known) else None


def _joined(texts: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(texts))


OFF = "off"
BASE = "base"


def differing(settings: Sequence[Setting]) -> list[str]:
    """Return the options that do not have the same value everywhere, in order of appearance."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    return [key for key in keys if len({setting.get(key) for setting in settings}) > 1]


def labels(settings: Sequence[Setting], named: Collection[str] = ()) -> list[str]:
    """Return a label for each setting; labels are equal if and only if settings are.

    A label has the options that differ and are `named` (on the command line), and others only
    where they are needed to distinguish settings. If there are several such options, values that
    most settings have are left out; a setting with all of these values is called `base`.
    """
    keys = _distinguishing(settings, named)
    if not keys:
        return [""] * len(settings)
    names = {key: short_name(key, keys) for key in keys}
    texts = [{key: setting.get(key, OFF) for key in keys} for setting in settings]
    usual = {key: Counter(text[key] for text in texts).most_common(1)[0][0] for key in keys}
    return [_label(text, names, {} if len(keys) == 1 else usual) for text in texts]


def natural_order(label: str) -> tuple[bool, list[tuple[str, float]]]:
    """Return a sort key: the base first, numbers by value (ratio=5 before ratio=10)."""
    pieces = re.findall(r"([^\d]*)(\d+(?:\.\d+)?)?", label)
    return label != BASE, [(text, float(number or 0)) for text, number in pieces]


def all_differences(settings: Sequence[Setting]) -> list[str]:
    """Return for each setting its values of all options in which settings differ."""
    keys = differing(settings)
    return [", ".join(f"{key}={one.get(key, OFF)}" for key in keys) for one in settings]


def _distinguishing(settings: Sequence[Setting], named: Collection[str]) -> list[str]:
    found = differing(settings)
    keys: list[str] = []
    for key in found:
        if key in named and not any(_repeats(key, other, settings) for other in keys):
            keys.append(key)
    for key in found:
        if key not in keys and _kinds(settings, [*keys, key]) > _kinds(settings, keys):
            keys.append(key)
    return keys


def _repeats(key: str, other: str, settings: Sequence[Setting]) -> bool:
    """Return whether an option of a stage used twice has the values of its first use."""
    if key.partition(".")[2] != other.partition(".")[2]:
        return False
    return all(key not in one or one[key] == one.get(other) for one in settings)


def _kinds(settings: Sequence[Setting], keys: Sequence[str]) -> int:
    return len({tuple(setting.get(key) for key in keys) for setting in settings})


def _label(texts: Mapping[str, str], names: Mapping[str, str], usual: Mapping[str, str]) -> str:
    shown = [(texts[key], names[key]) for key in texts if texts[key] != usual.get(key)]
    if not shown:
        return BASE
    # Options of one value share it: soft=hidden=attention=0.
    return ", ".join(
        "=".join([*(name for _, name in group), value])
        for value, group in groupby(shown, key=lambda pair: pair[0])
    )
