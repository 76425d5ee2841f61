"""Rows and tables of a comparison: trials grouped by data, system, setting and seed."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from quala.compare.published import Claim, Published, published
from quala.compare.settings import all_differences, labels, natural_order
from quala.compare.trials import TEACHER, Costs, Place, Trial
from quala.errors import QualaError
from quala.plugins import FORMATS
from quala.report.table import to_frame
from quala.results import Row

if TYPE_CHECKING:
    from pandas import DataFrame


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

    def spread(self, figure: Callable[[Row], float | None]) -> Spread | None:
        """Return a figure of the rows over the seeds."""
        return Spread.of(figure(trial.row) for trial in self.trials)

    def cost(self, figure: Callable[[Costs], float], *, teacher: bool = False) -> Spread:
        """Return a cost of the training, or of the teacher's, over the seeds."""
        costs = (trial.teacher if teacher else trial.costs for trial in self.trials)
        return Spread(tuple(map(figure, costs)))

    @property
    def score(self) -> Spread:
        """The metric on the test set, in percent."""
        return Spread(tuple(trial.score for trial in self.trials))

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
    def one_teacher(self) -> bool:
        """Whether all lines have one teacher, so that shares of its latency can be compared."""
        return [line.system for line in self.lines].count(TEACHER) == 1

    @property
    def machines(self) -> tuple[str, ...]:
        """The machines of the trainings, the machine of the most lines first."""
        counts = Counter(machine for line in self.lines for machine in line.machines)
        return tuple(machine for machine, _ in counts.most_common())


@dataclass(frozen=True, slots=True)
class Comparison:
    """Tables of measured rows, published results, and the runs that could not be read.

    Raises QualaError without a row.
    """

    tables: tuple[Table, ...]
    claims: Published
    left_out: Mapping[str, str]
    """Reasons by run."""

    @classmethod
    def of(cls, trials: Sequence[Trial], left_out: Mapping[str, str]) -> Comparison:
        """Compare trials; `left_out` are reasons by run."""
        return cls(tables(trials, published()) if trials else (), published(), left_out)

    def __post_init__(self) -> None:
        if not self.tables:
            raise QualaError("A comparison needs at least one run with a scored row, got none.")

    @property
    def systems(self) -> list[str]:
        """The systems of all tables."""
        return sorted({line.system for table in self.tables for line in table.lines})

    @property
    def names(self) -> dict[str, str]:
        """The displayed name of each system."""
        return {system: system_name(system, self.claims) for system in self.systems}

    @property
    def shown_claims(self) -> tuple[Claim, ...]:
        """Published results of the systems that are compared."""
        return self.claims.of(self.systems)


def system_name(system: str, claims: Published) -> str:
    """Return the displayed name of a system."""
    return TEACHER_NAME if system == TEACHER else claims.name(system)


def tables(trials: Sequence[Trial], claims: Published) -> tuple[Table, ...]:
    """Return a table for each task and data, with the newest measurement of each model."""
    frame = to_frame(
        {
            "trial": trial,
            "data": trial.data,
            "metric": trial.row.metric,
            "system": trial.system,
            "kind": trial.kind,
            "setting": tuple(trial.setting.items()),
            "model": trial.identity,
            "place": trial.place,
            "latency_ms": trial.row.median_ms,
            "share": trial.share(trial.row),
        }
        for trial in sorted(trials, key=lambda trial: trial.started, reverse=True)
    )
    parts = [part for _, part in frame.groupby(["data", "metric"], sort=False)]
    titles = _titles([part["trial"].iloc[0].spec for part in parts])
    return tuple(_table(title, part, claims) for title, part in zip(titles, parts))


def _table(title: str, frame: DataFrame, claims: Published) -> Table:
    systems = sorted(frame["system"].unique(), key=lambda name: (name != TEACHER, name))
    settings = (one for name in systems for one in _settings(frame[frame["system"] == name]))
    first = frame["trial"].iloc[0]
    return Table(
        title=title,
        data=first.data,
        metric=first.row.metric,
        lines=tuple(_line(number, *one, claims) for number, one in enumerate(settings, start=1)),
    )


def _settings(frame: DataFrame) -> list[tuple[str, str, DataFrame]]:
    """Return label, differences and trials of each setting, full lengths before chosen ones."""
    kinds = set(frame["kind"])
    found: list[tuple[str, str, DataFrame]] = []
    for kind in (kind for kind in KINDS if kind in kinds):
        own = frame[frame["kind"] == kind]
        parts = [part for _, part in own.groupby("setting", sort=False)]
        parts.sort(key=lambda part: part["trial"].iloc[-1].started)
        settings = [part["trial"].iloc[0].setting for part in parts]
        named = frozenset().union(*(trial.named for trial in own["trial"]))
        suffix = KINDS[kind] if "chosen" in kinds else ""
        ordered = sorted(
            zip(labels(settings, named), all_differences(settings), parts),
            key=lambda one: natural_order(one[0]),
        )
        found += [
            (", ".join(filter(None, [label, suffix])), differences, part)
            for label, differences, part in ordered
        ]
    return found


def _line(number: int, label: str, differences: str, frame: DataFrame, claims: Published) -> Line:
    models = frame.drop_duplicates("model")["trial"]
    trials = tuple(sorted(models, key=lambda trial: (trial.seeds, trial.started)))
    first = trials[0]
    return Line(
        number=number,
        system=first.system,
        label=label,
        differences=differences,
        trials=trials,
        latencies=_by_place(frame, "latency_ms"),
        shares=_by_place(frame, "share"),
        claim=claims.nearest(
            first.system, bits=bits_of(first.row), kind=first.kind, data=data_name(first.spec)
        ),
    )


def _by_place(frame: DataFrame, figure: str) -> dict[Place, Spread]:
    """Return a figure of the timing by place, the newest of each model."""
    newest = frame.dropna(subset=[figure]).drop_duplicates(["place", "model"])
    groups = newest.groupby("place", sort=False)[figure]
    timed: dict[Any, Spread] = {place: Spread(tuple(values)) for place, values in groups}
    return timed


def data_name(spec: Mapping[str, Any]) -> str:
    """Return the papers' name of the data of a specification."""
    try:
        return str(FORMATS.find(spec["task"]).title(spec["subset"]))
    except QualaError:  # the format of an old run may not be installed here
        return str(spec["task"])


def _titles(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a title for each data; options are added where titles would be equal."""
    sources = [
        {key: str(value) for key, value in spec.items() if key != "path" and value is not None}
        for spec in specs
    ]
    titles = []
    for spec in specs:
        place = spec["name"] or f"folder {PurePath(spec['path']).name}"
        titles.append(f"{spec['task']}, {' '.join(filter(None, [place, spec['subset']]))}")
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


def _joined(texts: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(texts))
