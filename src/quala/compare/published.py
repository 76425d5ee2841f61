"""Published results: what papers report of their own models, data and machines."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

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
