"""The command line of a workflow: run it, sweep over it, plan it, print its configuration."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from quala.durable import disk_trouble
from quala.errors import QualaError, noted, unknown
from quala.redact import cell, console, guard_logs, json_text, recorded, redacted
from quala.results import REPORT, read_report
from quala.workflow.compose import (
    CONFIG,
    VERSION_BASE,
    check_options,
    composed,
    one_sentence,
    own_values,
    register,
    swept,
    typed,
    with_experiment,
)
from quala.workflow.execute import Invocation, Result, run_workflow
from quala.workflow.plan import Plan, check_plan, make_plan
from quala.workflow.script import WorkflowSpec, choices, find_workflow
from quala.workflow.sources import Sources
from quala.workflow.store import Store
from quala.workflow.sweep import Job, Sweep, SweepParent, first_job, varied

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
    report = f"Report    quala report {result.run_id}\n"
    where = cell(
        f"Run       {result.run_id} ({state})\n"
        f"Store     {result.store.uri} (experiment {result.store.experiment})\n"
        f"{report if any((one / REPORT).is_file() for one in folders) else ''}"
        f"Compare   quala ui"
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


def show_sweep(sweep: str, jobs: Sequence[dict[str, Any]], console: Console) -> None:
    """Print one line for each job of a sweep, then the errors of those that failed."""
    if not jobs:
        return
    table = Table("job", "overrides", "status", "run", title="Sweep", title_justify="left")
    for job, words in zip(jobs, varied([job["overrides"] for job in jobs]), strict=True):
        table.add_row(str(job["job"]), cell(words), _colored(job["status"]), job["run_id"] or "")
    console.print(table)
    for job in jobs:
        if job["error"]:
            console.print(cell(f"Job {job['job']} failed: {job['error']}", "red"))
    console.print(cell(f"Compare   quala report {sweep}"))


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
HYDRA_VALUE = "${hydra:"
"""Of a value that is known only while Hydra runs."""


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

    def __call__(self, config: DictConfig) -> None:
        """Run the workflow once."""
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
            job.run_id = run_workflow(workflow, invocation).run_id

    def _alone(self, workflow: WorkflowSpec, config: DictConfig, overrides: list[str]) -> None:
        with one_sentence(workflow):
            notes = check_options(config, overrides)
            invocation = _invocation(workflow, config, overrides, self.as_json, notes)
        result = run_workflow(workflow, invocation)
        if self.as_json:
            sys.stdout.write(json_text(result.to_json()) + "\n")
        else:
            show_result(result, _console())


def run(workflow: WorkflowSpec, arguments: Sequence[str]) -> int:
    """Run a workflow, or a sweep over it, with Hydra's command line; return the exit code."""
    words = [word for word in arguments if word != JSON]
    if "-h" in words or "--help" in words:
        sys.stdout.write(workflow_help(workflow))
        return 0
    if _print_config(workflow, words):
        return 0
    with one_sentence(workflow):
        words = with_experiment(workflow, words)
        varied = swept(words)
        if not any(word.startswith("-") or HYDRA_VALUE in word for word in words):
            config = composed(workflow, words)
            check_options(config, words)
            check_plan(workflow, typed(config, workflow))
    register(workflow)
    guard_logs()
    job = HydraJob(workflow.place, as_json=JSON in arguments, varied=varied)
    command = hydra.main(
        version_base=VERSION_BASE, config_path=str(workflow.conf.absolute()), config_name=CONFIG
    )
    try:
        with _command_line(workflow.name, words), one_sentence(workflow):
            if {word.partition("=")[0] for word in words} & {"-c", "--cfg", "-i", "--info"}:
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
            sweep.close("FAILED" if isinstance(error, Exception) else "KILLED")
            noted(error, sweep=sweep.run_id, jobs=sweep.jobs())
            if not job.as_json:
                show_sweep(sweep.run_id, sweep.jobs(), _console())
        begun = job.begun or (sweep and sweep.jobs())
        if isinstance(error, NOT_STARTED) and not begun and disk_trouble(error) is None:
            raise QualaError(
                f"Hydra cannot start with these words: {type(error).__name__} {error}"
            ) from error
        raise
    sweep = Sweep.current()
    return 1 if sweep and _close(sweep, job.as_json) else 0


