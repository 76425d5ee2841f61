"""The kinds of data by their columns, and values in Hydra's grammar."""

from __future__ import annotations

from pathlib import Path

import pytest

from quala.autocompress.subject import KINDS, joined, override, settings_of
from quala.autocompress.subject import _kind as kind_of
from quala.errors import QualaError
from quala.plugins import FORMATS

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


LINES = {
    "squad": "id,question,context,answers\nx,x,x,x\n",
    "glue": "sentence,label\nx,x\n",
    "ner": '{"tokens": ["x"], "tags": ["O"]}\n',
}


@pytest.mark.parametrize("group", sorted(LINES))
def test_columns_tell_the_kind(tmp_path: Path, group: str) -> None:
    file = tmp_path / ("a.jsonl" if group == "ner" else "a.csv")
    file.write_text(LINES[group])
    kind, found, rows = kind_of(str(file), [override("data.path", file)], None, [])
    assert found == kind.group == group
    assert len(rows) == 1


@pytest.mark.parametrize("name", ["train.conll", "train.txt"])
def test_conll_files_are_tagged_words(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("first NN B-A\n\nthe DT O\n")
    for place in (tmp_path, tmp_path / name):
        assert kind_of(str(place), [override("data.path", place)], None, [])[1] == "ner"


def test_triples_are_no_tagged_words(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("alga\tis_a\tplant\nplant\taffects\tanimal\n")
    place = [override("data.path", tmp_path)]
    with pytest.raises(QualaError, match=r"one sentence of tagged words.*experiment=triples"):
        kind_of(str(tmp_path), place, None, [])
    assert kind_of(str(tmp_path), place, "token-classification", [])[1] == "ner"


def test_words_that_are_no_lists_are_no_tagged_words(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("words,text,labels\nx,x,x\n")
    assert kind_of(str(file), [override("data.path", file)], None, [])[1] == "glue"


def test_a_column_that_is_mapped_counts(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("review,stars\ngood,5\n")
    place = [override("data.path", file)]
    with pytest.raises(QualaError, match="have the columns review, stars; known are question"):
        kind_of(str(file), place, None, [])
    assert kind_of(str(file), place, None, ["data.columns.label=stars"])[1] == "glue"


def test_every_kind_is_a_group_of_data() -> None:
    for kind in KINDS:
        for group in (kind.group, *kind.other_groups):
            settings = settings_of(["experiment=compress", f"data={group}", "data.path=x"])
            assert FORMATS.find(settings.data.task).kinds == kind.tasks
