"""A Hydra sweep as one tracked run, with the workflow runs of its jobs below it."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Transformer
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from quala.errors import QualaError
from quala.metrics.interval import METRIC_NAMES
from quala.redact import recorded
from quala.workflow.identity import fingerprint
from quala.workflow.lease import busy
from quala.workflow.settings import TrackingConfig, build
from quala.workflow.store import Store
from quala.workflow.tags import HIDDEN
from quala.workflow.tracking import FINGERPRINT, KIND, PARENT, WORKFLOW
from quala.workflow.views import pages_of, show_sweep

log = logging.getLogger(__name__)

SWEEP_VARIABLE = "QUALA_SWEEP"
JOB = f"{HIDDEN}job."
STUDY, OBJECTIVES = "quala.study", "quala.objectives"
"""Tags of the run of an Optuna sweep; the objectives with their directions, as JSON."""
TABLE = "sweep.json"
"""The table of the jobs, which MLflow draws."""
MOST_NAMED = 4


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


def begin(config: DictConfig, chosen: Collection[str] = ()) -> Sweep:
    """Create the run of a sweep, or continue that of the same sweep.

    `chosen` are the options of which a study chooses the values.
    """
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
            WORKFLOW: config.workflow,
            "quala.overrides": " ".join(recorded(words)),
        }
        name = f"{config.workflow} sweep: {_what_varies(config, chosen)}".rstrip(": ")
        run_id = store.create(name, tags, None).info.run_id
    if study:
        store.tag(run_id, {STUDY: study, OBJECTIVES: json.dumps(directions_of(config))})
    os.environ[SWEEP_VARIABLE] = json.dumps({"run_id": run_id, "tracking": values})
    return Sweep(store, run_id)


def _what_varies(config: DictConfig, chosen: Collection[str]) -> str:
    """Return the options with several values in words, such as `cost x seed`."""
    params = OmegaConf.select(config, "hydra.sweeper.params")
    words = [f"{key}={value}" for key, value in (params or {}).items()]
    parser, several = OverridesParser.create(), list[str]()
    for word in (*words, *config.hydra.overrides.task):
        # Hydra has taken the backslashes out of some, which then are no overrides.
        with suppress(HydraException):
            if (one := parser.parse_override(word)).is_sweep_override():
                several.append(one.get_key_element().lstrip("+~"))
    keys = sorted(dict.fromkeys([*several, *chosen]), key=is_seed)
    names = [short_name(key, keys) for key in keys]
    more = [f"{len(names) - MOST_NAMED} more"] * (len(names) > MOST_NAMED)
    return " x ".join([*names[:MOST_NAMED], *more])


def first_job(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the overrides of a sweep with the first value of each, and a note of what that is."""
    parser, found, several = OverridesParser.create(), list[str](), list[str]()
    for word in words:
        one = parser.parse_override(word)
        if one.is_sweep_override():
            value = one.value()
            first = (
                value.start
                if isinstance(value, IntervalSweep)
                else next(one.sweep_iterator(Transformer.encode))
            )
            word = f"{one.get_key_element()}={first}"
            several.append(word)
        found.append(word)
    text = " ".join(several) or "what the configuration has"
    return found, [f"Of the sweep, this is the plan of one job: {text}; the others may differ."]


def directions_of(config: DictConfig) -> dict[str, str]:
    """Return the direction of each objective of an Optuna sweep."""
    plain: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    names, ways = (
        value if isinstance(value, list) else [value]
        for value in (plain["objectives"], plain["direction"])
    )
    return {str(name): str(way) for name, way in zip(names, ways, strict=True)}


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
class Conclusion:
    """What an Optuna sweep came to: its best trials, and whether its failures were allowed for."""

    best: list[dict[str, Any]]
    tolerated: bool