def _print_config(workflow: WorkflowSpec, words: Sequence[str]) -> bool:
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
        config = composed(workflow, overrides)
        shown: Any = OmegaConf.create(
            recorded(own_values(config, workflow, resolve=asked.resolve))
        )
        if asked.package not in (None, "_global_"):
            shown = OmegaConf.select(shown, asked.package, default=absent)
    if shown is absent:
        raise QualaError(f"There is no configuration key `{asked.package}`.")
    text = OmegaConf.to_yaml(shown) if OmegaConf.is_config(shown) else f"{shown}\n"
    sys.stdout.write(text)
    return True


def workflow_help(workflow: WorkflowSpec) -> str:
    """Return what a workflow does, its stages, its experiments and the presets of its stages."""
    summaries = [(stage.name, stage.summary) for stage in workflow.stages.values()]
    groups = ["data", "model", "tracking", *(f"stage/{name}" for name in workflow.stages)]
    presets = [(f"{group}=", ", ".join(choices(workflow.conf / group))) for group in groups]
    experiments = workflow.experiments or choices(workflow.conf / "experiment")
    parts = {
        "stages": _columns(summaries),
        "experiments": "".join(f"  experiment={name}\n" for name in experiments),
        "presets": _columns([(group, names) for group, names in presets if names]),
    }
    listed = "\n".join(f"{title}:\n{text}" for title, text in parts.items() if text)
    return (
        f"usage: quala run {workflow.name} [overrides] [-m] [--json]\n\n"
        f"{workflow.summary}\n\n{listed}\n"
        f"An option is changed by `stage.NAME.OPTION=VALUE`. `quala run {workflow.name} --cfg job`"
        "\nprints all options with their values, `quala run --help` explains overrides.\n"
    )


def _columns(rows: Sequence[tuple[str, str]]) -> str:
    width = max((len(left) for left, _ in rows), default=0)
    return "".join(f"  {left:<{width}}  {right}\n" for left, right in rows)


def _console() -> Console:
    # A file or a pipe has no width, and 80 columns would fold every table.
    return console(None if sys.stdout.isatty() else WIDTH)


def _close(sweep: Sweep, as_json: bool) -> int:
    jobs = sweep.jobs()
    failed = len([job for job in jobs if job["status"] != "FINISHED"])
    study = sweep.conclusions.get(sweep.run_id)
    if study and study.tolerated:
        failed = 0
    sweep.close("FAILED" if failed else "FINISHED")
    told = {"sweep": sweep.run_id, "jobs": jobs} | ({"best": study.best} if study else {})
    if as_json:
        sys.stdout.write(json_text(told) + "\n")
    else:
        show_sweep(sweep.run_id, jobs, _console())
    return failed


def plan(workflow: WorkflowSpec, arguments: Sequence[str]) -> int:
    """Show what `run` would do with the same arguments; return the exit code."""
    words = [word for word in arguments if word != JSON]
    if "-h" in words or "--help" in words:
        sys.stdout.write(workflow_help(workflow))
        return 0
    sweeping = [word for word in words if word in ("-m", "--multirun")]
    words = [word for word in words if word not in sweeping]
    for word in words:
        if word.startswith("-"):
            raise QualaError(f"`quala plan` takes overrides, -m and --json, got `{word}`.")
    with one_sentence(workflow):
        words, first = first_job(words) if sweeping else (words, [])
        config = composed(workflow, words)
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
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if (clean := redacted(text, printed=False)) != text:
            file.write_text(clean, encoding="utf-8")


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
