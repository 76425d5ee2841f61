"""Tracked toy runs over systems, settings, seeds and data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tracked import Filled, Tracked, files

from quala.data.spec import DataSpec


@pytest.fixture
def tracked(tmp_path: Path, migrated_database: Path) -> Tracked:
    """An empty store of a test's own."""
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    return Tracked(tmp_path)


@pytest.fixture
def questions(tmp_path: Path) -> DataSpec:
    """The data of a test's own store."""
    return files(tmp_path / "questions", task="squad")


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Filled:
    """A store with several systems; nothing may be added to it."""
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copy(migrated_database, folder / "mlflow.db")
    return Filled.of(Tracked(folder))
