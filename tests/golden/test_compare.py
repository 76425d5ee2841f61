"""The comparison of systems is what it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from golden.compared import FILE, compared


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> object:
    """The comparison of toy runs over systems, settings, seeds and data."""
    folder = tmp_path_factory.mktemp("compared")
    shutil.copy(migrated_database, folder / "mlflow.db")
    return compared(folder)


def test_a_comparison_is_what_it_was(found: object) -> None:
    assert found == json.loads(FILE.read_text())
