"""Ownership of a run: one process at a time; when it dies, another one may take over.

A run under way belongs to the process that created it, or to the last one that took it over. A
takeover is one row of the database, the parameter `takeover.<n>`. A parameter cannot be changed:
of two processes that write it, only the first succeeds, on any store and without a lock.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from quala.errors import QualaError
from quala.process import Process
from quala.workflow.addresses import HEARTBEAT, SECONDS_TO_LIVE
from quala.workflow.database import LockedError
from quala.workflow.server import AwayError
from quala.workflow.store import Store
from quala.workflow.tags import HIDDEN
from quala.workflow.tracking import ERROR, FINGERPRINT, KIND, PARENT

if TYPE_CHECKING:
    from mlflow.entities import Run

log = logging.getLogger(__name__)

OWNER = f"{HIDDEN}owner"
RELEASED = f"{HIDDEN}released"
HELD = f"{HIDDEN}held"
TAKEOVER = "takeover."
SECONDS_BETWEEN_BEATS = 5.0
SECONDS_TO_SETTLE = 0.5
SECONDS_BETWEEN_LOOKS = 1.0
_left: set[tuple[str, int]] = set()
"""Runs, with the number of the takeover, that this process gave up while the store was away."""


@dataclass(frozen=True)
class Owner(Process):
    """The process that a run belongs to, since when, and a token that no other owner has."""

    since: float
    token: str

    @classmethod
    def this(cls) -> Owner:
        """Return this process, with a new token."""
        own = dataclasses.asdict(Process.this())
        return cls(**own, since=time.time(), token=uuid.uuid4().hex[:8])

    def text(self) -> str:
        """Return the JSON form."""
        return json.dumps(dataclasses.asdict(self))

    def alive(self, heartbeat: float) -> bool:
        """Return whether the process lives; on another host its heartbeat decides."""
        if self.is_local:
            return self.lives()
        return time.time() - max(heartbeat, self.since) < SECONDS_TO_LIVE


def attempt(run: Run) -> int:
    """Return how often a run was taken over."""
    return sum(key.startswith(TAKEOVER) for key in run.data.params)


def owner(run: Run) -> Owner | None:
    """Return the process that a run belongs to."""
    number = attempt(run)
    text = run.data.params[f"{TAKEOVER}{number}"] if number else run.data.tags.get(OWNER)
    return Owner(**json.loads(text)) if text else None


def busy(run: Run) -> bool:
    """Return whether a live process still works on an unfinished run."""
    holder, number = owner(run), attempt(run)
    if holder is None or run.data.tags.get(RELEASED) == str(number):
        return False
    if (run.info.run_id, number) in _left:
        return False
    return holder.alive(float(run.data.tags.get(HEARTBEAT, 0)))


@dataclass
class Lease:
    """The right to work on a run, kept alive while the `with` block lasts.

    Leaving by an exception gives the run up: FAILED, or KILLED when a person interrupted it.
    """

    store: Store
    run_id: str
    number: int
    resumed: bool
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        # From now on no process renews the addresses of the store.
        self.store.client.set_tag(self.run_id, HEARTBEAT, f"{time.time():.0f}")
        self.store.follow()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(SECONDS_BETWEEN_BEATS)  # it may wait for a locked database
        if error is None:
            return
        if isinstance(error, LockedError | AwayError):  # the store cannot be told
            _left.add((self.run_id, self.number))
            return
        from mlflow.exceptions import MlflowException

        message = f"{type(error).__name__}: {error}"
        try:
            self.store.tag(self.run_id, {ERROR: message, RELEASED: str(self.number)})
            self.store.finish(self.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        except (MlflowException, OSError, QualaError) as second:
            reason = str(second).partition("\n")[0]
            log.warning("The failure of run %s could not be recorded: %s", self.run_id, reason)

    def _beat(self) -> None:
        from mlflow.exceptions import MlflowException

        while not self._stop.wait(SECONDS_BETWEEN_BEATS):
            try:
                self.store.client.set_tag(self.run_id, HEARTBEAT, f"{time.time():.0f}")
            except AwayError:
                continue  # the wait was told of
            except (MlflowException, OSError, QualaError) as error:
                reason = str(error).partition("\n")[0]
                log.warning("No heartbeat for run %s: %s", self.run_id, reason)


@dataclass(frozen=True)
class Claim:
    """A request for the finished run of `fingerprint`, or for the right to compute it."""

    kind: str
    name: str
    fingerprint: str
    tags: dict[str, str]
    parent: str | None
    ignored: Set[str]
    """Finished runs that do not count: damaged, or older than a forced one."""


def acquire(store: Store, claim: Claim, usable: Callable[[Run], bool]) -> Run | Lease:
    """Return a finished run that is `usable`, or a lease; wait while another process works."""
    refused: set[str] = set(claim.ignored)
    waiting = False
    while True:
        runs = store.find({KIND: claim.kind, FINGERPRINT: claim.fingerprint})
        for run in runs:
            if run.info.status == "FINISHED" and run.info.run_id not in refused:
                if usable(run):
                    return run
                refused.add(run.info.run_id)
        unfinished = [run for run in runs if run.info.status != "FINISHED"]
        if not any(busy(run) for run in unfinished):
            first = min(unfinished, key=_age, default=None)
            lease = _take_over(store, claim, first) if first else _create(store, claim, refused)
            if lease is not None:
                return lease
        if not waiting:
            log.info("`%s` is being computed by another process; waiting for it.", claim.name)
        waiting = True
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _take_over(store: Store, claim: Claim, run: Run) -> Lease | None:
    from mlflow.exceptions import MlflowException

    number = attempt(run) + 1
    run_id = run.info.run_id
    try:
        store.client.log_param(run_id, f"{TAKEOVER}{number}", Owner.this().text())
    except MlflowException:
        return None
    store.client.update_run(run_id, status="RUNNING")
    if ERROR in run.data.tags:
        store.client.delete_tag(run_id, ERROR)
    if claim.parent:
        store.client.set_tag(run_id, PARENT, claim.parent)
    return Lease(store, run_id, number, resumed=True)


def _create(store: Store, claim: Claim, refused: Set[str]) -> Lease | None:
    # Two processes may both have seen no run. Each makes one, lets the other's become visible,
    # and the earlier one stays; a run that is already held stays whatever the clocks say.
    tags = {
        **claim.tags,
        KIND: claim.kind,
        FINGERPRINT: claim.fingerprint,
        OWNER: Owner.this().text(),
    }
    mine = store.create(claim.name, tags, claim.parent).info.run_id
    time.sleep(SECONDS_TO_SETTLE)
    runs = store.find({KIND: claim.kind, FINGERPRINT: claim.fingerprint})
    own = {run.info.run_id for run in runs if run.data.tags.get(OWNER) == tags[OWNER]}
    for twin in own - {mine}:  # a server made it, and its reply was lost
        store.client.delete_run(twin)
    refused = refused | own - {mine}
    rivals = [run for run in runs if run.info.run_id not in refused]
    done = any(run.info.status == "FINISHED" for run in rivals)
    held = any(HELD in run.data.tags and busy(run) for run in rivals)
    open_runs = [run for run in rivals if run.info.status != "FINISHED"]
    if done or held or min(open_runs, key=_age).info.run_id != mine:
        store.client.delete_run(mine)
        return None
    store.client.set_tag(mine, HELD, "true")
    return Lease(store, mine, 0, resumed=False)


def _age(run: Run) -> tuple[int, str]:
    return run.info.start_time, run.info.run_id
