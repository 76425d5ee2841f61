"""All that a comparison shows, whatever it is written to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from quala.errors import QualaError
from quala.report.compare.group import Line, Table, tables
from quala.report.compare.published import Claim, Published, published
from quala.report.compare.style import Style, styles
from quala.report.compare.text import system_name
from quala.report.compare.trial import Trial

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
