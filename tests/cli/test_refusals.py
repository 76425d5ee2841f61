"""A refusal comes before anything heavy is imported."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from quala.cli.locate import check_known
from quala.errors import QualaError

RUN = "0" * 32
ASK = ["--question", "q", "--context", "c"]
STORE = ["--tracking-uri", "sqlite:///store.db"]
REFUSED = [
    ["nosuch"],
    *([verb, "--nosuch"] for verb in ("answer", "bench", "cost", "evaluate", "export", "ui")),
    *(["answer", name, *ASK] for name in ("nosuch", "empty", RUN, "models:/a@b", "n" * 300)),
    ["answer", "minilm-squad", *ASK, "--runtime", "nosuch"],
    ["answer", "minilm-squad", *ASK, "--threads", "5000"],
    ["answer", "minilm-squad", "--question", "q", "--context", "@nosuch"],
    ["answer", RUN, *ASK, *STORE],
    ["answer", "models:/nosuch@a", *ASK, *STORE],
    ["bench", "empty"],
    ["bench", "minilm-squad", "--data", "nosuch"],
    ["bench", "minilm-squad", "--questions", "-3"],
    ["cost", "--model", "empty"],
    ["evaluate", "--data", "nosuch", "--predictions", "nosuch"],
    ["export", "nosuch", "--out", "new"],
    ["export", "empty", "--out", "new"],
    ["export", "other", "--out", "new"],
    ["export", RUN, "--out", "new", "--register", "a", *STORE],
    ["report", RUN],
    ["report", RUN, *STORE],
    ["report", "--tracking-uri", "foo://x"],
    ["report", "--tracking-uri", "http://localhost:99999"],
    ["serve", "nosuch", "--port", "0"],
    ["ui", "--port", "99999"],
]
CODE = f"""
import json, sys
from quala.cli.entry import main
heavy = {{"torch", "transformers", "mlflow", "onnxruntime", "pandas", "openvino", "lightning"}}
told = [[words, main(words), sorted(heavy & set(sys.modules))] for words in {REFUSED!r}]
print(json.dumps(told))
"""


def fill(store: Path) -> None:
    """Make what is read of MLflow's tables, with one finished workflow and one model."""
    with closing(sqlite3.connect(store)) as database:
        database.executescript(
            "CREATE TABLE runs (run_uuid, status, lifecycle_stage, start_time);"
            "CREATE TABLE tags (run_uuid, key, value);"
            "CREATE TABLE registered_models (name);"
            "CREATE TABLE logged_models (model_id);"
            "INSERT INTO runs VALUES ('known', 'FINISHED', 'active', 1);"
            "INSERT INTO tags VALUES ('known', 'quala.kind', 'workflow');"
            "INSERT INTO registered_models VALUES ('model');"
            "INSERT INTO logged_models VALUES ('m-1');"
        )


def test_a_refusal_is_one_sentence_and_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    fill(tmp_path / "store.db")
    places = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
    )
    assert [one for one in json.loads(done.stdout) if one[1:] != [2, []]] == []
    assert len(done.stderr.splitlines()) == len(REFUSED), done.stderr
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())


def test_what_a_store_has_is_known(tmp_path: Path) -> None:
    fill(tmp_path / "store.db")
    uri = f"sqlite:///{tmp_path / 'store.db'}"
    for name in ("known", "models:/model@chosen", "models:/model/1", "models:/m-1"):
        check_known(uri, name)
    with pytest.raises(QualaError, match=r"no run `nosuch` .* Newest finished workflows: known."):
        check_known(uri, "nosuch")
    with pytest.raises(QualaError, match="No model is registered as `nosuch`"):
        check_known(uri, "models:/nosuch/3")


def test_a_store_that_cannot_be_asked_is_left_to_mlflow(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "store.db")) as database:
        database.execute("CREATE TABLE other (a)")
    check_known(f"sqlite:///{tmp_path / 'store.db'}", "nosuch")
