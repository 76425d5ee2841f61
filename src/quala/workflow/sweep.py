"""A Hydra sweep as one tracked run, with the workflow runs of its jobs below it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from quala.errors import QualaError
from quala.redact import recorded
from quala.workflow.identity import fingerprint
from quala.workflow.lease import busy
from quala.workflow.settings import TrackingConfig, build
from quala.workflow.store import Store
from quala.workflow.tracking import FINGERPRINT, KIND, PARENT

log = logging.getLogger(__name__)

SWEEP_VARIABLE = "QUALA_SWEEP"
JOB = "quala.job."
STUDY, OBJECTIVES = "quala.study", "quala.objectives"
"""Tags of the run of an Optuna sweep; the objectives with their directions, as JSON."""


PLUGIN = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
"""The plugin that does not know Optuna 5; a configuration may name it."""
OPTUNA = "hydra_plugins.quala_optuna_sweeper.OptunaSweeper"


class SweepParent(Callback):
    """Hydra callback: creates the store and the sweep's run before any job starts."""

    _failed: ClassVar[list[Exception]] = []
    """Errors kept from Hydra, which would only warn of them."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Create the sweep's run, or continue the run of the same sweep.

        An Optuna sweep begins its run itself, once its options are checked.
        """
        try:
            sweeper = config.hydra.sweeper
            if sweeper._target_ == PLUGIN:
                with read_write(sweeper):
                    sweeper._target_ = OPTUNA
            if study_of(config) is None:
                begin(config)
        except Exception as error:  # raised again by `quala.workflow.launch.run`
            self._failed.append(error)


def begin(config: DictConfig) -> Sweep:
    """Create the run of a sweep, or continue that of the same sweep."""
    values = OmegaConf.to_container(config.tracking, resolve=True)
    store = Store.open(build(TrackingConfig, values))  # type: ignore[arg-type]
    words, study = list(config.hydra.overrides.task), study_of(config)
    identity = [config.workflow, words] if study is None else [config.workflow, words, study]
    same = {KIND: "sweep", FINGERPRINT: fingerprint(identity)}
    found = store.find(same)
    if found:
        run_id = found[0].info.run_id
        store.client.update_run(run_id, status="RUNNING")
    else:
        tags = {
            **same,
            "quala.workflow": config.workflow,
            "quala.overrides": " ".join(recorded(words)),
        }
        own = {"quala.study": study} if study else {}
        run_id = store.create(f"{config.workflow} sweep", tags | own, None).info.run_id
    os.environ[SWEEP_VARIABLE] = json.dumps({"run_id": run_id, "tracking": values})
    return Sweep(store, run_id)


def study_of(config: DictConfig) -> str | None:
    """Return the name of the study of an Optuna sweep, None for another sweep."""
    sweeper = config.hydra.sweeper
    if sweeper._target_ != OPTUNA or sweeper.study_name is not None:
        return str(sweeper.study_name) if sweeper._target_ == OPTUNA else None
    chosen = ("params", "objectives", "direction", "sampler", "custom_search_space")
    plain: Any = OmegaConf.to_container(sweeper, resolve=True)
    identity = [list(config.hydra.overrides.task), {name: plain.get(name) for name in chosen}]
    return f"{config.workflow}-{fingerprint(identity)[:12]}"


@dataclass(frozen=True)
class Sweep:
    """The sweep that this process or its parent has started."""

    store: Store
    run_id: str

    @classmethod
    def current(cls) -> Self | None:
        """Return the sweep that `SweepParent` made, None outside of one."""
        text = os.environ[SWEEP_VARIABLE] if SWEEP_VARIABLE in os.environ else None
        if text is None:
            return None
        found = json.loads(text)
        return cls(Store.open(build(TrackingConfig, found["tracking"])), found["run_id"])

    def note(self, job: dict[str, Any]) -> None:
        """Store the record of a job."""
        self.store.client.set_tag(self.run_id, f"{JOB}{job['job']}", json.dumps(recorded(job)))

    def jobs(self) -> list[dict[str, Any]]:
        """Return the record of each job, in order."""
        return job_records(self.store.client.get_run(self.run_id).data.tags)

    def close(self, status: str) -> None:
        """Set the final status of the sweep's run; this process leaves the sweep.

        A launcher kills the processes of its jobs: those do not mark their own runs.
        """
        for job in self.jobs():
            if job["status"] == "RUNNING":
                self.note(job | {"status": "KILLED"})
        parents = [self.run_id]
        for parent in parents:
            for run in self.store.find({PARENT: parent}, "RUNNING"):
                if not busy(run):
                    self.store.finish(run.info.run_id, "KILLED")
                    parents.append(run.info.run_id)
        self.store.finish(self.run_id, status)
        os.environ.pop(SWEEP_VARIABLE, None)


def job_records(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the record of each job of a sweep, in order, from the tags of its run."""
    found = [json.loads(text) for key, text in tags.items() if key.startswith(JOB)]
    return sorted(found, key=lambda job: int(job["job"]))


def best_of(gains: Sequence[Sequence[float]]) -> list[int]:
    """Return the places of the points that no other dominates; more is better in each value."""
    return [
        place
        for place, own in enumerate(gains)
        if not any(
            other != own and all(there >= here for there, here in zip(other, own, strict=True))
            for other in gains
        )
    ]


def varied(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return for each job of a sweep its overrides, without those that all of several have."""
    same = set(jobs[0]).intersection(*jobs[1:]) if len(jobs) > 1 else set[str]()
    return [" ".join(word for word in words if word not in same) for words in jobs]


@dataclass
class Job:
    """One job of a sweep: a failure is recorded, and the other jobs go on."""

    sweep: Sweep
    number: int
    overrides: Sequence[str]
    run_id: str | None = None

    def __enter__(self) -> Self:
        self._write("RUNNING", None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None:
            self._write("FINISHED", None)
            return False
        if not isinstance(error, Exception):
            self._write("KILLED", None)
            return False
        self._write("FAILED", f"{type(error).__name__}: {error}")
        mistake = isinstance(error, QualaError)
        log.error("Job %d failed: %s", self.number, error, exc_info=None if mistake else error)
        return True

    def _write(self, status: str, error: str | None) -> None:
        entry = {
            "job": self.number,
            "overrides": list(self.overrides),
            "status": status,
            "run_id": self.run_id,
            "error": error[:2000] if error else None,
        }
        self.sweep.note(entry)
