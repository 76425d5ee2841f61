"""The help of every verb is what it was; of a workflow's own help nothing is said here."""

from __future__ import annotations

import pytest
from golden.helped import FOLDER, helped
from golden.use import VERBS


def test_every_verb_has_its_file() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == {"quala", *VERBS}


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_what_it_was(verb: str) -> None:
    assert helped(verb) == (FOLDER / f"{verb or 'quala'}.txt").read_text()
