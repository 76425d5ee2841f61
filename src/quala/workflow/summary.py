"""The panel at the end of a run, and the table of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from quala.workflow.plan import Plan
from quala.workflow.run import Result

COLOURS = {
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
    """Print the stages in order with what will happen to each, and why."""
    table = Table("stage", "status", "why", title=f"Plan of {plan.workflow}", title_justify="left")
    for entry in plan.entries.values():
        table.add_row(entry.name, _coloured(entry.status.value), Text(entry.reason))
    console.print(table)


def show_result(result: Result, console: Console) -> None:
    """Print what each stage came to, and where everything is."""
    table = Table("stage", "status", "time", "output", box=None)
    for outcome in result.outcomes:
        place = _short(outcome.folder) if outcome.folder else ""
        seconds = duration(outcome.seconds)
        table.add_row(outcome.name, _coloured(outcome.status), seconds, Text(place))
    state = "was finished before" if result.reused else f"took {duration(result.seconds)}"
    where = Text(
        f"Run       {result.run_id} ({state})\n"
        f"Store     {result.store.uri} (experiment {result.store.experiment})\n"
        f"Report    quala report {result.run_id}\n"
        f"Compare   quala ui",
        overflow="fold",
    )
    for outcome in result.outcomes:
        if outcome.folder is not None:
            _show_front(outcome.folder, console)
    console.print(Panel(Group(table, "", where), title=result.workflow, expand=False))


def _show_front(folder: Path, console: Console) -> None:
    """Print the table of a stage that left a report, and where its figure and page are."""
    from quala.report import read_report, terminal_table
    from quala.report.build import REPORT

    if (folder / REPORT).is_file():
        report = read_report(folder)
        console.print(terminal_table(report.rows, title=report.title))
        for name in ("front.png", "report.html"):
            console.print(Text(_short(folder / name)))


def show_sweep(sweep: str, jobs: Sequence[dict[str, Any]], console: Console) -> None:
    """Print one line for each job of a sweep, and name the ones that failed."""
    table = Table("job", "overrides", "status", "run", title="Sweep", title_justify="left")
    for job in jobs:
        words = Text(" ".join(job["overrides"]))
        table.add_row(str(job["job"]), words, _coloured(job["status"]), job["run_id"] or "")
    console.print(table)
    for job in jobs:
        if job["error"]:
            console.print(Text(f"Job {job['job']} failed: {job['error']}", style="red"))
    console.print(Text(f"Compare   quala report {sweep}"))


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _coloured(status: str) -> Text:
    return Text(status, style=COLOURS[status] if status in COLOURS else "")


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
