"""Which store is meant, what is printed of it, and patience with a server that is away."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quala.cli.entry import main
from quala.errors import QualaError
from quala.workflow import server
from quala.workflow.compose import composed, typed
from quala.workflow.script import find_workflow
from quala.workflow.server import AwayError, patiently, site_of, store_words
from quala.workflow.settings import TrackingConfig
from quala.workflow.store import Store

if TYPE_CHECKING:
    from conftest import Toy

URI = "http://there:5000"
REFUSED = (
    f"API request to {URI}/x failed with exception HTTPConnectionPool(host='there', port=5000): "
    'Max retries exceeded with url: /x (Caused by NewConnectionError("[Errno 111] Connection '
    'refused"))'
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS_TO_WAIT", 0.3)
    monkeypatch.setattr(server, "SECONDS_OF_SILENCE", 0.1)
    monkeypatch.setattr(server, "LONGEST_PAUSE", 0.05)
    server._patience.cache_clear()


def test_what_is_given_counts_before_the_variables(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.folder / "conf/config.yaml"
    config.write_text(config.read_text().replace("experiment: toy", "experiment: null"))
    ours = f"sqlite:///{toy.folder / 'mlruns/mlflow.db'}"
    assert (toy.run().store.uri, toy.run().store.experiment) == (ours, "quala")
    other = f"sqlite:///{toy.folder / 'other.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    by_variable = toy.run()
    assert (by_variable.store.uri, by_variable.store.experiment) == (other, "mine")
    assert not by_variable.reused
    given = toy.run(f"tracking.uri={ours}", "tracking.experiment=quala")
    assert given.store.uri == ours
    assert given.reused  # the same fingerprint as before
    config.write_text(config.read_text().replace("uri: null", f"uri: {ours}"))
    assert toy.run("tracking.experiment=quala").store.uri == ours


def test_each_verb_looks_where_the_variable_says(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{toy.folder / 'other.db'}")
    assert main(["run", "toy.py"]) == 0
    assert main(["run", "toy.py", "-m", "seed=0,1"]) == 0
    told = capsys.readouterr().out
    assert "other.db" in told
    assert "--tracking-uri" not in told
    assert main(["plan", "toy.py", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [one["status"] for one in stages] == ["cached"] * 3
    run = "0" * 32
    for words in (["report", run], ["answer", run, "--question", "?", "--context", "x"],
                  ["export", run, "--out", "x"], ["serve", run], ["ui", run]):  # fmt: skip
        assert main(words) == 2
        assert "other.db" in capsys.readouterr().err
        ours = f"sqlite:///{toy.folder / 'mlruns/mlflow.db'}"
        assert main([*words, "--tracking-uri", ours]) == 2
        assert "mlruns/mlflow.db" in capsys.readouterr().err


def test_a_preset_that_wants_a_server_takes_that_of_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workflow = find_workflow("quala_minilm")
    words = ["tracking=server"]
    with pytest.raises(QualaError, match=r"`tracking.uri` has no value"):
        typed(composed(workflow, words), workflow)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    assert typed(composed(workflow, words), workflow).tracking.uri is None
    given = typed(composed(workflow, [*words, "tracking.uri=http://here"]), workflow)
    assert given.tracking.uri == "http://here"


@pytest.mark.parametrize("value", ["file:/tmp/mlruns", "/tmp/mlruns", "databricks", "s3://b/x"])
def test_a_variable_that_names_no_store_is_one_sentence(
    value: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    for words in (["report"], ["plan", "quala_minilm"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "`MLFLOW_TRACKING_URI` must begin with one of sqlite://, http://" in said
        assert len(said.splitlines()) == 1


def test_a_variable_with_a_password_shows_none(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:Zq7-planted@127.0.0.1:1")
    for words in (["report"], ["ui"], ["plan", "quala_minilm"]):
        assert main(words) == 2
        said = "".join(capsys.readouterr())
        assert "http://u:***@127.0.0.1:1 does not answer" in said
        assert "Zq7" not in said


def test_an_experiment_that_no_folder_can_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "a/b")
    with pytest.raises(QualaError, match="`MLFLOW_EXPERIMENT_NAME` must be letters"):
        TrackingConfig(None, "mlruns", None, None)
    TrackingConfig(URI, "mlruns", None, None)  # a server makes no folder by it


def test_a_hint_says_what_the_next_command_would_not_find(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = f"sqlite:///{here}/mlruns/mlflow.db"
    assert store_words(ours) == ""
    assert store_words(URI) == f" --tracking-uri {URI}"
    assert store_words("sqlite:////a b/x.db") == " --tracking-uri 'sqlite:////a b/x.db'"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{URI}/")
    assert store_words(URI) == ""
    assert store_words(ours) == f" --tracking-uri {ours}"


def test_the_page_of_a_server_has_no_password() -> None:
    assert site_of("https://u:p@h/under/") == "https://h/under"
    assert site_of("http://h:5000/") == "http://h:5000"


def failing(*texts: str) -> Callable[[], str]:
    """Return a call that fails with each text, and then succeeds."""
    from mlflow.exceptions import MlflowException

    left = list(texts)

    def call() -> str:
        if left:
            raise MlflowException(left.pop(0))
        return "done"

    return call


@pytest.mark.usefixtures("quick")
def test_a_short_absence_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    assert patiently(URI, failing(REFUSED)) == "done"
    assert not caplog.records


@pytest.mark.usefixtures("quick")
def test_a_longer_absence_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    assert patiently(URI, failing(*[REFUSED] * 5)) == "done"
    lines = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert lines == [
        f"The tracking server {URI} does not answer (connection refused); waiting for it, at most "
        "0 s.",
        f"The tracking server {URI} answers again.",
    ]


@pytest.mark.usefixtures("quick")
def test_who_comes_after_one_who_gave_up_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AwayError, match=r"not answered .*connection refused.*goes on from"):
        patiently(URI, failing(*[REFUSED] * 1000))
    monkeypatch.setattr(server, "SECONDS_TO_WAIT", 1000.0)
    with pytest.raises(AwayError):
        patiently(URI, failing(*[REFUSED] * 1000))
    assert patiently(URI, failing()) == "done"  # it is back
    assert patiently(URI, failing(REFUSED)) == "done"
    assert AwayError.exit_code == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_DOES_NOT_EXIST: no such run",
        "API request to https://h failed with exception SSLError(CERTIFICATE_VERIFY_FAILED)",
        "API request to endpoint /x failed with error code 403 != 200. Response body: 'no'",
    ],
)
def test_an_answer_is_no_absence(text: str) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException):
        patiently(URI, failing(text))


@pytest.mark.usefixtures("quick")
def test_a_status_says_what_to_do() -> None:
    wanted = "failed with error code 401 != 200. Response body: 'not authenticated'"
    with pytest.raises(QualaError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        patiently(URI, failing(f"API request to endpoint /x {wanted}"))
    broken = "API request to http://h failed with exception too many 500 error responses"
    with pytest.raises(QualaError, match=r"fails \(status 500\), its log says why"):
        patiently(URI, failing(*[broken] * 1000))


@pytest.mark.usefixtures("quick")
def test_the_second_try_of_a_removal_may_find_nothing() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    class Client:
        asked = 0

        def delete_tag(self, run_id: str, key: str) -> None:
            Client.asked += 1
            if Client.asked == 1:
                raise MlflowException(REFUSED)
            raise MlflowException("No tag", error_code=RESOURCE_DOES_NOT_EXIST)

    client: Any = server._Served(Client(), URI)  # type: ignore[arg-type]
    client.delete_tag("run", "key")
    with pytest.raises(MlflowException, match="No tag"):
        client.delete_tag("run", "key")


def test_a_run_left_behind_in_this_process_is_taken_over(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Store.publish

    def away(*words: Any) -> None:
        raise AwayError("The server is away.")

    monkeypatch.setattr(Store, "publish", away)
    with pytest.raises(AwayError):
        toy.run()
    monkeypatch.setattr(Store, "publish", publish)
    assert [one.status for one in toy.run().outcomes] == ["resumed", "done", "done"]
    assert toy.done == ["first", "second", "third"]
