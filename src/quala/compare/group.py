"""What the papers say of their systems: figures of other models, data and machines."""

from __future__ import annotations

import re
import statistics
import tomllib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from quala.compare.settings import all_differences, labels, natural_order
from quala.compare.trials import TEACHER, Costs, Place, Trial
from quala.results import Row

FILE = "published.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One published result; `bits` is None for one that belongs to no width in particular.

    `kind` is `chosen` for a result at shortened lengths.
    `source` says where it was read: a letter of `Published.sources`.
    """

    system: str
    setting: str
    data: str
    claim: str
    source: str
    bits: str | None = None
    kind: str = "full"

    def text(self) -> str:
        """Return the claim with what it was made of."""
        return f"{self.data}: {self.claim} ({self.setting}) [{self.source}]"


@dataclass(frozen=True, slots=True)
class Published:
    """All claims; names and arXiv ids by system, the meaning of a source by its letter."""

    names: Mapping[str, str]
    papers: Mapping[str, str]
    sources: Mapping[str, str]
    claims: tuple[Claim, ...]

    def name(self, system: str) -> str:
        """Return what the paper calls a system; one without a paper keeps its own name."""
        return self.names.get(system, system)

    def of(self, systems: Sequence[str]) -> tuple[Claim, ...]:
        """Return the claims of some systems."""
        return tuple(claim for claim in self.claims if claim.system in systems)

    def nearest(self, system: str, *, bits: str, kind: str, data: str) -> Claim | None:
        """Return the claim of a system that is nearest to a row.

        One of the row's bits comes before one of no bits, which comes before others; then the
        kind and the data count.
        """
        ranks = {bits: 0, None: 1}
        return min(
            self.of([system]),
            key=lambda one: (ranks.get(one.bits, 2), one.kind != kind, one.data != data),
            default=None,
        )


@cache
def published() -> Published:
    """Return what the package knows of the papers."""
    text = (files("quala.compare") / FILE).read_text(encoding="utf-8")
    facts = tomllib.loads(text)
    systems = facts["system"]
    return Published(
        names={key: one["name"] for key, one in systems.items()},
        papers={key: one["arxiv"] for key, one in systems.items() if "arxiv" in one},
        sources=facts["source"],
        claims=tuple(Claim(**one) for one in facts["claim"]),
    )


SIGNED = "±"


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of one figure, one for each seed; there is at least one."""

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


