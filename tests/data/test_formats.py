"""Formats of data sets."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quala.data import formats
from quala.data.features import QAExample
from quala.data.formats import content_digest, format_of
from quala.data.slices import data_fingerprint
from quala.data.spec import DataSpec
from quala.workflow.identity import config_identity


@pytest.mark.parametrize(
    ("options", "title"),
    [
        ({"task": "squad", "name": "rajpurkar/squad"}, "SQuAD 1.1"),
        ({"task": "squad", "name": "demo"}, "demo"),
        ({"task": "squad", "name": "deepset/germanquad"}, "deepset/germanquad"),
        ({"task": "squad", "path": "/my/questions.json"}, "questions.json"),
        ({"task": "squad", "path": "/my/squad"}, "squad"),
        ({"task": "glue", "name": "nyu-mll/glue", "subset": "sst2"}, "SST-2"),
        ({"task": "glue", "name": "nyu-mll/glue", "subset": "mrpc"}, "MRPC"),
        ({"task": "glue", "path": "/my/reviews.csv", "subset": "sst2"}, "reviews.csv sst2"),
        ({"task": "glue", "path": "/my/reviews.csv", "title": "Reviews"}, "Reviews"),
        ({"task": "squad", "name": "rajpurkar/squad", "title": "Ours"}, "Ours"),
        ({"task": "data.own_tasks.TopicsFormat", "path": "/my/topics"}, "topics"),
    ],
)
def test_data_are_called_what_they_are(options: dict[str, Any], title: str) -> None:
    spec = DataSpec(**options)
    assert format_of(spec).title(spec) == title


def test_a_folder_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    spec = DataSpec(task="squad", path=".")
    assert format_of(spec).title(spec) == "mine"


def test_a_subset_without_a_folder_of_its_own_is_no_name(tmp_path: Path) -> None:
    reviews = tmp_path / "reviews.csv"
    reviews.touch()
    (tmp_path / "mine" / "SST-2").mkdir(parents=True)
    spec = DataSpec(task="glue", path=str(reviews), subset="sst2")
    assert format_of(spec).title(spec) == "reviews.csv"
    folder = replace(spec, path=str(tmp_path / "mine"))
    assert format_of(folder).title(folder) == "mine sst2"


def test_known_texts_have_the_name_in_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (QAExample(str(n), "", f"It was {n}.", f"What?  {n}", (str(n),)) for n in (1, 2))
    monkeypatch.setattr(formats, "CONTENTS", {content_digest([one, two]): "A known set"})
    spec = DataSpec(task="squad", path="/my/copy", title=None)
    named = format_of(spec).title
    assert named(spec, [replace(two, question="What? 2"), one]) == "A known set"
    assert named(spec, [one]) == "copy"
    assert named(spec, [one, replace(two, answers=("3",))]) == "copy"
    assert named(spec, [one, replace(two, context="Es war 2.")]) == "copy"
    assert named(replace(spec, title="Mine"), [one, two]) == "Mine"


def test_a_title_changes_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "all.tsv").write_text("sentence\tlabel\na\t0\n")
    spec = DataSpec(task="glue", path=str(tmp_path / "all.tsv"))
    titled = replace(spec, title="Mine")
    assert data_fingerprint(titled) == data_fingerprint(spec)
    assert config_identity(titled) == config_identity(spec)


REAL = os.environ.get("QUALA_DATA")


@pytest.mark.skipif(not REAL, reason="no real data")
@pytest.mark.parametrize(
    ("task", "subset", "title"),
    [("squad", None, "SQuAD 1.1"), ("glue", "mrpc", "MRPC"), ("glue", "stsb", "STS-B")],
)
def test_published_sets_are_known_wherever_they_lie(
    task: str, subset: str | None, title: str
) -> None:
    spec = DataSpec(task=task, path=f"{REAL}/{task}", subset=subset)
    own = format_of(spec)
    known = own.known_task(spec) or own.read(spec, spec.train_split, None)[1]
    examples, _ = own.read(spec, spec.test_split, known)
    assert own.title(spec, examples) == title
    assert own.title(spec, examples[1:]) != title
