"""Published results: what papers report of their own models, data and machines."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

FILE = "published.toml"
HEADLINE = "headline"
"""In the place of the data, for a claim that names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One published result; `bits` is None where it is not for a certain width.

    `kind` is `chosen` for a result at shortened lengths. `source` is a letter of
    `Published.sources`: where the result was read.
    """

    system: str
    setting: str
    data: str
    claim: str
    source: str
    bits: str | None = None
    kind: str = "full"

    def text(self) -> str:
        """Return the claim with its data, setting and source."""
        return f"{self.data}: {self.claim} ({self.setting}) [{self.source}]"


@dataclass(frozen=True, slots=True)
class Published:
    """All claims; names and arXiv ids by system, sources by their letters."""

    names: Mapping[str, str]
    papers: Mapping[str, str]
    sources: Mapping[str, str]
    claims: tuple[Claim, ...]

    def name(self, system: str) -> str:
        """Return the paper's name of a system; without a paper, the name that was given."""
        return self.names.get(system, system)

    def of(self, systems: Collection[str], data: Collection[str]) -> tuple[Claim, ...]:
        """Return the claims of some systems on some data, and their headlines, of no data."""
        return tuple(
            claim
            for claim in self.claims
            if claim.system in systems and claim.data in {*data, HEADLINE}
        )

    def nearest(self, system: str, *, bits: str, kind: str, data: str) -> Claim | None:
        """Return the claim of a system that is nearest to a row on `data`.

        Claims on other data are left out. Equal bits come first, then claims without bits, then
        others. Ties are broken by the kind, and headlines are the last.
        """
        ranks = {bits: 0, None: 1}
        return min(
            self.of([system], [data]),
            key=lambda one: (ranks.get(one.bits, 2), one.kind != kind, one.data == HEADLINE),
            default=None,
        )


@cache
def published() -> Published:
    """Return the published results in `published.toml`."""
    text = (files("quala.compare") / FILE).read_text(encoding="utf-8")
    facts = tomllib.loads(text)
    systems = facts["system"]
    return Published(
        names={key: one["name"] for key, one in systems.items()},
        papers={key: one["arxiv"] for key, one in systems.items() if "arxiv" in one},
        sources=facts["source"],
        claims=tuple(Claim(**one) for one in facts["claim"]),
    )
