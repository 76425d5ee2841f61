"""One figure over runs that differ in the seed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

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
