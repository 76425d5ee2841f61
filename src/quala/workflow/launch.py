"""The command line of a workflow: run it, sweep over it, plan it, print its configuration."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from quala.durable import disk_trouble
from quala.errors import QualaError, ended, noted, one_line, unknown
from quala.redact import cell, console, guard_logs, json_text, recorded, redacted, shown
from quala.results import REPORT, read_report
from quala.workflow.compose import (
    VERSION_BASE,
    check_options,
    composed,
    one_sentence,
    own_values,
    register,
    sample_jobs,
    swept,
    typed,
    with_experiment,
)
from quala.workflow.execute import Invocation, Result, run_workflow
from quala.workflow.groups import Where, where_of
from quala.workflow.options import HELP, explained
from quala.workflow.plan import Plan, check_plan, make_plan
from quala.workflow.script import WorkflowSpec, find_workflow
from quala.workflow.server import SERVER, site_of, store_words
from quala.workflow.sources import Sources
from quala.workflow.store import Store
from quala.workflow.sweep import Job, Sweep, SweepParent, first_job, varied
from quala.workflow.views import page_of

COLORS = {
    "cached": "green",
    "given": "green",
    "done": "cyan",
    "resumed": "cyan",
    "to run": "cyan",
    "stale": "yellow",
    "resume": "yellow",
    "running": "yellow",
    "damaged": "red",
    "FAILED": "red",
    "FINISHED": "green",
}


def show_plan(plan: Plan, console: Console) -> None:
    """Print the stages in order, each with its status and the reason."""
    table = Table("stage", "status", "why", title=f"Plan of {plan.workflow}", title_justify="left")
    for entry in plan.entries.values():
        table.add_row(cell(entry.name), _colored(entry.status.value), cell(entry.reason))
    console.print(table, *(cell(f"Note: {note}") for note in plan.notes), sep="\n")


def show_result(result: Result, console: Console) -> None:
    """Print the status and the output of each stage, and where the run is stored."""
    table = Table("stage", "status", "time", "output", box=None)
    for outcome in result.outcomes:
        place = _short(outcome.folder) if outcome.folder else ""
        seconds = duration(outcome.seconds)
        table.add_row(cell(outcome.name), _colored(outcome.status), seconds, cell(place))
    state = "was finished before" if result.reused else f"took {duration(result.seconds)}"
    folders = [outcome.folder for outcome in result.outcomes if outcome.folder is not None]
    words = store_words(result.store.uri)
    report = f"Report    quala report {result.run_id}{words}\n"
    where = cell(
        f"Run       {result.run_id} ({state})\n"
        f"Store     {result.store.uri} (experiment {result.store.experiment})\n"
        f"{f'Page      {result.page}{chr(10)}' if result.page else ''}"
        f"{report if any((one / REPORT).is_file() for one in folders) else ''}"
        f"Compare   quala ui{words}"
    )
    where.overflow = "fold"
    for folder in folders:
        _show_front(folder, console)
    console.print(Panel(Group(table, "", where), title=cell(result.workflow), expand=False))


def _show_front(folder: Path, console: Console) -> None:
    """Print the table of a report, and where its figure and page are."""
    from quala.report.table import terminal_table

    if (folder / REPORT).is_file():
        report = read_report(folder)
        console.print(terminal_table(report.rows, title=report.title))
        for name in ("front.png", "report.html"):
            console.print(cell(_short(folder / name)))


LOST = "Its process ended before the job did."
"""The reason of a job that left no error."""


def show_sweep(sweep: Sweep, jobs: Sequence[dict[str, Any]], console: Console) -> None:
    """Print one line for each job of a sweep, then the error of each that failed.

    A job with `alone`, the command that runs it by itself, has failed.
    """
    if not jobs:
        return
    table = Table("job", "overrides", "status", "run", title="Sweep", title_justify="left")
    for job, words in zip(jobs, varied([job["overrides"] for job in jobs]), strict=True):
        table.add_row(str(job["job"]), cell(words), _colored(job["status"]), job["run_id"] or "")
    console.print(table)
    for job, words in zip(jobs, varied([job["overrides"] for job in jobs]), strict=True):
        if "alone" in job:
            reason = ended(one_line(job["error"] or LOST))
            line = f"Job {job['job']} (`{words}`) failed: {reason} Alone: "
            console.print(cell(f"{line}`{job['alone']}`", "red"), soft_wrap=True)
    uri = sweep.store.uri
    if uri.startswith(SERVER):
        page = page_of(sweep.store.client, site_of(uri), sweep.run_id)
        console.print(cell(f"Page      {page}"), soft_wrap=True)
    console.print(cell(f"Compare   quala report {sweep.run_id}{store_words(uri)}"), soft_wrap=True)


def duration(seconds: float) -> str:
    """Return a duration as text, such as `3 min 05 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _colored(status: str) -> Text:
    return Text(status, style=COLORS.get(status, ""))


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


JSON = "--json"
FLAGS = (
    JSON, "--help", "--multirun", "--cfg", "--package", "--resolve", "--info", "--config-dir",
    "--config-name", "--config-path", "--experimental-rerun", "--hydra-help", "--run",
    "--shell-completion", "--version",
)  # fmt: skip
"""Long options of `quala run`; all but the first are Hydra's."""
WIDTH = 140
FULL_ERROR = "HYDRA_FULL_ERROR"
NOT_STARTED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ImportError,
    AttributeError,
    RuntimeError,
    AssertionError,
)
"""What Hydra raises for options of its own."""
SWEEPS = {"-m", "--multirun"}
HYDRA_VALUE = "${hydra:"
"""Of a value that is known only while Hydra runs."""
Tell = Callable[[Result], None] | None  # takes the result of a run in place of the usual output


@dataclass(frozen=True)
class HydraJob:
    """What Hydra calls with each composed configuration, in this process or in a worker's."""

    workflow: str
    """The place of the workflow, for a workflow itself cannot be sent to another process."""
    as_json: bool
    varied: Sequence[str] = ()
    """The overrides of a sweep that have several values."""
    mistakes: list[Exception] = field(default_factory=list)
    """Errors kept from Hydra, which would print the overrides as they are, secrets included."""
    begun: list[int] = field(default_factory=list)
    """Numbers of the jobs that Hydra has called."""
    alone: Sequence[str] = ()
    """The words with which a command begins that runs one job by itself."""
    tell: Tell = None

    def __call__(self, config: DictConfig) -> None:
        """Run the workflow once, and close the file of its log."""
        try:
            self._run(config)
        finally:
            _close_logs()

    def _run(self, config: DictConfig) -> None:
        self.begun.append(len(self.begun))
        guard_logs()  # of a worker's process
        workflow = find_workflow(self.workflow)
        context = HydraConfig.get()
        _without_secrets(context)
        overrides = list(context.overrides.task)
        if context.mode is not RunMode.MULTIRUN:
            try:
                self._alone(workflow, config, overrides)
            except Exception as error:  # raised again by `run`
                self.mistakes.append(error)
            return
        sweep = Sweep.current()
        if sweep is None and SweepParent._failed:
            return
        if sweep is None:
            raise QualaError("A sweep needs `hydra.callbacks.sweep` of conf/config.yaml.")
        with Job(sweep, context.job.num, overrides) as job, one_sentence(workflow):
            notes = check_options(config, overrides, self.varied)
            invocation = _invocation(
                workflow, config, overrides, self.as_json, notes, sweep=sweep.run_id
            )
            keys = {word.partition("=")[0] for word in self.varied}
            varied = [one for one in overrides if one.partition("=")[0] in keys]
            invocation = replace(invocation, varied=recorded(varied))
            job.run_id = run_workflow(workflow, invocation).run_id

    def _alone(self, workflow: WorkflowSpec, config: DictConfig, overrides: list[str]) -> None:
        with one_sentence(workflow):
            notes = check_options(config, overrides)
            invocation = _invocation(workflow, config, overrides, self.as_json, notes)
        result = run_workflow(workflow, invocation)
        if self.tell is not None:
            self.tell(result)
        elif self.as_json:
            sys.stdout.write(json_text(result.to_json()) + "\n")
        else:
            show_result(result, _console())


def run(workflow: WorkflowSpec, arguments: Sequence[str], tell: Tell = None) -> int:
    """Run a workflow or a sweep, with Hydra's command line, and return the exit code."""
    words = [word for word in arguments if word != JSON]
    if set(HELP) & set(words):
        sys.stdout.write(explained(workflow, words))
        return 0
    where, words = where_of(words)
    words.sort(key=lambda word: word not in SWEEPS)  # argparse takes no flag between overrides
    if _print_config(workflow, words, where):
        return 0
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    if "--hydra-help" in flags:  # is of no configuration
        words = ["--hydra-help"]
    else:
        with one_sentence(workflow):
            words = with_experiment(workflow, words, where)
    with one_sentence(workflow):
        varied = swept(words)
    if flags <= SWEEPS and not any(HYDRA_VALUE in word for word in words):
        sweeping = bool(flags) or "hydra.mode=MULTIRUN" in words
        _check_before(workflow, [word for word in words if word not in SWEEPS], where, sweeping)
    register(workflow)
    guard_logs()
    own = [*where.words, *(word for word in words if "hydra.searchpath=" in word)]
    alone = ["quala", "run", workflow.called, *own]
    job = HydraJob(workflow.place, JSON in arguments, varied, alone=alone, tell=tell)
    command = hydra.main(
        version_base=VERSION_BASE,
        config_path=str(workflow.conf.absolute()),
        config_name=where.name,
    )
    if where.folder:
        words = ["--config-dir", where.folder, *words]
    try:
        with _command_line(workflow.name, words), one_sentence(workflow):
            if flags & {"-c", "--cfg", "-i", "--info"}:
                with redirect_stdout(StringIO()) as printed:
                    command(job)()
                sys.stdout.write(redacted(printed.getvalue()))
            else:
                command(job)()
        if mistakes := [*SweepParent._failed, *job.mistakes]:
            SweepParent._failed.clear()
            with one_sentence(workflow):
                raise mistakes[0]
    except BaseException as error:
        if sweep := Sweep.current():
            failed = isinstance(error, Exception)
            sweep.close("FAILED" if failed else "KILLED")
            jobs = _with_commands(sweep.jobs(), job, lost=failed)
            noted(error, sweep=sweep.run_id, jobs=jobs)
            if not job.as_json:
                show_sweep(sweep, jobs, _console())
        begun = job.begun or (sweep and sweep.jobs())
        if isinstance(error, NOT_STARTED) and not begun and disk_trouble(error) is None:
            raise QualaError(
                f"Hydra cannot start with these words: {type(error).__name__} {error}"
            ) from error
        raise
    sweep = Sweep.current()
    return 1 if sweep and _close(sweep, job) else 0


def _check_before(
    workflow: WorkflowSpec, words: Sequence[str], where: Where, sweeping: bool
) -> None:
    """Raise QualaError for what is wrong whatever the store holds, in each job of a sweep.

    Of a sweep so many jobs are looked at that each value is in one of them, and no more after one
    that is right, or wrong for another reason.
    """
    told: QualaError | None = None
    varied = swept(words)
    for job in sample_jobs(words) if sweeping else [list(words)]:
        try:
            with one_sentence(workflow):
                config = composed(workflow, job, where, whole=True)
                with open_dict(config):
                    hydra_part = config.pop("hydra")
                if sweeping and hydra_part.sweeper.get("params"):
                    return  # these are no words of the command line
                check_options(config, job, varied)
                check_plan(workflow, typed(config, workflow))
            return
        except QualaError as error:
            if told is not None and str(told) != str(error):
                return
            told = error
    if told is not None:
        raise told


def _with_commands(
    jobs: list[dict[str, Any]], job: HydraJob, *, lost: bool = True
) -> list[dict[str, Any]]:
    """Return the records of jobs, those of failed jobs with the command that runs them `alone`.

    `lost` says whether a job that did not end has failed, too; else the sweep was interrupted.
    """
    failed = {"FAILED", "KILLED"} if lost else {"FAILED"}
    return [
        one | {"alone": shlex.join([*map(shown, job.alone), *one["overrides"]])}
        if one["status"] in failed
        else one
        for one in jobs
    ]


def _print_config(workflow: WorkflowSpec, words: Sequence[str], where: Where) -> bool:
    """Print what `--cfg job` asks for and say whether it was asked for.

    Hydra would print the options of all stages, also of those that the workflow does not have.
    """
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in FLAGS:
            raise unknown("option", flag, FLAGS)
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--package", "-p")
    parser.add_argument("--resolve", action="store_true")
    try:
        asked, overrides = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise QualaError(f"{error}.") from error
    if asked.cfg != "job":
        return False
    absent = object()
    with one_sentence(workflow):
        config = composed(workflow, overrides, where)
        values: Any = OmegaConf.create(
            recorded(own_values(config, workflow, resolve=asked.resolve))
        )
        if asked.package not in (None, "_global_"):
            values = OmegaConf.select(values, asked.package, default=absent)
    if values is absent:
        raise QualaError(f"There is no configuration key `{asked.package}`.")
    text = OmegaConf.to_yaml(values) if OmegaConf.is_config(values) else f"{values}\n"
    sys.stdout.write(text)
    return True


def _close_logs() -> None:
    """Close the log files that Hydra opened for a job.

    The next configuration of `logging` takes the handlers away but leaves a file open that wrote
    a line after another library had configured `logging` as well.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()


def _console() -> Console:
    # A file or a pipe has no width, and 80 columns would fold every table.
    return console(None if sys.stdout.isatty() else WIDTH)


def _close(sweep: Sweep, job: HydraJob) -> int:
    failed = len([one for one in sweep.jobs() if one["status"] != "FINISHED"])
    study = sweep.conclusions.get(sweep.run_id)
    if study and study.tolerated:
        failed = 0
    sweep.close("FAILED" if failed else "FINISHED")
    jobs = _with_commands(sweep.jobs(), job)
    told = {"sweep": sweep.run_id, "jobs": jobs} | ({"best": study.best} if study else {})
    if job.as_json:
        sys.stdout.write(json_text(told) + "\n")
    else:
        show_sweep(sweep, jobs, _console())
    return failed


def plan(workflow: WorkflowSpec, arguments: Sequence[str]) -> int:
    """Show what `run` would do with the same arguments; return the exit code."""
    words = [word for word in arguments if word != JSON]
    if set(HELP) & set(words):
        sys.stdout.write(explained(workflow, words))
        return 0
    where, words = where_of(words)
    sweeping = [word for word in words if word in ("-m", "--multirun")]
    words = [word for word in words if word not in sweeping]
    for word in words:
        if word.startswith("-"):
            taken = "overrides, -m, --config-dir, --config-name and --json"
            raise QualaError(f"`quala plan` takes {taken}, got `{word}`.")
    with one_sentence(workflow):
        words = with_experiment(workflow, words, where)
        if sweeping:
            several = swept(words)
            whole = composed(
                workflow, [one for one in words if one not in several], where, whole=True
            )
            params = whole.hydra.sweeper.get("params") or {}
            words = [*(f"{key}={value}" for key, value in params.items()), *words]
        words, first = first_job(words) if sweeping else (words, [])
        config = composed(workflow, words, where)
        settings, notes = typed(config, workflow), [*first, *check_options(config, words)]
        check_plan(workflow, settings)
    store = Store.open(settings.tracking)
    made = make_plan(workflow, settings, store, Sources(store), notes)
    if JSON in arguments:
        sys.stdout.write(json_text(made.to_json()) + "\n")
    else:
        show_plan(made, _console())
    return 0


def _without_secrets(context: HydraConf) -> None:
    """Take the secrets out of the files that Hydra writes before a job starts."""
    job = Path(context.runtime.output_dir, context.output_subdir or "")
    for file in (*job.glob("*.yaml"), Path(context.sweep.dir, "multirun.yaml")):
        if file.is_file():
            content = OmegaConf.to_container(OmegaConf.load(file))
            if (clean := recorded(content)) != content:
                file.write_text(OmegaConf.to_yaml(OmegaConf.create(clean)), encoding="utf-8")


def _invocation(
    workflow: WorkflowSpec,
    config: DictConfig,
    overrides: list[str],
    as_json: bool,
    notes: Sequence[str],
    *,
    sweep: str | None = None,
) -> Invocation:
    settings = typed(config, workflow)
    interactive = sys.stderr.isatty() and not as_json and sweep is None and "CI" not in os.environ
    return Invocation(
        settings=settings,
        config=OmegaConf.to_yaml(OmegaConf.create(recorded(own_values(config, workflow)))),
        overrides=recorded(overrides),
        notes=notes,
        sweep=sweep,
        bars=settings.progress and interactive,
    )


@contextmanager
def _command_line(name: str, words: Sequence[str]) -> Iterator[None]:
    # Hydra reads sys.argv. With this variable it raises errors instead of exiting.
    before, sys.argv = sys.argv, [f"quala run {name}", *words]
    mine = FULL_ERROR not in os.environ
    os.environ.setdefault(FULL_ERROR, "1")
    try:
        yield
    finally:
        sys.argv = before
        if mine:
            del os.environ[FULL_ERROR]
