"""Where a study is kept: databases and journals, what they refuse, and that all end alike."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from quala.errors import QualaError
from quala.search.result import SearchResult
from quala.search.space import Space
from quala.search.storage import check_storage, open_storage
from quala.search.strategy import SearchSettings
from quala.search.study import StudyPlace, run_search

SPACE = Space(4, 32)
SETTINGS = SearchSettings(
    seed=1, strategy="quala", max_evaluations=1000, population=2,
    generations=2, mutations=2, crossovers=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The address of an empty database of a server that ends with the tests."""
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    programs = [shutil.which(name) for name in ("initdb", "pg_ctl")]
    if None in programs:
        pytest.skip("PostgreSQL is not installed")
    initdb, control = map(str, programs)
    folder = Path(tempfile.mkdtemp(prefix="quala-postgresql-"))
    become: list[str] = []
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as, and pytest's folder is closed
        become = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")

    def call(*words: str) -> None:
        subprocess.run([*become, *words], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    call(initdb, "-D", data, "-U", "quala", "--auth=trust", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    call(control, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    yield f"postgresql+psycopg2://quala@127.0.0.1:{port}/postgres"
    call(control, "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(params=["own journal", "journal", "sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    places = {"journal": tmp_path / "all.journal", "sqlite": f"sqlite:///{tmp_path}/all.db"}
    place = places.get(request.param)
    return str(place) if place else None


def search(evaluator: Any, folder: Path, storage: str | None = None) -> SearchResult:
    return run_search(evaluator, SPACE, SETTINGS, StudyPlace(folder, storage, name="mine"))


def exported(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name=None, storage=storage)


class Knowing:
    """An evaluator that scores nothing it was told of, as the real one does."""

    def __init__(self, fake: Any) -> None:
        self.fake, self.cost, self.known = fake, fake.cost, {}  # type: ignore[var-annotated]

    def evaluate(self, configs: Any) -> Any:
        fresh = [one for one in configs if one not in self.known]
        self.recall(self.fake.evaluate(fresh) if fresh else [])
        return [self.known[one] for one in configs]

    def recall(self, known: Any) -> None:
        self.known.update((one.lengths, one) for one in known)


def test_an_interrupted_search_goes_on_as_it_would_have(
    storage: str | None, tmp_path: Path, fake: Any
) -> None:
    whole = search(fake(), tmp_path / "whole")
    cut, rest = fake(fail_after=5), fake()
    with pytest.raises(KeyboardInterrupt):
        search(cut, tmp_path / "cut", storage)
    assert search(rest, tmp_path / "cut", storage) == whole
    assert len(cut.asked) + len(rest.asked) == len(whole.candidates)


def test_the_study_is_left_in_the_folder_too(
    storage: str | None, tmp_path: Path, fake: Any
) -> None:
    result = search(fake(), tmp_path / "search", storage)
    study = exported(tmp_path / "search")
    best = {tuple(trial.values) for trial in study.best_trials}
    assert best == {(point.score, point.cost) for point in result.front}
    assert study.metric_names == ["score", "cost"]
    if storage is not None:
        kept = optuna.load_study(study_name=study.study_name, storage=open_storage(storage))
        assert [one.params for one in kept.trials] == [one.params for one in study.trials]


def test_searches_in_one_storage_do_not_meet(
    storage: str | None, tmp_path: Path, fake: Any
) -> None:
    first, second = fake(), fake()
    one = search(first, tmp_path / "one", storage)
    assert search(second, tmp_path / "two", storage) == one
    assert len(first.asked) == len(second.asked) == len(one.candidates)


@pytest.mark.parametrize("then", ["deleted", "elsewhere", "own journal"])
def test_nothing_is_scored_twice_when_the_study_is_lost(
    then: str, tmp_path: Path, fake: Any
) -> None:
    storage = f"sqlite:///{tmp_path}/all.db"
    whole = search(fake(), tmp_path / "whole")
    cut, rest = fake(fail_after=5), fake()
    with pytest.raises(KeyboardInterrupt):
        search(Knowing(cut), tmp_path / "cut", storage)
    if then == "deleted":
        optuna.delete_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage)
    new = {"elsewhere": f"sqlite:///{tmp_path}/new.db", "own journal": None}
    assert search(Knowing(rest), tmp_path / "cut", new.get(then, storage)) == whole
    assert len(cut.asked) + len(rest.asked) == len(whole.candidates)


def test_lost_scores_are_found_again(tmp_path: Path, fake: Any) -> None:
    whole = search(fake(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        search(fake(fail_after=5), tmp_path / "cut")
    (tmp_path / "cut" / "scores.jsonl").unlink()
    rest = fake()
    assert search(rest, tmp_path / "cut") == whole
    assert len(rest.asked) == len(whole.candidates)


def test_what_is_scored_but_not_told_is_known(
    tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    cut, rest = fake(), fake()
    with monkeypatch.context() as patched:
        patched.setattr("quala.search.study.StudyWorker._tell", killed)
        with pytest.raises(KeyboardInterrupt):
            search(Knowing(cut), tmp_path / "cut")
    assert search(Knowing(rest), tmp_path / "cut") == search(fake(), tmp_path / "whole")
    assert cut.asked
    assert not set(cut.asked) & set(rest.asked)


def test_a_database_that_fails_later_is_one_sentence(
    tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise StorageInternalError from OperationalError("", None, OSError("gone"))

    storage = f"sqlite:///{tmp_path}/all.db"
    with monkeypatch.context() as patched:
        patched.setattr("quala.search.study.StudyWorker._tell", failing)
        with pytest.raises(QualaError, match=r"`storage=.*all.db` cannot be used: .*gone"):
            search(fake(), tmp_path / "cut", storage)
    assert search(fake(), tmp_path / "cut", storage) == search(fake(), tmp_path / "whole")


def test_attributes_are_small(tmp_path: Path, fake: Any) -> None:
    search(fake(), tmp_path)
    for trial in exported(tmp_path).trials:
        assert trial.user_attrs["examples"] == 1
        assert max(len(str(value)) for value in trial.user_attrs.values()) < 100


def test_scores_of_an_earlier_version_are_read(
    tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(fake(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        search(fake(fail_after=5), tmp_path / "old")
    file, scores = tmp_path / "old/study.journal", tmp_path / "old/scores.jsonl"
    # As it was: the scores of all examples in each trial, and no file beside the study.
    text = file.read_text()
    file.write_text(text.replace('"examples":1}', '"examples":[1.5]}'))
    scores.unlink()
    rest = fake()
    assert search(rest, tmp_path / "old") == whole
    assert {one.examples for one in rest.recalled[:4]} == {(1.5,)}


def database(path: Path, *tables: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        for table in tables:
            connection.execute(f"CREATE TABLE {table} (version_num TEXT)")
    return f"sqlite:///{path}"


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("http://host/x", "must be the path of a journal file or begin with one of sqlite"),
        ("redis://host", "must be the path of a journal file or begin with one of sqlite"),
        ("sqlite://", "must name a file"),
        ("sqlite:///FOLDER/mlflow.db", "a database of its own, .* is one of MLflow"),
        ("sqlite:///FOLDER/other.db", "a database of its own, .* is one of another program"),
        ("sqlite:///FOLDER/notes.json", "cannot be used: .*not a database"),
        ("sqlite:///FOLDER/notes.json/x.db", "is no folder to write to"),
        ("FOLDER/mlflow.db", "a SQLite database is sqlite:///"),
        ("FOLDER/notes.json", "a journal of Optuna"),
        ("FOLDER", "a journal of Optuna"),
        ("postgresql+none://host/db", "cannot be used: Can't load plugin"),
        ("postgresql+psycopg2://host/db", "needs a driver: pip install psycopg2-binary"),
    ],
)
def test_what_cannot_hold_a_study_is_refused(
    place: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database(tmp_path / "mlflow.db", "alembic_version", "experiments")
    database(tmp_path / "other.db", "alembic_version", "things")
    (tmp_path / "notes.json").write_text("{\n}")
    monkeypatch.setitem(sys.modules, "psycopg2", None)  # type: ignore[arg-type]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(QualaError, match=sentence):
        check_storage(place.replace("FOLDER", str(tmp_path)))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_look_makes_nothing(tmp_path: Path) -> None:
    for place in (f"sqlite:///{tmp_path}/new/all.db", f"{tmp_path}/new/all.journal"):
        check_storage(place)
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_one_sentence(postgresql: str) -> None:
    with pytest.raises(QualaError, match=r"`storage=.*` cannot be used: .*refused"):
        check_storage("postgresql+psycopg2://quala:secret-word@127.0.0.1:1/db")
