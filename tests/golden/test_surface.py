"""What scripts and programs lean on is there, and says what it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden.stored import near, unpack
from golden.surface import FILE, names, spoken

golden = json.loads(FILE.read_text())


def test_every_name_has_its_shape() -> None:
    found, expected = names(), golden["names"]
    for name, shape in expected.items():
        assert found[name] == shape, name
    assert found.keys() == expected.keys()


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the verbs say of the stored run."""
    folder: Path = tmp_path_factory.mktemp("surface")
    return json.loads(json.dumps(spoken(unpack(folder), folder)))


@pytest.mark.parametrize("verb", golden["verbs"])
def test_a_verb_says_the_same(said: dict[str, Any], verb: str) -> None:
    assert said[verb] == near(golden["verbs"][verb], 1e-4)
