"""Which tracking store is meant, and patience with a tracking server that is away for a while."""

from __future__ import annotations

import logging
import os
import re
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

from quala.errors import QualaError
from quala.ranges import check_text
from quala.workflow.database import SQLITE, patient_client
from quala.workflow.tags import client_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
log = logging.getLogger(__name__)

SERVER = ("http://", "https://")
"""How the address of a tracking server begins."""
ADDRESS, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
"""MLflow's own variables, for what neither a command nor a configuration says."""
DEFAULT_EXPERIMENT = "quala"
SECONDS_TO_ANSWER = 3.0
SECONDS_TO_WAIT = 120.0
"""How long a server is waited for: a restart with a migration takes a minute. A guess."""
SECONDS_OF_SILENCE = 2.0
LONGEST_PAUSE = 5.0
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def chosen_address(given: str | None) -> str | None:
    """Return the address that was given, else that of MLflow's variable; None is the folder's own.

    Raises QualaError for a variable that holds no address of a store.
    """
    value = os.environ.get(ADDRESS, "").strip()
    if given is not None or not value:
        return given
    check_text(ADDRESS, value, "store")
    return value


def chosen_experiment(given: str | None) -> str:
    """Return the experiment that was given, else that of MLflow's variable, else the default."""
    return given or os.environ.get(EXPERIMENT, "").strip() or DEFAULT_EXPERIMENT


def embedded(folder: str | Path) -> str:
    """Return the address of the store that a folder holds."""
    return f"{SQLITE}{Path(folder).absolute() / 'mlflow.db'}"


def store_words(uri: str) -> str:
    """Return the words that a command in this folder needs to find a store, with a blank before.

    There are none where the command looks there anyway.
    """
    usual = chosen_address(None) or embedded("mlruns")
    return "" if uri.rstrip("/") == usual.rstrip("/") else f" --tracking-uri {shlex.quote(uri)}"


