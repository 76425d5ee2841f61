"""The kinds of data by their columns, and values in Hydra's grammar."""

from __future__ import annotations

from pathlib import Path

import pytest

from quala.autocompress.subject import KINDS, joined, override, settings_of
from quala.autocompress.subject import _kind as kind_of
from quala.errors import QualaError

BASE = ["experiment=compress", "data=squad", "stage.finetune.given=."]


@pytest.mark.parametrize(
    "name",
    [
        "plain/file-1.csv",
        "with blank.csv",
        "it's, [odd]",
        "a=b",
        "ünï.csv",
        "end\\",
        "a\\'b",
        "c\\d e",
    ],
)
def test_a_path_is_the_same_after_hydra_has_read_it(name: str) -> None:
    assert settings_of([*BASE, override("data.path", name)]).data.path == name


def test_the_user_has_the_last_word() -> None:
    assert joined(["a.b=1", "c=2"], ["c=3", "+d=4"]) == ["a.b=1", "c=3", "+d=4"]


@pytest.mark.parametrize(
    ("header", "group"),
    [("id,question,context,answers", "squad"), ("sentence,label", "glue"), ("a,b,score", "glue")],
)
def test_columns_tell_the_kind(tmp_path: Path, header: str, group: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"{header}\n{','.join('x' for _ in header.split(','))}\n")
    kind, found = kind_of(str(file), [override("data.path", file)], None, [])
    assert found == kind.group == group


def test_a_column_that_is_mapped_counts(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("review,stars\ngood,5\n")
    place = [override("data.path", file)]
    with pytest.raises(QualaError, match="have the columns review, stars; known are question"):
        kind_of(str(file), place, None, [])
    assert kind_of(str(file), place, None, ["data.columns.label=stars"])[1] == "glue"


def test_every_kind_is_a_group_of_data() -> None:
    for kind in KINDS:
        task = settings_of(["experiment=compress", f"data={kind.group}", "data.path=x"]).data.task
        assert task == kind.group
