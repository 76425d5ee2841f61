"""What a study chooses in a sweep: overrides with several values, as Optuna's distributions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from quala.errors import QualaError


@dataclass(frozen=True)
class SearchSpace:
    """What the study chooses, by option, and the overrides that all jobs have."""

    varied: Mapping[str, BaseDistribution]
    fixed: Mapping[str, Override]

    @classmethod
    def parse(cls, words: Sequence[str]) -> SearchSpace:
        """Parse overrides; the last one for an option counts. Raises QualaError for bad ranges."""
        found = OverridesParser.create().parse_overrides(list(words))
        last = {one.get_key_element(): one for one in found}
        varied = {key: _distribution(one) for key, one in last.items() if one.is_sweep_override()}
        return cls(varied, {key: one for key, one in last.items() if key not in varied})

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a job."""
        same = [str(one.input_line) for one in self.fixed.values()]
        return [*same, *(as_word(name, value) for name, value in values.items())]

    def edges(self) -> Iterator[dict[str, Any]]:
        """Yield the first values of all options, then with each other end or choice of one."""
        ends = {name: _ends(distribution) for name, distribution in self.varied.items()}
        first = {name: values[0] for name, values in ends.items()}
        yield first
        for name, values in ends.items():
            yield from ({**first, name: value} for value in values[1:])

    def grid(self) -> dict[str, list[Any]]:
        """Return all values of each option. Raises QualaError for one that is continuous."""
        found = {}
        for name, one in self.varied.items():
            found[name] = _ends(one)
            if isinstance(one, IntDistribution | FloatDistribution):
                if one.step is None:
                    raise QualaError(f"A grid needs a range or choices for `{name}`, got {one}.")
                count = round((one.high - one.low) / one.step)
                found[name] = [one.low + number * one.step for number in range(count + 1)]
        return found


def _distribution(override: Override) -> BaseDistribution:
    """Return the distribution that an override stands for; both ends of a range belong to it."""
    value = override.value()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the last step may not meet the end
            if isinstance(value, IntervalSweep):
                return _between(value.start, value.end, log="log" in value.tags)
            if isinstance(value, RangeSweep) and not value.shuffle:
                return _between(value.start, value.stop, step=value.step)
            choices: Any = override.sweep_iterator(_choice)
            return CategoricalDistribution(list(choices))
    except (ValueError, TypeError) as error:
        raise QualaError(f"`{override.input_line}` is no search space: {error}") from error


def _between(low: Any, high: Any, **more: Any) -> BaseDistribution:
    whole = all(isinstance(number, int) for number in (low, high, *more.values()))
    return (IntDistribution if whole else FloatDistribution)(low, high, **more)


def _choice(value: Any) -> Any:
    """Return what Optuna keeps of a choice: a plain value, or the text of an override."""
    plain = value is None or isinstance(value, bool | int | float)
    return value if plain else Transformer.str(value)


def as_word(name: str, value: Any) -> str:
    """Return the override that gives an option a value."""
    return f"{name}={'null' if value is None else value}"


def _ends(distribution: Any) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]
