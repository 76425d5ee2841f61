"""`quala ui`: what it starts, and what stops it."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from quala.cli.ui import main
from quala.errors import QualaError


def made_database(file: Path) -> None:
    """Make a database that has a table, as one of MLflow has."""
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE runs (run_uuid TEXT)")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")
    monkeypatch.setattr(os, "execv", lambda _, command: calls.append(command))
    return calls


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_store_of_this_folder_is_opened(
    here: Path, started: list[list[str]], free_port: int
) -> None:
    (here / "mlruns").mkdir()
    made_database(here / "mlruns" / "mlflow.db")
    main(["--port", str(free_port)])
    store = f"sqlite:///{here}/mlruns/mlflow.db"
    where = ["--host", "127.0.0.1", "--port", str(free_port)]
    assert started == [[sys.executable, "-m", "mlflow", "ui", *where]]
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == store  # a command line is seen by all users


def test_no_store_yet_is_one_sentence(here: Path) -> None:
    with pytest.raises(QualaError, match="no tracking store"):
        main([])


def test_a_server_that_is_away_is_one_sentence(free_port: int) -> None:
    with pytest.raises(QualaError, match="does not answer"):
        main(["--tracking-uri", f"http://127.0.0.1:{free_port}"])


@pytest.mark.usefixtures("started")
def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    made_database(tmp_path / "m.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(QualaError, match="choose another `--port`"):
            main(["--tracking-uri", f"sqlite:///{tmp_path}/m.db", "--port", port])


@pytest.mark.parametrize("port", ["0", "70000"])
def test_an_impossible_port_is_one_sentence(port: str, tmp_path: Path) -> None:
    made_database(tmp_path / "m.db")
    with pytest.raises(QualaError, match="`--port` must be at least 1 and at most 65535"):
        main(["--tracking-uri", f"sqlite:///{tmp_path}/m.db", "--port", port])


def left_study(folder: Path) -> None:
    """Leave the study of a search in its output."""
    (folder / "study").mkdir(parents=True)
    backend = JournalFileBackend(str(folder / "study" / "study.journal"))
    study = optuna.create_study(study_name="mine", storage=JournalStorage(backend))
    study.add_trial(optuna.trial.create_trial(value=1.0))


def test_studies_open_as_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    served: list[Any] = []
    serve = SimpleNamespace(run_server=lambda storage, **where: served.append((storage, where)))
    monkeypatch.setitem(sys.modules, "optuna_dashboard", serve)
    left_study(tmp_path / "a")
    left_study(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(["--study", f"{tmp_path}/a", f"{tmp_path}/b", "--port", str(free_port)]) == 0
    ((storage, where),) = served
    assert where == {"host": "127.0.0.1", "port": free_port}
    assert optuna.get_all_study_names(storage) == ["mine", "mine 2"]
    assert len(optuna.load_study(study_name="mine 2", storage=storage).trials) == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_studies_are_named_by_their_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    served: list[Any] = []
    serve = SimpleNamespace(run_server=lambda storage, **where: served.append(storage))
    monkeypatch.setitem(sys.modules, "optuna_dashboard", serve)
    monkeypatch.setattr("quala.cli.ui._search_output", lambda run, uri: tmp_path)
    left_study(tmp_path)
    runs = ["a" * 32, f"runs:/{'b' * 32}", "a" * 32]
    assert main(["--study", *runs, "--port", str(free_port)]) == 0
    names = ["mine aaaaaaaa", "mine aaaaaaaa 2", "mine bbbbbbbb"]
    assert sorted(optuna.get_all_study_names(served[0])) == names


def test_a_missing_dashboard_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)  # type: ignore[arg-type]
    with pytest.raises(QualaError, match="pip install optuna-dashboard"):
        main(["--study", "."])


def test_a_folder_without_a_study_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", SimpleNamespace(run_server=None))
    with pytest.raises(QualaError, match="holds no study of a search"):
        main(["--study", str(tmp_path)])
