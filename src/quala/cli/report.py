"""`quala report`: show the results of a workflow or a sweep, or compare systems."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from quala.cli.arguments import PLACE, Parser, add_store, text
from quala.cli.locate import check_known
from quala.cli.output import out_folder, show, write_json, write_text
from quala.errors import QualaError
from quala.metrics.interval import metric_name
from quala.ranges import check_folder_place

if TYPE_CHECKING:
    from mlflow.entities import Run

    from quala.compare.group import Comparison
    from quala.compare.store import Reports
    from quala.compare.sweep import JobLine, SweepTable
    from quala.compare.trials import Trial


def main(argv: Sequence[str]) -> int:
    """Print a report. Raises QualaError for unknown runs and runs without a report."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    for name in arguments.runs:
        check_known(arguments.tracking_uri, name)
    if arguments.out:
        check_folder_place("--out", arguments.out)
    from quala.compare.store import Reports
    from quala.workflow.tracking import KIND

    reports = Reports.open(arguments.tracking_uri)
    if arguments.compare:
        _compare(reports, arguments)
        return 0
    run = reports.run(arguments.runs[0]) if arguments.runs else reports.newest()
    shown = _sweep if run.data.tags[KIND] == "sweep" else _workflow
    shown(reports, run, arguments)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise QualaError for arguments that do not go together."""
    filters = [
        f"`--{name}`" for name in ("experiment", "task") if getattr(arguments, name) is not None
    ]
    if arguments.json and arguments.csv:
        raise QualaError("`--json` and `--csv` go to the same place: choose one.")
    if not arguments.compare:
        if len(arguments.runs) > 1:
            count = len(arguments.runs)
            raise QualaError(f"A report is of one run, got {count}: `--compare` takes several.")
        if filters:
            raise QualaError(f"{filters[0]} chooses what `--compare` compares, which is missing.")
    elif arguments.runs and arguments.experiment is not None:
        raise QualaError("`--compare` takes either RUNs or `--experiment`, got both.")
    elif arguments.sort or arguments.reverse:
        raise QualaError("`--sort` and `--reverse` order the jobs of a sweep, not `--compare`.")
    elif not (arguments.out or arguments.json or arguments.csv):
        raise QualaError("`--compare` writes a page: name its folder with `--out DIR`.")


def _workflow(reports: Reports, run: Run, arguments: argparse.Namespace) -> None:
    if arguments.sort or arguments.reverse:
        raise QualaError(
            f"`--sort` and `--reverse` order the jobs of a sweep, `{run.info.run_id}` is a "
            "workflow."
        )
    report, out = reports.report(run), _folder(arguments)
    if out is not None:
        reports.export(run, out)
    if arguments.json:
        write_json({"run": run.info.run_id} | report.to_json())
        return
    from quala.report.table import csv_text, terminal_table

    if arguments.csv:
        write_text(csv_text(report.rows))
        return
    lines = [f"Run {run.info.run_id}", f"Hypervolume {report.metrics()['hypervolume']:.4f}"]
    if out is not None:
        lines.append(f"Written to {out}")
    show(terminal_table(report.rows, title=report.title), *lines)


def _sweep(reports: Reports, sweep: Run, arguments: argparse.Namespace) -> None:
    from quala.compare.sweep import SweepTable

    table = SweepTable.read(reports, sweep)
    if not table.jobs:
        raise QualaError(f"The sweep `{sweep.info.run_id}` has no jobs.")
    lines = table.ordered(arguments.sort, reverse=arguments.reverse)
    # matplotlib and plotly take a second to import
    from quala.compare.sweep_page import build_sweep, sweep_csv, sweep_json

    out = _folder(arguments)
    written = build_sweep(out, table, lines, _exported(reports, table, out)) if out else []
    if arguments.json:
        write_json(sweep_json(table, lines))
    elif arguments.csv:
        write_text(sweep_csv(table, lines))
    else:
        show(*_sweep_tables(table, lines), *(f"Written to {file}" for file in written))


def _exported(reports: Reports, table: SweepTable, out: Path) -> dict[str, str]:
    """Copy the reports of the jobs below `out`; return the addresses of their pages by run."""
    from quala.compare.store import report_run

    pages = {}
    for line in table.jobs:
        if (run := line.job.run) and report_run(run):
            reports.export(run, out / run.info.run_id)
            pages[run.info.run_id] = f"{run.info.run_id}/report.html"
    return pages


def _sweep_tables(table: SweepTable, lines: Sequence[JobLine]) -> list[RenderableType]:
    """Return the table of the jobs and, where seeds vary, that of the settings."""
    from quala.compare.store import report_run
    from quala.compare.sweep_page import (
        failures,
        job_notes,
        job_texts,
        setting_texts,
        spread_note,
        title_of,
    )
    from quala.compare.text import INTERVAL
    from quala.report.table import TerminalTable

    left = (*table.columns, "Setting", "Status", "Run")
    optional = ("Run", "Hypervolume", "Saved", "MiB", INTERVAL, "Speed-up", "Loss", "ms", "GMACs")
    items: list[RenderableType] = [
        TerminalTable(
            job_texts(table, lines),
            title=title_of(table),
            left=left,
            bold=[number for number, line in enumerate(lines) if line in table.best],
            optional=optional,
        ),
        *job_notes(table),
    ]
    settings = setting_texts(table)
    if settings is not None:
        best = [number for number, one in enumerate(table.settings) if one == table.best_setting]
        items += [
            TerminalTable(settings, title=None, left=left, bold=best, optional=optional),
            spread_note(),
        ]
    items += [Text(text, "red") for text in failures(table)]
    reported = [run for line in table.best if (run := line.job.run) and report_run(run)]
    items += [f"Best      quala report {run.info.run_id}" for run in reported[:1]]
    return items


def _folder(arguments: argparse.Namespace) -> Path | None:
    return out_folder(Path(arguments.out)) if arguments.out else None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala report", description=__doc__)
    parser.add_argument(
        "runs",
        type=PLACE,
        nargs="*",
        metavar="RUN",
        help="id of a workflow or sweep run (default: the newest finished workflow; with "
        "--compare all of them)",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--csv", action="store_true", help="write CSV")
    parser.add_argument(
        "--out",
        type=PLACE,
        metavar="DIR",
        help="also copy the report's files here; of a sweep, its page, table and figure too",
    )
    parser.add_argument(
        "--sort",
        type=text("name"),
        metavar="COLUMN",
        help="order the jobs of a sweep by a figure, the best first (f1, loss, gmacs, ms, "
        "speedup, mib), or by an option that varies; default: as they were run",
    )
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="compare systems over seeds, one table per data set; --out DIR gets the page",
    )
    parser.add_argument(
        "--experiment",
        type=PLACE,
        metavar="NAME",
        help="with --compare: only runs of this `tracking.experiment`",
    )
    parser.add_argument(
        "--task",
        type=PLACE,
        metavar="NAME",
        help="with --compare: only this task, such as squad or mnli",
    )
    add_store(parser)
    return parser


def _compare(reports: Reports, arguments: argparse.Namespace) -> None:
    """Compare the named runs, else all finished workflows with a report, and write the page.

    Raises QualaError when a named run has no report, when there is nothing to compare, and when
    `--out` is no folder that can be made.
    """
    out = _folder(arguments)
    # matplotlib and plotly take a second to import
    from quala.compare.group import Comparison
    from quala.compare.text import csv_text, to_json
    from quala.compare.write import build_comparison

    trials, left_out = _trials(reports, arguments)
    if arguments.task:
        trials = _of_task(trials, arguments.task)
    comparison = Comparison.of(trials, left_out)
    written = build_comparison(out, comparison) if out else []
    if arguments.json:
        write_json(to_json(comparison))
        return
    if arguments.csv:
        write_text(csv_text(comparison))
        return
    lines = [Text(f"Written to {file}") for file in written]
    lines += [Text(f"Left out {reason}") for reason in comparison.reasons]
    show(*_shown(comparison), *lines)


def _trials(reports: Reports, arguments: argparse.Namespace) -> tuple[list[Trial], dict[str, str]]:
    """Return the trials of the runs to compare, and why runs that were not named are left out."""
    from quala.compare.trials import Collector

    collector = Collector(reports)
    trials: list[Trial] = []
    left_out: dict[str, str] = {}
    if arguments.runs:
        named = {run.info.run_id: run for name in arguments.runs for run in _runs(reports, name)}
        return [trial for run in named.values() for trial in collector.trials(run)], left_out
    for run in reports.with_rows(arguments.experiment):
        try:
            trials += collector.trials(run)
        except QualaError as error:
            left_out[run.info.run_id] = str(error)
    if not trials:
        place = f"of the experiment `{arguments.experiment}` " if arguments.experiment else ""
        reason = "; ".join(left_out.values()) or "`quala run` one"
        raise QualaError(
            f"No finished workflow {place}in {reports.uri} has rows to compare: {reason}"
        )
    return trials, left_out


def _runs(reports: Reports, name: str) -> list[Run]:
    """Return the workflow run of this name, or the runs of a sweep's finished jobs."""
    from quala.workflow.tracking import KIND

    run = reports.run(name)
    if run.data.tags[KIND] == "workflow":
        return [run]
    jobs = [
        job.run for job in reports.jobs(run) if job.run and job.status in ("finished", "cached")
    ]
    if not jobs:
        raise QualaError(f"No job of the sweep `{name}` is finished: there is nothing to compare.")
    return jobs


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
    """Return the tables for the terminal, with the columns that fit there."""
    from quala.compare.text import INTERVAL, interval_notes, legends, measured_texts
    from quala.report.table import TerminalTable

    items: list[RenderableType] = []
    for table in comparison.tables:
        score = metric_name(table.metric)
        columns = ["#", "System", "Setting", "Bits w-e-a", "Size MiB", "GMACs mean", score,
                   INTERVAL, "n", "Speed-up", "Training s"]  # fmt: skip
        frame = measured_texts(table)
        frame = frame[[name for name in columns if name in frame]]
        items.append(
            TerminalTable(
                frame,
                title=table.title,
                left=("System", "Setting"),
                optional=("Training s", "Bits w-e-a", "GMACs mean", "Size MiB", "n"),
            )
        )
        items += map(Text, interval_notes(table))
        items += map(Text, legends(table))
    return items
