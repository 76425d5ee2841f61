from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from quala.data.slices import data_fingerprint
from quala.data.spec import DataSpec
from quala.errors import QualaError


@pytest.fixture
def spec(tmp_path: Path) -> DataSpec:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.json").write_text(json.dumps({"data": [], "split": split}))
    return DataSpec(task="squad", path=str(folder))


def test_the_place_of_the_files_does_not_count(spec: DataSpec, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(str(spec.path), tmp_path / "elsewhere")
    assert data_fingerprint(replace(spec, path=str(elsewhere))) == data_fingerprint(spec)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_content_of_both_splits_counts(spec: DataSpec, split: str) -> None:
    before = data_fingerprint(spec)
    (Path(str(spec.path)) / f"{split}.json").write_text("{}")
    assert data_fingerprint(spec) != before


def test_other_files_do_not_count(spec: DataSpec) -> None:
    before = data_fingerprint(spec)
    (Path(str(spec.path)) / "README.json").write_text("{}")
    assert data_fingerprint(spec) == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"max_length": 320}, {"max_train": 10}])
def test_fields_that_shape_the_data_count(spec: DataSpec, change: dict[str, int]) -> None:
    assert data_fingerprint(replace(spec, **change)) != data_fingerprint(spec)


def test_name_and_revision_stand_for_the_hub() -> None:
    hub = DataSpec(task="squad", name="rajpurkar/squad")
    assert data_fingerprint(hub) == data_fingerprint(replace(hub))
    assert data_fingerprint(hub) != data_fingerprint(replace(hub, revision="abc"))


def test_missing_files_are_refused() -> None:
    with pytest.raises(QualaError, match="does not exist"):
        data_fingerprint(DataSpec(task="squad", path="/nowhere/at/all"))
