"""Published results: complete, with their sources, and never mistaken for a measurement."""

from __future__ import annotations

import re

import pytest

from quala.compare.published import HEADLINE, published


def test_every_claim_names_a_system_and_where_it_was_read() -> None:
    known = published()
    assert known.claims
    for claim in known.claims:
        assert claim.system in known.names
        assert re.fullmatch(r"\d{4}\.\d{5}", known.papers[claim.system])
        assert known.sources[claim.source]


def test_nothing_is_from_memory() -> None:
    assert {claim.source for claim in published().claims} <= {"A", "P", "R", "T"}


@pytest.mark.parametrize(
    ("system", "bits", "data", "expected"),
    [
        ("xtc", "1-1-8", "MNLI", "m/mm 82.9/83.6"),
        ("xtc", "1-1-8", "SQuAD 1.1", "50x smaller"),  # MNLI's are not beside SQuAD
        ("xtc", "4-4-8", "MNLI", "50x smaller"),
        ("kdlsq", "2-2-8", "my questions", "close to full precision"),
        ("binarybert", "1-1-4", "SQuAD 1.1", "EM/F1 79.3/87.2"),
        ("binarybert", "1-1-4", "MNLI", "m 83.9"),
        ("ternarybert", "2-2-8", "SQuAD 1.1", "EM/F1 79.9/87.4"),
        ("ladabert", "32-32-32", "SST-2", "84.0"),
    ],
)
def test_the_claim_beside_a_row_is_the_nearest(
    system: str, bits: str, data: str, expected: str
) -> None:
    claim = published().nearest(system, bits=bits, kind="full", data=data)
    assert claim is not None
    assert claim.claim.startswith(expected)
    assert claim.data in (data, HEADLINE)
    assert claim.data in claim.text()


@pytest.mark.parametrize("data", ["my questions", "squad", "SQuAD 2.0"])
def test_papers_have_no_claim_beside_other_data(data: str) -> None:
    assert published().nearest("binarybert", bits="1-1-8", kind="full", data=data) is None


def test_chosen_lengths_have_a_claim_of_their_own() -> None:
    known = published()
    full, chosen = (
        known.nearest("quala_minilm", bits="8-8-8", kind=kind, data="SQuAD 1.1")
        for kind in ("full", "chosen")
    )
    assert full is not None
    assert chosen is not None
    assert (full.kind, chosen.kind) == ("full", "chosen")


def test_a_system_without_a_paper_has_no_claim() -> None:
    known = published()
    assert known.nearest("mine", bits="8-8-8", kind="full", data="MNLI") is None
    assert known.name("mine") == "mine"
