"""A sweep whose jobs an Optuna study chooses, each by the metrics of the jobs before it."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from numpy.random import SeedSequence
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from optuna.samplers import BaseSampler, GridSampler, QMCSampler
from optuna.trial import Trial, TrialState

from hydra_plugins.quala_optuna_sweeper import SAMPLERS
from quala.errors import QualaError, unknown
from quala.plugins import Registry
from quala.process import Process
from quala.ranges import check_ranges, ranged
from quala.search.sampler import WORKER, abandoned
from quala.search.storage import open_storage
from quala.search.strategy import MOST
from quala.workflow.compose import check_options, typed
from quala.workflow.launch import HydraJob
from quala.workflow.plan import SETTLED, Plan, Status, make_plan
from quala.workflow.script import find_workflow
from quala.workflow.settings import build, named
from quala.workflow.sources import Sources
from quala.workflow.store import Store
from quala.workflow.sweep import Conclusion, Job, Sweep, begin, study_of
from quala.workflow.sweep_space import SearchSpace, as_word
from quala.workflow.tracking import KIND, WORKFLOW

log = logging.getLogger(__name__)

DIRECTIONS = ("minimize", "maximize")
PACKAGES = {"psycopg2": "psycopg2-binary"}
"""Packages by the module that is missing, where the names differ."""
OBJECTIVES, ERROR = "objectives", "error"
"""Attributes of a study, and of a failed trial."""
RESULTS = "optimization_results.yaml"
"""In Hydra's folder of the sweep and with its tracked run, in the plugin's form."""
SAMPLER: Registry[Any] = Registry(
    "sampler", "quala.samplers", {}, classes=True, base="optuna.samplers._base:BaseSampler"
)
SPACE: Registry[Any] = Registry("search space", "quala.search_spaces", {})


@dataclass(frozen=True)
class SweepOptions:
    """The options of `hydra.sweeper`; raises QualaError for bad ones."""

    objectives: list[str]
    direction: list[str]
    sampler: dict[str, Any]
    storage: str | None
    study_name: str | None
    params: dict[str, Any] | None
    custom_search_space: str | None
    n_trials: int = ranged(at_least=1, at_most=MOST)
    n_jobs: int = ranged(at_least=1, at_most=1024)
    max_failure_rate: float = ranged(at_least=0.0, at_most=1.0)

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> SweepOptions:
        """Return the checked options of a configuration."""
        plain: Any = OmegaConf.to_container(OmegaConf.create(dict(options)), resolve=True)
        for name in ("objectives", "direction"):
            value = plain[name] if plain[name] is not None else []
            plain[name] = [str(one) for one in (value if isinstance(value, list) else [value])]
        made: SweepOptions = build(cls, plain, "hydra.sweeper")
        return made

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.objectives:
            raise QualaError("`objectives` must name a metric of the runs, or several.")
        if len(self.direction) != len(self.objectives):
            raise QualaError(
                "`direction` must be minimize or maximize for each objective, got "
                f"{len(self.direction)} for {len(self.objectives)}."
            )
        for one in self.direction:
            if one not in DIRECTIONS:
                raise unknown("value of `direction`", one, DIRECTIONS)

    def make_sampler(self, number: int, space: SearchSpace) -> BaseSampler:
        """Return the sampler for the trials from `number` on.

        It is made anew with a seed of its own for each batch, so that a sweep that was interrupted
        asks for the same trials as one that was not. Raises QualaError for unknown arguments.
        """
        given = {name: value for name, value in self.sampler.items() if value is not None}
        target = str(given.pop("_target_", ""))
        given.pop("_partial_", None)
        kind: Any = SAMPLER.find(target)
        known = inspect.signature(kind).parameters
        for name in [name for name in given if name not in known]:
            # Only `_target_` was set: what is left of the default sampler is not meant.
            if SAMPLERS["TPE"].get(name) != given.pop(name):
                raise unknown(f"argument of {target}", name, known)
        if issubclass(kind, GridSampler):
            given["search_space"] = space.grid()
        elif "seed" in given and not issubclass(kind, QMCSampler):
            given["seed"] = int(SeedSequence([given["seed"], number]).generate_state(1)[0])
        with _explained(f"The sampler {target} cannot be made"):
            nested = {name: one for name, one in given.items() if isinstance(one, dict)}
            given.update({name: instantiate(one) for name, one in nested.items()})
            sampler: BaseSampler = kind(**given)
        return sampler

    def try_sampler(self, space: SearchSpace) -> str:
        """Return the name of the sampler. Raises QualaError if it cannot choose a trial."""
        sampler = self.make_sampler(0, space)
        name = type(sampler).__name__
        if not isinstance(sampler, GridSampler):
            directions: Any = self.direction
            trial = optuna.create_study(directions=directions, sampler=sampler)
            with _explained(f"{name} cannot choose values for this sweep"):
                for _ in range(3):
                    trial.tell(trial.ask(dict(space.varied)), [0.0] * len(directions))
        return name


@contextmanager
def _explained(sentence: str) -> Iterator[None]:
    """Raise QualaError with the sentence and the reason when Optuna, or what it needs, fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except QualaError:
        raise
    except Exception as error:  # also of a database's driver
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        for one in (error, error.__cause__):  # of a sampler, of a driver
            if isinstance(one, ModuleNotFoundError) and one.name:
                package = PACKAGES.get(one.name, one.name)
                reason = f"it needs a package that is not installed: `pip install {package}`"
        raise QualaError(f"{sentence}: {reason}") from error


