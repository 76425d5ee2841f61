"""The parameters of any study, some in groups that never grow, and moves from one candidate on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from quala.errors import QualaError

Candidate = tuple[float, ...]
"""A value of each parameter as Optuna stores it: the index of a category, or the number."""

_WIDEST, _FINEST = 1 / 4, 1 / 400
"""Shares of its range that a small move of a number lies between; chosen by hand."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """The values of one parameter: numbers on a grid from `low` on, all numbers without `step`."""

    low: float
    high: float
    step: float | None
    log: bool = False
    ordered: bool = True
    """Whether values side by side are alike; categories are not."""

    @classmethod
    def of(cls, distribution: BaseDistribution) -> Parameter:
        """Return the values of an Optuna distribution."""
        if isinstance(distribution, CategoricalDistribution):
            return cls(0, len(distribution.choices) - 1, 1, ordered=False)
        if isinstance(distribution, IntDistribution | FloatDistribution):
            return cls(distribution.low, distribution.high, distribution.step, distribution.log)
        raise QualaError(
            f"The distribution must be of integers, floats or categories, got `{distribution}`."
        )

    def near(self, value: float) -> float:
        """Return the nearest value."""
        return min(max(self._on_grid(value, math.floor, 0.5), self.low), self.high)

    def above(self, bound: float) -> float:
        """Return the smallest value from `bound` on."""
        return max(self._on_grid(bound, math.ceil, -1e-9), self.low)

    def below(self, bound: float) -> float:
        """Return the largest value up to `bound`."""
        return min(self._on_grid(bound, math.floor, 1e-9), self.high)

    def _on_grid(self, value: float, rounded: Any, slack: float) -> float:
        if self.step is None:
            return value
        return self.low + self.step * int(rounded((value - self.low) / self.step + slack))

    def draw(self, rng: Random) -> float:
        """Return a uniform value, for a logarithmic parameter one uniform in its logarithm."""
        if self.log:
            return self.near(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        if self.step is None:
            return rng.uniform(self.low, self.high)
        return self.low + self.step * rng.randint(0, round((self.high - self.low) / self.step))

    def move(self, value: float, rng: Random) -> float:
        """Return a value some way up or down, at least one step; small moves are as likely."""
        share = _WIDEST * (_FINEST / _WIDEST) ** rng.random() * rng.choice((-1, 1))
        if self.log:
            moved = value * (self.high / self.low) ** share
        else:
            moved = value + (self.high - self.low) * share
        if self.step is not None and abs(moved - value) < self.step:
            moved = value + math.copysign(self.step, share)
        return self.near(moved)

    def values(self) -> Iterator[float]:
        """Yield all values of a grid."""
        step = self.step or 1.0  # without a step there is one value only
        count = 1 + round((self.high - self.low) / step)
        return (self.low + step * place for place in range(count))


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a study by name; in a group no value is above the one before it."""

    distributions: Mapping[str, BaseDistribution]
    groups: tuple[tuple[int, ...], ...]
    """Places of the parameters of each group."""
    fields: tuple[Parameter, ...]

    @classmethod
    def of(
        cls,
        distributions: Mapping[str, BaseDistribution],
        groups: Sequence[Sequence[str]] = (),
        *,
        fixed: Mapping[str, Any] | None = None,
    ) -> Parameters:
        """Return parameters whose ranges lose the values that no candidate can have.

        Names of groups that are not in `distributions` are left out; `fixed` ones have one value.
        Raises QualaError for a group of categories or without any candidate.
        """
        names = list(distributions)
        fields = [Parameter.of(one) for one in distributions.values()]
        for name in distributions.keys() & (fixed or {}).keys():
            value = float(distributions[name].to_internal_repr((fixed or {})[name]))
            fields[names.index(name)] = replace(fields[names.index(name)], low=value, high=value)
        places = tuple(tuple(names.index(n) for n in group if n in names) for group in groups)
        for group in places:
            if any(not fields[place].ordered for place in group):
                raise QualaError(f"Categories have no order, got `{[names[p] for p in group]}`.")
            for before, after in pairwise(group):
                high = fields[after].below(fields[before].high)
                fields[after] = replace(fields[after], high=high)
            for after, before in pairwise(group[::-1]):
                low = fields[before].above(fields[after].low)
                fields[before] = replace(fields[before], low=low)
            if any(fields[place].low > fields[place].high for place in group):
                raise QualaError(
                    f"`{[names[p] for p in group]}` cannot be non-increasing with "
                    f"{[distributions[names[p]] for p in group]}."
                )
        return cls(distributions, places, tuple(fields))

    def read(self, params: Mapping[str, Any]) -> Candidate | None:
        """Return the candidate of a trial; None while one is missing, and outside of the space."""
        values = []
        for (name, distribution), field in zip(self.distributions.items(), self.fields):
            try:
                value = float(distribution.to_internal_repr(params[name]))
            except (KeyError, ValueError):
                return None
            if not field.low <= value <= field.high:
                return None
            values.append(field.near(value))
        return tuple(values) if self.repair(values) == tuple(values) else None

    def write(self, candidate: Candidate) -> dict[str, Any]:
        """Return the values that Optuna gives to an objective."""
        pairs = zip(self.distributions.items(), candidate, strict=True)
        return {name: one.to_external_repr(value) for (name, one), value in pairs}

    def repair(self, values: Sequence[float]) -> Candidate:
        """Return the candidate whose groups are lowered where they grow."""
        repaired = list(values)
        for group in self.groups:
            for before, after in pairwise(group):
                if repaired[after] > repaired[before]:
                    repaired[after] = self.fields[after].below(repaired[before])
        return tuple(repaired)

    def draw(self, rng: Random) -> Candidate:
        """Draw each parameter, and sort the groups."""
        drawn = [field.draw(rng) for field in self.fields]
        for group in self.groups:
            ordered = sorted((drawn[place] for place in group), reverse=True)
            for place, value in zip(group, ordered):
                drawn[place] = self.fields[place].near(value)
        return self.repair(drawn)

    def end(self, rng: Random, *, highest: bool) -> Candidate:
        """Draw a candidate whose groups have their largest, or smallest, values."""
        grouped = {place for group in self.groups for place in group}
        drawn = [
            (field.high if highest else field.low) if place in grouped else field.draw(rng)
            for place, field in enumerate(self.fields)
        ]
        return self.repair(drawn)

    def cross(self, first: Candidate, second: Candidate, rng: Random) -> Candidate:
        """Take each parameter from one of two parents."""
        return self.repair([rng.choice(pair) for pair in zip(first, second)])

    def mutate(self, parent: Candidate, rng: Random) -> Candidate:
        """Change each parameter with probability 1/n, and at least one.

        Half of the changes are redraws, half are small moves. Members of a group that are in the
        way move along.
        """
        size, values = len(parent), list(parent)
        chosen = [place for place in range(size) if rng.random() < 1 / size]
        for place in chosen or [rng.randrange(size)]:
            field = self.fields[place]
            redraw = not field.ordered or rng.random() < 0.5
            values[place] = field.draw(rng) if redraw else field.move(values[place], rng)
            for group in self.groups:
                if place in group:
                    for before in group[: group.index(place)]:
                        raised = self.fields[before].above(values[place])
                        values[before] = max(values[before], raised)
        return self.repair(values)

    @property
    def countable(self) -> bool:
        """Whether every parameter has a grid."""
        return all(field.step is not None or field.low == field.high for field in self.fields)

    def every(self, start: Candidate = ()) -> Iterator[Candidate]:
        """Yield every candidate that begins with `start`; the space must be countable."""
        place = len(start)
        if place == len(self.fields):
            yield start
            return
        field = self.fields[place]
        group = next((group for group in self.groups if place in group), (place,))
        at = group.index(place)
        for value in field.values():
            before = min((start[one] for one in group[:at] if one < place), default=value)
            after = max((start[one] for one in group[at:] if one < place), default=value)
            if after <= value <= before:
                yield from self.every((*start, value))