def site_of(uri: str) -> str:
    """Return the first page of a tracking server, without a password."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


class AwayError(QualaError):
    """A tracking server that has not answered for too long."""

    exit_code = 1


class _SilentError(QualaError):
    """Nothing listens at an address."""


def check_server(uri: str) -> None:
    """Raise QualaError quickly if nothing answers at an http(s) tracking address.

    One that has answered this process before is waited for.
    """
    patience = _patience(uri)
    if patience.met:
        patience.with_call(lambda: _connect(uri))
    else:
        _connect(uri)


def _connect(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise _SilentError(f"The tracking server {uri} does not answer ({error}).") from error
    except ValueError as error:  # which may quote a part of a password
        raise QualaError(f"The tracking server {uri} has no port that is a number.") from error


def connected(uri: str) -> MlflowClient:
    """Return a client of a store whose calls wait for a locked database, or for a server."""
    if uri.startswith(SERVER):
        # MLflow's own retries wait longer each time, log each try, and may create a run twice.
        os.environ.setdefault(RETRIES, "0")
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    client = patient_client(lambda: client_of(uri), uri)
    return cast("MlflowClient", _Served(client, uri)) if uri.startswith(SERVER) else client


def patiently(uri: str, call: Callable[[], T]) -> T:
    """Return what a call to a store returns, which may be made again; a server is waited for.

    Raises AwayError in the end, and QualaError for a request that a server refuses.
    """
    return _patience(uri).with_call(call) if uri.startswith(SERVER) else call()


@dataclass
class _Patience:
    """What all threads of a process know of a server that may be away."""

    uri: str
    met: bool = False
    given_up: bool = False
    """Whether a call has waited in vain: the others need not, until one succeeds."""
    told: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def with_call(self, call: Callable[[], T]) -> T:
        began, tries = time.monotonic(), 0
        while True:
            try:
                with _worded(self.uri):
                    result = call()
            except Exception as error:
                reason = _absence(error)
                if reason is None:
                    raise
                began = time.monotonic() if tries == 0 else began
                self._wait(began, reason, error)
                time.sleep(min(LONGEST_PAUSE, 0.1 * 2**tries))
                tries += 1
            else:
                self._is_back()
                return result

    def _wait(self, began: float, reason: str, error: Exception) -> None:
        """Tell of the wait when it gets long, and raise AwayError when it is over."""
        waited = time.monotonic() - began
        kept = "What is finished is kept, and the same command goes on from there."
        if reason == _BROKEN:  # a bug, or a full disk, which no wait mends
            if waited >= SECONDS_OF_SILENCE:
                raise QualaError(
                    f"The tracking server {self.uri} fails ({reason}), its log says why. {kept}"
                ) from error
            return
        with self.lock:
            if waited >= SECONDS_TO_WAIT or self.given_up:
                self.given_up = True
                raise AwayError(
                    f"The tracking server {self.uri} has not answered for "
                    f"{SECONDS_TO_WAIT:.0f} s ({reason}). {kept}"
                ) from error
            if waited >= SECONDS_OF_SILENCE and not self.told:
                self.told = True
                log.warning(
                    "The tracking server %s does not answer (%s); waiting for it, at most %.0f s.",
                    self.uri,
                    reason,
                    SECONDS_TO_WAIT,
                )

    def _is_back(self) -> None:
        with self.lock:
            told, self.told = self.told, False
            self.met, self.given_up = True, False
        if told:
            log.warning("The tracking server %s answers again.", self.uri)


@cache
def _patience(uri: str) -> _Patience:
    return _Patience(uri)


_FAILED = re.compile(
    r"API request to \S+ failed with (?:timeout )?exception"
    # In the traceback of a thread that reads an artifact.
    r"|requests\.exceptions\.(?:ChunkedEncodingError|ConnectionError|ReadTimeout|ConnectTimeout)"
)
_STATUS = re.compile(r"too many (\d+) error responses")
_BROKEN = "status 500"
_REASONS = {
    "Connection refused": "connection refused",
    "timed out": "no reply in time",
    "failed with timeout": "no reply in time",
    "resolve": "unknown host",
}


def _absence(error: Exception) -> str | None:
    """Return why a server could not be asked; None for an error that is an answer.

    MLflow has one class for both, and only the text of what its threads met.
    """
    if isinstance(error, _SilentError):
        return "nothing listens there"
    text = str(error)
    if isinstance(error, QualaError) or not _FAILED.search(text):
        return None
    if "SSLError" in text and "EOF" not in text:  # a certificate, or no TLS at all
        return None
    if status := _STATUS.search(text):
        return f"status {status[1]}"
    return next((why for sign, why in _REASONS.items() if sign in text), "connection lost")


@contextmanager
def _worded(uri: str) -> Iterator[None]:
    """Raise QualaError where a server wants credentials or refuses an artifact."""
    from requests import HTTPError

    try:
        yield
    except HTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status != 401:
            reason = getattr(error.response, "reason", error)
            raise QualaError(
                f"The tracking server {uri} refuses an artifact: {status} {reason}."
            ) from error
        raise _credentials(uri) from error
    except Exception as error:
        if "failed with error code 401" not in str(error):
            raise
        raise _credentials(uri) from error


def _credentials(uri: str) -> QualaError:
    return QualaError(
        f"The tracking server {uri} wants other credentials (status 401): they are taken from "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or from MLFLOW_TRACKING_TOKEN."
    )


_DONE_BEFORE = {
    "delete_tag": "RESOURCE_DOES_NOT_EXIST",
    "delete_registered_model_alias": "RESOURCE_DOES_NOT_EXIST",
    "create_registered_model": "RESOURCE_ALREADY_EXISTS",
}
"""What a second try is told where the first one did its work and only its reply was lost."""


@dataclass(frozen=True)
class _Served:
    """A client whose calls wait for the server. Calls of `log_batch` have their time with them,
    and the server takes the same metric once, so that trying again doubles nothing."""

    client: MlflowClient
    uri: str

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def again(*arguments: Any, **named: Any) -> Any:
            tries = 0

            def once() -> Any:
                nonlocal tries
                tries += 1
                try:
                    return method(*arguments, **named)
                except Exception as error:
                    code = getattr(error, "error_code", None)
                    if tries > 1 and code is not None and code == _DONE_BEFORE.get(name):
                        return None
                    raise

            return patiently(self.uri, once)

        return again

    def create_run(self, experiment_id: str, **named: Any) -> Any:
        """Create a run once, also where the server made it and its reply was lost."""
        start = named.pop("start_time", int(time.time() * 1000))
        tries = 0

        def once() -> Any:
            nonlocal tries
            tries += 1
            if tries > 1:
                same = self.client.search_runs([experiment_id], f"attributes.start_time = {start}")
                own = (named.get("tags") or {}).items()
                for run in same:
                    if own <= run.data.tags.items():
                        return run
            return self.client.create_run(experiment_id, start_time=start, **named)

        return patiently(self.uri, once)
