from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from quala.data.spec import DataSpec
from quala.errors import QualaError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "squat", "name": "demo"}, "Did you mean `squad`"),
        ({"task": "squad"}, "either `path` or `name`"),
        ({"task": "squad", "path": "x", "name": "demo"}, "either `path` or `name`"),
        ({"task": "glue", "name": "demo"}, "demo set is a squad task"),
        ({"task": "glue", "name": "nyu-mll/glue"}, "needs a `subset`"),
        ({"task": "squad", "name": "demo", "unanswerable": "skip"}, "Unknown `unanswerable`"),
        ({"task": "squad", "name": "demo", "test_split": "train"}, "must differ"),
        ({"task": "squad", "name": "demo", "max_train": 0}, "`max_train` must be at least 1"),
        ({"task": "squad", "name": "demo", "n_best": 0}, "`n_best` must be at least 1"),
        ({"task": "glue", "path": "x", "quoting": "no"}, "Unknown `quoting` choice"),
        ({"task": "squad", "path": "x", "misaligned": "no"}, "Unknown `misaligned` choice"),
        ({"task": "glue", "path": "x", "columns": {"txt": "a"}}, "of `columns` `txt`.*`text`"),
        ({"task": "squad", "path": "x", "columns": {"label": "a"}}, "Unknown key of `columns`"),
        ({"task": "squad", "name": "rajpurkar/squad", "header": False}, "got no `path`"),
        ({"task": "squad", "name": "demo", "columns": {"id": "a"}}, "not for the demo set"),
        ({"task": "squad", "name": "demo", "doc_stride": 384}, "`doc_stride` must be below"),
        ({"task": "squad", "name": "demo", "metric": "f1"}, "`metric` is for classes"),
        ({"task": "squad", "name": "demo", "labels": ("a", "b")}, "`labels` is for classes"),
        ({"task": "squad", "name": "demo", "unlabeled": "drop"}, "`unlabeled` is for classes"),
        ({"task": "glue", "path": "x", "unlabeled": "skip"}, "Unknown `unlabeled` choice"),
        ({"task": "glue", "path": "x", "metric": "acuracy"}, "Did you mean `accuracy`"),
        ({"task": "glue", "path": "x", "labels": ("a",)}, "`labels` must be two or more"),
        ({"task": "glue", "path": "x", "labels": ("a", "a", "b")}, "`labels` must be two or more"),
        ({"task": "glue", "path": "x", "test_size": 0}, "`test_size` must be above 0"),
        ({"task": "glue", "path": "x", "test_size": 1.5}, "`test_size` must be a whole number"),
    ],
)
def test_impossible_specifications_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(QualaError, match=message):
        DataSpec(**fields)


@pytest.mark.parametrize(
    ("written", "name"),
    [("SST-2", "sst2"), ("CoLA", "cola"), ("sts_b", "stsb"), ("Mine-1", "Mine-1"), (None, None)],
)
def test_a_glue_task_has_one_name(written: str | None, name: str | None) -> None:
    assert DataSpec(task="glue", path="x", subset=written).subset == name


def test_the_hub_is_asked_for_its_own_names() -> None:
    assert DataSpec(task="glue", name="nyu-mll/glue", subset="SST-2").subset == "sst2"
    assert DataSpec(task="glue", name="other/mirror", subset="SST-2").subset == "SST-2"


def test_columns_without_a_name_are_not_mapped() -> None:
    columns = {"text": "review", "label": None}
    assert DataSpec(task="glue", path="x", columns=columns).columns == {"text": "review"}


def test_a_format_of_ones_own_takes_columns_of_any_name() -> None:
    spec = DataSpec(task="data.own_tasks.TopicsFormat", path="x", columns={"topics": "tags"})
    assert spec.columns == {"topics": "tags"}


def test_importing_the_specification_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'numpy'}"
    code = f"import quala.data.spec, sys; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