KINDS = {"teacher": "", "full": "full length", "chosen": "chosen lengths"}
UNKNOWN_BITS = {"fp32": "32-32-32", "int8": "8-?-8"}
"""Bits by precision, for reports that do not name them: int8 embeddings are 8-bit or float."""
SQUAD = "SQuAD 1.1"
GLUE = {"sst2": "SST-2", "stsb": "STS-B", "cola": "CoLA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of a comparison: a system in one setting, over its seeds.

    `trials` has one trial for each model, its newest measurement; `latencies` has all places
    where they were timed, `shares` the same as shares of the teacher's latency. `differences` are
    all the options in which lines of the system differ.
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
        """Return a figure of the report's rows over the seeds."""
        return Spread.of(figure(trial.row) for trial in self.trials)

    def cost(self, figure: Callable[[Costs], float], *, teacher: bool = False) -> Spread:
        """Return what the training (or the teacher's) cost, over the seeds."""
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
        """The lengths, where all seeds have the same."""
        return _joined(trial.row.tokens for trial in self.trials)

    @property
    def machines(self) -> tuple[str, ...]:
        """Where the models were trained."""
        found = (machine for trial in self.trials for machine in trial.costs.machines)
        return tuple(dict.fromkeys(found))

    @property
    def partial(self) -> bool:
        """Whether the training cost more than what is known of it."""
        return any(trial.costs.partial for trial in self.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The lines of one task and data; they have one metric."""

    title: str
    data: str
    metric: str
    lines: tuple[Line, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """Where latencies were measured, the place of most lines first."""
        counts = Counter(place for line in self.lines for place in line.latencies)
        return tuple(place for place, _ in counts.most_common())

    @property
    def one_teacher(self) -> bool:
        """Whether all lines have the same teacher, so that shares of its latency compare."""
        return [line.system for line in self.lines].count(TEACHER) == 1

    @property
    def machines(self) -> tuple[str, ...]:
        """Where models were trained, the machine of most lines first."""
        counts = Counter(machine for line in self.lines for machine in line.machines)
        return tuple(machine for machine, _ in counts.most_common())


def tables(trials: Sequence[Trial], claims: Published) -> tuple[Table, ...]:
    """Return a table for each task and data, with the newest measurement of each model."""
    newest = sorted(trials, key=lambda trial: trial.started, reverse=True)
    parts = list(_parts(newest, lambda trial: (trial.data, trial.row.metric)).values())
    titles = _titles([part[0].spec for part in parts])
    return tuple(_table(title, part, claims) for title, part in zip(titles, parts))


def data_name(spec: Mapping[str, Any]) -> str:
    """Return what papers call the data of a specification."""
    if spec["task"] == "squad":
        return SQUAD
    subset = str(spec["subset"] or "GLUE")
    return GLUE.get(subset, subset.upper())


def _table(title: str, trials: Sequence[Trial], claims: Published) -> Table:
    lines: list[Line] = []
    systems = _parts(trials, lambda trial: trial.system)
    for system in sorted(systems, key=lambda name: (name != TEACHER, name)):
        for own in _settings(systems[system]):
            lines.append(_line(len(lines) + 1, own, claims))
    return Table(title=title, data=trials[0].data, metric=trials[0].row.metric, lines=tuple(lines))


@dataclass(frozen=True, slots=True)
class _Setting:
    """The trials of one setting at full or at chosen lengths."""

    label: str
    differences: str
    trials: Sequence[Trial]


def _settings(trials: Sequence[Trial]) -> list[_Setting]:
    """Return the settings of one system, full lengths before chosen ones."""
    kinds = _parts(trials, lambda trial: trial.kind)
    found: list[_Setting] = []
    for kind in (kind for kind in KINDS if kind in kinds):
        parts = list(_parts(kinds[kind], lambda trial: tuple(trial.setting.items())).values())
        parts.sort(key=lambda part: part[-1].started)
        settings = [part[0].setting for part in parts]
        named = frozenset().union(*(trial.named for trial in kinds[kind]))
        suffix = KINDS[kind] if "chosen" in kinds else ""
        told = sorted(
            zip(labels(settings, named), all_differences(settings), parts),
            key=lambda one: natural_order(one[0]),
        )
        found += [
            _Setting(", ".join(filter(None, [label, suffix])), differences, part)
            for label, differences, part in told
        ]
    return found


def _line(number: int, setting: _Setting, claims: Published) -> Line:
    models = _parts(setting.trials, lambda trial: trial.identity)
    found = (measured[0] for measured in models.values())
    trials = tuple(sorted(found, key=lambda trial: (trial.seeds, trial.started)))
    first = trials[0]
    claim = claims.nearest(
        first.system, bits=bits_of(first.row), kind=first.kind, data=data_name(first.spec)
    )
    return Line(
        number=number,
        system=first.system,
        label=setting.label,
        differences=setting.differences,
        trials=trials,
        latencies=_timed(setting.trials, lambda trial: trial.row.median_ms),
        shares=_timed(setting.trials, lambda trial: trial.share(trial.row)),
        claim=claim,
    )


def _timed(
    trials: Sequence[Trial], figure: Callable[[Trial], float | None]
) -> dict[Place, Spread]:
    """Return a figure of the timing by place, the newest of each model."""
    timed: dict[Place, dict[str, float]] = {}
    for trial in trials:
        found = figure(trial)
        if found is not None:
            timed.setdefault(trial.place, {}).setdefault(trial.identity, found)
    return {place: Spread(tuple(models.values())) for place, models in timed.items()}


def _titles(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a title for each data, with the options that tell apart what has one name."""
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
    """Return the bits of a row; a report of an older version has its precision only."""
    if row.bits is not None:
        return row.bits
    if row.precision in UNKNOWN_BITS:
        return UNKNOWN_BITS[row.precision]
    return "-".join(part.replace("-", "/") for part in re.split("[wea]", row.precision) if part)


def _parts(trials: Iterable[Trial], key: Callable[[Trial], Hashable]) -> dict[Any, list[Trial]]:
    """Return the trials by key, in order."""
    found: dict[Any, list[Trial]] = {}
    for trial in trials:
        found.setdefault(key(trial), []).append(trial)
    return found


def _joined(texts: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(texts))