def open_study(options: SweepOptions, name: str, folder: Path) -> optuna.Study:
    """Open the study of a sweep, or create it; its journal is in `folder` by default.

    Raises QualaError for a storage that cannot be used, and for a study of other objectives.
    """
    place = options.storage or str(folder / "sweeps" / f"{name}.journal")
    unusable = f"The storage of the study `{name}` cannot be used"
    with named(options, "hydra.sweeper", always=False), _explained(unusable):
        study = optuna.create_study(
            storage=open_storage(place),
            study_name=name,
            directions=options.direction,  # type: ignore[arg-type]
            load_if_exists=True,
        )
    asked = [options.objectives, options.direction]
    directions = [one.name.lower() for one in study.directions]
    if OBJECTIVES not in study.user_attrs and directions == options.direction:
        with _explained(f"The study `{name}` cannot be written"):
            study.set_user_attr(OBJECTIVES, asked)
            study.set_metric_names(options.objectives)
    found = study.user_attrs.get(OBJECTIVES, directions)
    if found != asked:
        raise QualaError(
            f"The study `{name}` is of other objectives, {found}, than {asked}: choose another "
            "`hydra.sweeper.study_name`."
        )
    return study


def check_objectives(objectives: Sequence[str], plan: Plan, store: Store) -> None:
    """Raise QualaError for an objective that no run of this plan can have.

    What a stage declares is known, and what the newest finished run has. Another metric of a stage
    that runs may exist, which the first job shows.
    """
    running = {
        entry.name: entry.node.stage
        for entry in plan.entries.values()
        if entry.node is not None and entry.status not in SETTLED - {Status.CACHED}
    }
    declared = {(name, key) for name, stage in running.items() for key in stage.headline}
    known = {key for _, key in declared} | {f"{name}.{key}" for name, key in declared}
    finished = store.find({KIND: "workflow", WORKFLOW: plan.workflow}, "FINISHED")
    for run in finished[:1]:
        known |= {key for key in run.data.metrics if _stage_of(key) in {"", *running}}
    for name in objectives:
        if name not in known and _stage_of(name) not in running:
            raise unknown("objective", name, known or [f"{one}.METRIC" for one in running])
        if name not in known:
            log.warning("No run has a metric `%s` yet: the first job will show it.", name)


def _stage_of(metric: str) -> str:
    return metric.partition(".")[0] if "." in metric else ""


