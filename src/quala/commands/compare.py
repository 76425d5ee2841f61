"""`quala report --compare`: tracked runs of different systems, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from quala.commands.output import show, write_json
from quala.errors import QualaError

if TYPE_CHECKING:
    from mlflow.entities import Run

    from quala.report.compare import Comparison, Trial
    from quala.report.store import Reports

SHOWN = ("#", "System", "Setting", "Bits w-e-a", "Size MiB", "GMACs mean", "n", "Speed-up")
WORDS = ("System", "Setting")


def compare(
    reports: Reports,
    runs: Sequence[str],
    *,
    out: Path | None,
    as_json: bool,
    experiment: str | None = None,
    task: str | None = None,
) -> None:
    """Compare the named runs, else all finished workflows with a report, and write the page.

    A sweep stands for its jobs. Raises QualaError when a named run has no report, when there is
    nothing to compare, and when `out` is a file.
    """
    if out is not None and out.exists() and not out.is_dir():
        raise QualaError(f"`--out` names a folder to write into, got the file `{out}`.")
    # matplotlib and plotly take a second to import
    from quala.report.compare import Comparison, build_comparison
    from quala.report.compare.files import to_json

    trials, left_out = _named(reports, runs) if runs else _all(reports, experiment)
    comparison = Comparison.of(_of_task(trials, task) if task else trials, left_out)
    written = build_comparison(out, comparison) if out else []
    if as_json:
        write_json(to_json(comparison))
        return
    lines = [Text(f"Written to {file}") for file in written]
    lines += [Text(f"Left out {run}: {why}") for run, why in left_out.items()]
    show(*_shown(comparison), *lines)


def _named(reports: Reports, names: Sequence[str]) -> tuple[list[Trial], dict[str, str]]:
    from quala.report.compare import Collector

    collector = Collector(reports)
    found = {run.info.run_id: run for name in names for run in _workflows(reports, name)}
    return [trial for run in found.values() for trial in collector.trials(run)], {}


def _workflows(reports: Reports, name: str) -> Iterable[Run]:
    """Yield a workflow run, or those of a sweep's jobs that came to an end."""
    run = reports.run(name)
    if run.data.tags["quala.kind"] == "workflow":
        return [run]
    jobs = [job.run for job in reports.jobs(run) if job.run and job.status == "FINISHED"]
    if not jobs:
        raise QualaError(f"No job of the sweep `{name}` is finished: there is nothing to compare.")
    return jobs


def _all(reports: Reports, experiment: str | None) -> tuple[list[Trial], dict[str, str]]:
    """Return the trials of all finished workflows with a report, and why others have none."""
    from quala.report.compare import Collector

    collector = Collector(reports)
    trials: list[Trial] = []
    left_out: dict[str, str] = {}
    for run in reports.finished(experiment):
        if not reports.has_report(run):
            continue
        try:
            trials += collector.trials(run)
        except QualaError as error:
            left_out[run.info.run_id] = str(error)
    if not trials:
        place = f"of the experiment `{experiment}` " if experiment else ""
        reason = "; ".join(left_out.values()) or "`quala run` one"
        raise QualaError(
            f"No finished workflow {place}in {reports.uri} has a report to compare: {reason}"
        )
    return trials, left_out


def _of_task(trials: Sequence[Trial], task: str) -> list[Trial]:
    """Return the trials on a task, or on a subset such as `mnli`."""
    found = [trial for trial in trials if task in (trial.spec["task"], trial.spec["subset"])]
    if not found:
        known = {trial.spec["subset"] or trial.spec["task"] for trial in trials}
        raise QualaError(
            f"No run to compare is on the task `{task}`; there is {', '.join(sorted(known))}."
        )
    return found


def _shown(comparison: Comparison) -> list[RenderableType]:
    """Return the tables for the terminal, without the columns that need a page."""
    from quala.report.compare.text import cells, headings, legends
    from quala.report.table import metric_name

    items: list[RenderableType] = []
    for table in comparison.tables:
        names = headings(table)
        columns = [*SHOWN[:6], metric_name(table.metric), *SHOWN[6:], "Training s"]
        shown = Table(title=table.title, title_justify="left", header_style="bold")
        for name in columns:
            shown.add_column(name, justify="left" if name in WORDS else "right", overflow="fold")
        for texts in cells(table, comparison.claims):
            shown.add_row(*(Text(texts[names.index(name)]) for name in columns))
        items += [shown, *map(Text, legends(table))]
    return items