@dataclass(frozen=True)
class Sweep:
    """The sweep that this process or its parent has started."""

    store: Store
    run_id: str
    conclusions: ClassVar[dict[str, Conclusion]] = {}
    """Of the Optuna sweeps of this process, by run."""

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
        """Set the final status of the sweep's run and sum it up; this process leaves the sweep.

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
        self._sum_up()

    def _sum_up(self) -> None:
        """Write what people look at: a table of the jobs, and the figures of the best one.

        The names of the figures are those that the runs of the jobs have.
        """
        jobs = self.jobs()
        if not jobs:
            return
        tags = self.store.client.get_run(self.run_id).data.tags
        directions = json.loads(tags.get(OBJECTIVES, "{}"))
        found = self._figures([job["run_id"] for job in jobs], directions)
        best = best_job(found, directions)
        columns = list(dict.fromkeys(name for one in found for name in one))
        rows = [
            {"job": job["job"], **options, "status": job["status"], "run_id": job["run_id"]}
            | {name: figures.get(name) for name in columns}
            for job, options, figures in zip(
                jobs, varied_options([job["overrides"] for job in jobs], columns), found
            )
        ]
        self.store.table(self.run_id, TABLE, rows)
        done = sum(job["status"] == "FINISHED" for job in jobs)
        own = {"jobs": len(jobs), "failed": len(jobs) - done}
        self.store.record(self.run_id, own | ({} if best is None else found[best]))
        told = {} if best is None else {"quala.best": str(jobs[best]["run_id"])}
        self.store.tag(self.run_id, told)
        metric = next(
            (one for one in METRIC_NAMES if best is not None and one in found[best]), None
        )
        if metric is not None:
            keys = varied_keys([job["overrides"] for job in jobs])
            ids = [job["run_id"] for job in jobs if job["run_id"]]
            client, experiment_id = self.store.client, self.store.experiment_id
            with pages_of("the sweep"):
                show_sweep(client, experiment_id, self.run_id, ids, metric, keys)

    def _figures(self, ids: Sequence[str | None], also: Collection[str]) -> list[dict[str, float]]:
        """Return the metrics of jobs' runs but those that name a stage or a step of it."""
        own = {PARENT: self.run_id, KIND: "workflow"}
        runs = {run.info.run_id: run for run in
                self.store.find_runs([self.store.experiment_id], own)}  # fmt: skip
        found = []
        for run_id in ids:
            run = runs.get(run_id) or (self.store.get(run_id) if run_id else None)
            metrics = run.data.metrics if run else {}
            found.append({name: value for name, value in metrics.items()
                          if name in also or not {".", "/"} & set(name)})  # fmt: skip
        return found


def best_job(found: Sequence[Mapping[str, float]], directions: Mapping[str, str]) -> int | None:
    """Return the place of the best job by its metrics, None where none can be.

    It is the best in the first objective of a study, else in the score of the chosen lengths, or
    of the full length; of equals the one with fewer GMACs.
    """
    ends = ("", "_chosen", "_full")
    scores = [f"{metric}{end}" for end in ends for metric in METRIC_NAMES]
    name = next(iter(directions), None)
    name = name or next((one for one in scores if any(one in figures for figures in found)), "")
    sign = -1 if directions.get(name) == "minimize" else 1
    cost = name.replace(name.removesuffix("_chosen").removesuffix("_full"), "gmacs")
    known = [place for place, figures in enumerate(found) if name in figures]
    return max(
        known,
        key=lambda place: (sign * found[place][name], -found[place].get(cost, 0.0)),
        default=None,
    )


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


def short_name(key: str, keys: Sequence[str]) -> str:
    """Return the shortest unique end of a dotted name."""
    parts = key.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if sum(f".{other}".endswith(f".{end}") for other in keys) == 1:
            return end
    return key


ABSENT, DELETED = "-", "~"
"""What a job has where it does not set an option, and where it deletes one."""


def is_seed(name: str) -> bool:
    """Say whether an option is a seed, over which figures are averaged."""
    return name.rpartition(".")[2] == "seed"


def varied_options(
    jobs: Sequence[Sequence[str]], taken: Collection[str] = ()
) -> list[dict[str, str]]:
    """Return for each job its values of the options that not all jobs have alike, seeds last.

    Names are the shortest that tell options apart; where that is `taken`, the whole key.
    """
    found, keys = [dict(map(_option, words)) for words in jobs], varied_keys(jobs)
    names = {key: short_name(key, keys) for key in keys}
    names = {key: key if name in taken else name for key, name in names.items()}
    return [{name: one.get(key, ABSENT) for key, name in names.items()} for one in found]


def varied_keys(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return the options that not all jobs have alike, seeds last; of one job all."""
    found = [dict(map(_option, words)) for words in jobs]
    every = dict.fromkeys(key for one in found for key in one)
    keys = [key for key in every if len({one.get(key) for one in found}) > 1 or len(found) == 1]
    return sorted(keys, key=is_seed)


def _option(word: str) -> tuple[str, str]:
    key, equals, value = word.lstrip("+~").partition("=")
    return key, DELETED if word.startswith("~") or not equals else _unquoted(value)


def _unquoted(value: str) -> str:
    quote = value[:1]
    if quote in ("'", '"') and len(value) > 1 and value.endswith(quote):
        return value[1:-1].replace(f"\\{quote}", quote)
    return re.sub(r"\\(?=[\s\\()\[\]{}:=,])", "", value)


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
        mistake = isinstance(error, QualaError)
        self._write("FAILED", str(error) if mistake else f"{type(error).__name__}: {error}")
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