@dataclass
class StudySweep:
    """Asks for trials, launches them as jobs, and tells the study what came out."""

    study: optuna.Study
    options: SweepOptions
    space: SearchSpace
    launcher: Launcher
    sweep: Sweep
    config: DictConfig

    def run(self) -> bool:
        """Go on until the study has its trials, or too many of a batch fail; say which."""
        while batch := self._ask():
            failed, rate = self._launch(batch), self.options.max_failure_rate
            if failed / len(batch) > rate:
                log.error(
                    f"{failed} of {len(batch)} trials failed, `hydra.sweeper.max_failure_rate` is "
                    f"{rate}: the sweep stops here, and the same command goes on."
                )
                return False
        return True

    def _ask(self) -> list[Trial]:
        """Return the trials that an interrupted command left, else new ones."""
        trials = self.study.get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        sampler = self.study.sampler = self.options.make_sampler(len(trials), self.space)
        left = [trial for trial in running if abandoned(trial)][: self.options.n_jobs]
        if left:
            return [self._chosen(Trial(self.study, one._trial_id)) for one in left]
        target = self.options.n_trials
        if isinstance(sampler, GridSampler):
            target = min(target, math.prod(len(values) for values in self.space.grid().values()))
        missing = target - sum(trial.state != TrialState.WAITING for trial in trials)
        count = min(self.options.n_jobs, missing)
        return [self._chosen(self.study.ask()) for _ in range(count)]

    def _chosen(self, trial: Trial) -> Trial:
        """Return a trial with all its values; those that it has already stay."""
        trial.set_user_attr(WORKER, list(astuple(Process.this())))
        with _explained(f"The study `{self.study.study_name}` cannot choose a trial"):
            for name, distribution in self.space.varied.items():
                trial._suggest(name, distribution)
        if self.options.custom_search_space is not None:
            for name, override in self.space.fixed.items():
                if not override.is_delete():
                    trial.set_user_attr(name, override.get_value_element_as_str())
            SPACE.find(self.options.custom_search_space)(self.config, trial)
            if both := sorted(trial.params.keys() & self.space.fixed.keys()):
                raise QualaError(f"`{both[0]}` is suggested by the search space, and given too.")
        return trial

    def _launch(self, batch: Sequence[Trial]) -> int:
        """Run a job for each trial, of the same number; return how many failed."""
        broken, returned = "", dict[int, JobReturn]()
        for group in _consecutive(batch):
            words = [self.space.overrides(trial.params) for trial in group]
            try:
                done = self.launcher.launch(words, initial_job_idx=group[0].number)
                returned.update(zip((trial.number for trial in group), done, strict=True))
            except BrokenExecutor as died:  # a worker was killed, and took the others with it
                broken = f"a process of the launcher ended: {str(died).partition('. ')[0]}"
        jobs, failed = {job["job"]: job for job in self.sweep.jobs()}, 0
        for trial in batch:
            job, told = jobs.get(trial.number), returned.get(trial.number)
            if job is not None and job["status"] == "FINISHED":
                failed += not self._tell_metrics(trial, job["run_id"])
                continue
            failed += 1
            reason = (job and job["error"]) or broken or (told and told._return_value)
            reason = str(reason or "it did not start")
            self._tell(trial, None, reason)
            if job is None or job["status"] == "RUNNING":
                with Job(self.sweep, trial.number, self.space.overrides(trial.params)):
                    raise QualaError(reason)
        return failed

    def _tell_metrics(self, trial: Trial, run_id: str) -> bool:
        """Tell the study the objectives of a finished run; say whether it has them.

        Raises QualaError for an objective that no run had so far.
        """
        metrics = self.sweep.store.client.get_run(run_id).data.metrics
        values = {name: metrics.get(name, metrics.get(name.replace("/", "."), math.nan))
                 for name in self.options.objectives}  # fmt: skip
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            log.info("Trial %d: %s", trial.number, _named(values, values.values()))
            self._tell(trial, list(values.values()))
            return True
        if bad[0] not in metrics and not self.study.get_trials(states=[TrialState.COMPLETE]):
            self._tell(trial, None, f"no metric {bad[0]}")
            raise unknown("objective", bad[0], metrics)
        reason = f"run {run_id} has no finite `{bad[0]}`"
        log.warning("Trial %d failed: %s", trial.number, reason)
        self._tell(trial, None, reason)
        return False

    def _tell(self, trial: Trial, values: list[float] | None, error: str = "") -> None:
        if error:
            trial.set_user_attr(ERROR, error)
        state = TrialState.COMPLETE if values else TrialState.FAIL
        try:
            self.study.tell(trial.number, values, state, skip_if_finished=True)
        except RuntimeError:
            # At its end a grid stops `Study.optimize`, which is not running here.
            if not isinstance(self.study.sampler, GridSampler):
                raise

    def conclude(self, *, whole: bool) -> Conclusion:
        """Say which trials are the best, all Pareto-optimal ones, and write them down.

        Failures are tolerated where the sweep is `whole` and some trial is finished.
        """
        if not self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
            log.warning("No trial of the study `%s` is finished.", self.study.study_name)
            return Conclusion([], tolerated=False)
        best = self.study.best_trials
        found: dict[str, Any] = {"name": "optuna"}
        if len(self.options.objectives) > 1:
            found["solutions"] = [{"params": one.params, "values": one.values} for one in best]
        else:
            best = [self.study.best_trial]
            found |= {"best_params": best[0].params, "best_value": best[0].value}
        for trial in best:
            words = " ".join(as_word(name, value) for name, value in trial.params.items())
            told = _named(self.options.objectives, trial.values)
            log.info("Best: trial %d, %s, %s", trial.number, told, words)
        text = OmegaConf.to_yaml(OmegaConf.create(found))
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULTS).write_text(text, encoding="utf-8")
        self.sweep.store.attach(self.sweep.run_id, {RESULTS: text})
        jobs = self.sweep.jobs()
        runs = {job["job"]: job["run_id"] for job in jobs}
        records = [
            {
                "trial": trial.number,
                "values": dict(zip(self.options.objectives, trial.values, strict=True)),
                "params": trial.params,
                "run_id": runs.get(trial.number),
            }
            for trial in best
        ]
        return Conclusion(records, tolerated=whole and self._tolerates(len(jobs)))

    def _tolerates(self, count: int) -> bool:
        failed = len(self.study.get_trials(deepcopy=False, states=[TrialState.FAIL]))
        rate = self.options.max_failure_rate
        if failed and failed <= rate * count:
            log.warning(
                f"{failed} of {count} trials failed, within `hydra.sweeper.max_failure_rate` "
                f"{rate}: the exit code is 0."
            )
        return failed <= rate * count


