"""Finished runs and their reports in a tracking store, which is only read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.durable import replacing
from quala.errors import QualaError, unknown
from quala.manifest import MANIFEST, damage
from quala.results import REPORT, Report, Row, read_report, with_speedups
from quala.stored import read_json, read_object, typed
from quala.workflow.lease import busy
from quala.workflow.sweep import job_records
from quala.workflow.tracking import (
    KIND,
    MANIFEST_TAG,
    OUTPUT,
    PARENT,
    STAGE,
    Tracking,
    explaining,
)

if TYPE_CHECKING:
    from mlflow.entities import Run


REPORT_STAGE, MEASURE_STAGE = "report", "measure"
ROWS = "rows.json"
"""The rows in the output of a measure stage."""


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep; `run` is None when it failed before its workflow run began."""

    number: int
    words: tuple[str, ...]
    """Its overrides."""
    status: str
    """finished, cached (another command had run it), running, killed or failed."""
    error: str | None
    run: Run | None


@dataclass(frozen=True)
class Reports(Tracking):
    """The tracked runs of every experiment of one store."""

    experiments: Mapping[str, str]
    """Ids of the experiments by name."""

    @classmethod
    def open(cls, uri: str | None) -> Reports:
        """Connect to a store, by default that of this folder. Raises QualaError without one."""
        store = Tracking.connect(uri)
        with explaining(f"The tracking store {store.uri} cannot be read"):
            return cls(store.client, store.uri, store.experiment_ids())

    def run(self, run_id: str) -> Run:
        """Return a workflow or sweep run. Raises QualaError for any other id."""
        try:
            run = self.get(run_id)
        except QualaError as error:
            newest = ", ".join(one.info.run_id for one in self.finished()[:3]) or "none"
            raise QualaError(f"{error} Newest finished workflows: {newest}.") from error
        kind = run.data.tags.get(KIND, "run of another program")
        if kind not in ("workflow", "sweep"):
            above = run.data.tags.get(PARENT)
            hint = f"; it belongs to `{above}`" if above else ""
            raise QualaError(f"Run `{run_id}` is a {kind}, not a workflow or a sweep{hint}.")
        return run

    def finished(self, experiment: str | None = None) -> list[Run]:
        """Return the finished workflow runs, newest first, of one experiment or of all.

        Raises QualaError for an experiment that does not exist.
        """
        if experiment is not None and experiment not in self.experiments:
            raise unknown("experiment", experiment, self.experiments)
        names = self.experiments if experiment is None else [experiment]
        ids = [self.experiments[name] for name in names]
        return self.find_runs(ids, {KIND: "workflow"}, "FINISHED")

    def reported(self, experiment: str | None = None) -> list[Run]:
        """Return the finished workflow runs that have a report, newest first."""
        return [run for run in self.finished(experiment) if report_run(run)]

    def with_rows(self, experiment: str | None = None) -> list[Run]:
        """Return the finished workflow runs that measured something, newest first."""
        return [run for run in self.finished(experiment) if report_run(run) or measure_run(run)]

    def newest(self) -> Run:
        """Return the newest finished workflow that has a report. Raises QualaError if none has."""
        for run in self.reported():
            return run
        raise QualaError(f"No finished workflow in {self.uri} has a report yet: `quala run` one.")

    def jobs(self, sweep: Run) -> list[SweepJob]:
        """Return the jobs of a sweep in order; a job may have reused an older workflow run."""
        own = {KIND: "workflow", PARENT: sweep.info.run_id}
        runs = self.find_runs([sweep.info.experiment_id], own)
        known = {run.info.run_id: run for run in runs}
        # The record of a job that did not end does not name its run.
        begun = {run.data.tags.get("quala.overrides", ""): run for run in reversed(runs)}
        found = []
        for job in job_records(sweep.data.tags):
            run_id, words = job["run_id"], tuple(job["overrides"])
            run = known.get(run_id) or (self.get(run_id) if run_id else begun.get(" ".join(words)))
            status, error = job["status"].lower(), job.get("error")
            if status == "finished" and run is not None and run.info.run_id not in known:
                status = "cached"
            if status == "running" and not (busy(run) if run else sweep.info.status == "RUNNING"):
                status = "killed"
            found.append(SweepJob(int(job["job"]), words, status, error, run))
        return found

    def report(self, run: Run) -> Report:
        """Return a workflow's report. Raises QualaError when it has none."""
        with tempfile.TemporaryDirectory() as copies:
            return read_report(self._verified(run, copies))

    def measured(self, run: Run) -> Report | None:
        """Return what was measured in a workflow run, None where nothing was.

        It is of the report's or of the measure stage's one file, which alone is fetched. Raises
        QualaError when that cannot be read or is damaged.
        """
        if stage := report_run(run):
            return Report.from_json(self._content(stage, REPORT))
        if stage := measure_run(run):
            rows = typed(tuple[Row, ...], self._content(stage, ROWS), ROWS)
            return Report(tuple(with_speedups(rows)))
        return None

    def _content(self, run_id: str, name: str) -> Any:
        """Return the content of a JSON file of a stage's output."""
        run = self.get(run_id)
        seal = run.data.tags.get(MANIFEST_TAG)
        with tempfile.TemporaryDirectory() as copies:
            if run.info.artifact_uri.startswith(("file:", "/")):
                folder = self.download(f"runs:/{run_id}/{OUTPUT}")
            else:
                for one in (name, MANIFEST) if seal else (name,):
                    self.artifact(run_id, f"{OUTPUT}/{one}", Path(copies))
                folder = Path(copies) / OUTPUT
            if seal and (found := damage(folder, seal, only=[name])):
                raise QualaError(f"`{found[0]}` of run `{run_id}` {found[1]}: it is damaged.")
            return read_json(folder / name)

    def facts(self, run_id: str, path: str) -> dict[str, Any]:
        """Return the content of a JSON artifact. Raises QualaError when it cannot be read."""
        with tempfile.TemporaryDirectory() as folder:
            return read_object(self.artifact(run_id, path, Path(folder)))

    def export(self, run: Run, folder: Path) -> None:
        """Copy a workflow's report files into `folder`, which may have a manifest of its own.

        Raises QualaError when it has none.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as copies:
            for file in self._verified(run, copies).iterdir():
                if file.is_file() and file.name != MANIFEST:
                    with replacing(folder / file.name) as partial:
                        shutil.copyfile(file, partial)

    def _verified(self, run: Run, copies: str) -> Path:
        """Return the output of a workflow's report stage; a remote one is copied."""
        return self.output(f"runs:/{_needed(run)}/{OUTPUT}", Path(copies) / OUTPUT)


def report_run(run: Run) -> str | None:
    """Return the id of the stage run that made a workflow's report, if any did.

    It may belong to another workflow, whose report was reused.
    """
    return run.data.tags.get(f"{STAGE}.{REPORT_STAGE}") or None


def measure_run(run: Run) -> str | None:
    """Return the id of the stage run that measured a workflow's rows, if any did."""
    return run.data.tags.get(f"{STAGE}.{MEASURE_STAGE}") or None


def _needed(run: Run) -> str:
    found = report_run(run)
    if found is None:
        raise QualaError(
            f"Run `{run.info.run_id}` ({run.info.status.lower()}) has no report: it stopped "
            "before its report stage, or that stage was left out."
        )
    return found