def _named(names: Iterable[str], values: Iterable[float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in zip(names, values, strict=True))


def _consecutive(batch: Sequence[Trial]) -> list[list[Trial]]:
    """Split trials where their numbers do: a launcher numbers its jobs one after another."""
    groups: list[list[Trial]] = []
    for trial in batch:
        if not groups or trial.number != groups[-1][-1].number + 1:
            groups.append([])
        groups[-1].append(trial)
    return groups


def run_sweep(
    options: Mapping[str, Any],
    arguments: Sequence[str],
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
) -> None:
    """Run a sweep to its end, or go on with it; `arguments` are the overrides that were typed.

    Raises QualaError before any job for what is wrong.
    """
    checked = SweepOptions.read(options)
    space = SearchSpace.parse(
        [*(as_word(*one) for one in (checked.params or {}).items()), *arguments]
    )
    if not space.varied and checked.custom_search_space is None:
        raise QualaError(
            "Nothing varies in this sweep: `hydra.sweeper.params` or the command must give an "
            "option several values, such as `seed=range(0,9)`."
        )
    if checked.custom_search_space is not None:
        SPACE.find(checked.custom_search_space)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler, study_name = checked.try_sampler(space), study_of(config)
    if not isinstance(task, HydraJob) or study_name is None:
        raise QualaError("`hydra/sweeper=optuna` is for workflows of quala.")
    task = replace(task, varied=[*task.varied, *(f"{name}=" for name in space.varied)])
    _check(checked, space, context, task, config)
    study = open_study(checked, study_name, Path(config.tracking.folder))
    launcher = Plugins.instance().instantiate_launcher(
        config=config, hydra_context=context, task_function=task
    )
    sweep = begin(config, space.varied)
    aims = map(" ".join, zip(checked.direction, checked.objectives, strict=True))
    log.info(
        f"Study {study_name}, {sampler}: {', '.join(aims)}; {len(study.trials)} of "
        f"{checked.n_trials} trials exist."
    )
    told = StudySweep(study, checked, space, launcher, sweep, config)
    whole = told.run()
    Sweep.conclusions[sweep.run_id] = told.conclude(whole=whole)


def _check(
    options: SweepOptions,
    space: SearchSpace,
    context: HydraContext,
    task: HydraJob,
    config: DictConfig,
) -> None:
    """Compose and check the configurations at the edges of the space, and plan the first."""
    workflow, planned = find_workflow(task.workflow), False
    for values in space.edges():
        words = space.overrides(values)
        composed = context.config_loader.load_sweep_config(config, words)
        with read_write(composed), open_dict(composed):
            del composed["hydra"]
        settings = typed(composed, workflow)
        if not planned:
            check_options(composed, words, task.varied)
            store, planned = Store.open(settings.tracking), True
            plan = make_plan(workflow, settings, store, Sources(store))
            check_objectives(options.objectives, plan, store)
