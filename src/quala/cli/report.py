"""`quala report`: show the results of a workflow or a sweep, or compare systems."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from quala.cli.arguments import PLACE, Parser, add_store
from quala.cli.locate import check_known
from quala.cli.output import out_folder, show, write_json
from quala.errors import QualaError
from quala.metrics.interval import metric_name, score_text
from quala.ranges import check_folder_place

if TYPE_CHECKING:
    from mlflow.entities import Run

    from quala.compare.group import Comparison
    from quala.compare.store import Reports, SweepJob
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
    out = out_folder(Path(arguments.out)) if arguments.out else None
    shown(reports, run, as_json=arguments.json, out=out)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise QualaError for arguments that do not go together."""
    filters = [
        f"`--{name}`" for name in ("experiment", "task") if getattr(arguments, name) is not None
    ]
    if not arguments.compare:
        if len(arguments.runs) > 1:
            count = len(arguments.runs)
            raise QualaError(f"A report is of one run, got {count}: `--compare` takes several.")
        if filters:
            raise QualaError(f"{filters[0]} chooses what `--compare` compares, which is missing.")
    elif arguments.runs and arguments.experiment is not None:
        raise QualaError("`--compare` takes either RUNs or `--experiment`, got both.")
    elif not arguments.out and not arguments.json:
        raise QualaError("`--compare` writes a page: name its folder with `--out DIR`.")


def _workflow(reports: Reports, run: Run, *, as_json: bool, out: Path | None) -> None:
    report = reports.report(run)
    if out is not None:
        reports.export(run, out)
    if as_json:
        write_json({"run": run.info.run_id} | report.to_json())
        return
    from quala.report.table import terminal_table

    lines = [f"Run {run.info.run_id}", f"Hypervolume {report.metrics()['hypervolume']:.4f}"]
    if out is not None:
        lines.append(f"Written to {out}")
    show(terminal_table(report.rows, title=report.title), *lines)


def _sweep(reports: Reports, sweep: Run, *, as_json: bool, out: Path | None) -> None:
    jobs = reports.jobs(sweep)
    if not jobs:
        raise QualaError(f"The sweep `{sweep.info.run_id}` has no jobs.")
    lines = [_line(reports, job, out) for job in jobs]
    if as_json:
        write_json({"run": sweep.info.run_id, "jobs": lines})
    else:
        show(_sweep_table(lines, jobs, f"Sweep {sweep.info.run_id}"))


def _line(reports: Reports, job: SweepJob, out: Path | None) -> dict[str, Any]:
    """Return the figures of a job, and copy its report into `out`."""
    from quala.compare.store import report_run

    run, report = job.run, None
    if run is not None and report_run(run):
        report = reports.report(run)
        if out is not None:
            reports.export(run, out / run.info.run_id)
    name = report.metric if report else None
    metrics = report.metrics() if report else {}
    rows = {"full": report and report.full, "chosen": report and report.chosen}
    return {
        "run": run.info.run_id if run else None,
        "overrides": job.overrides,
        "status": job.status.lower(),
        "metric": name,
        # one column per meaning, whatever the metric is called
        **{f"score_{key}": row and row.score for key, row in rows.items()},
        **{f"interval_{key}": row and row.interval for key, row in rows.items()},
        "examples": next((row.examples for row in rows.values() if row), None),
        **{key: metrics.get(key) for key in ("gmacs_chosen", "macs_saved", "hypervolume")},
    }


def _sweep_table(
    lines: Sequence[dict[str, Any]], jobs: Sequence[SweepJob], title: str
) -> RenderableType:
    from quala.report.table import ABSENT, TerminalTable, format_number, to_frame

    metric = next((metric_name(line["metric"]) for line in lines if line["metric"]), "Score")
    counted = any(line["examples"] for line in lines)
    frame = to_frame(
        {
            "Run": line["run"][:8] if line["run"] else ABSENT,
            "Overrides": job.varied,
            "Status": line["status"],
            f"{metric} full": score_text(line["score_full"], line["interval_full"]),
            f"{metric} chosen": score_text(line["score_chosen"], line["interval_chosen"]),
            **({"n": format_number(line["examples"], "{:,.0f}")} if counted else {}),
            "GMACs": format_number(line["gmacs_chosen"], "{:.3f}"),
            "Saved": format_number(line["macs_saved"], "{:.2f}x"),
            "Hypervolume": format_number(line["hypervolume"], "{:.4f}"),
        }
        for line, job in zip(lines, jobs, strict=True)
    )
    return TerminalTable(
        frame,
        title=title,
        left=("Run", "Overrides", "Status"),
        optional=("Hypervolume", "Saved", "GMACs", "Status", "n"),
    )


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
    parser.add_argument(
        "--out", type=PLACE, metavar="DIR", help="also copy the report's files here"
    )
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
    out = out_folder(Path(arguments.out)) if arguments.out else None
    # matplotlib and plotly take a second to import
    from quala.compare.group import Comparison
    from quala.compare.text import to_json
    from quala.compare.write import build_comparison

    trials, left_out = _trials(reports, arguments)
    if arguments.task:
        trials = _of_task(trials, arguments.task)
    comparison = Comparison.of(trials, left_out)
    written = build_comparison(out, comparison) if out else []
    if arguments.json:
        write_json(to_json(comparison))
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
    for run in reports.reported(arguments.experiment):
        try:
            trials += collector.trials(run)
        except QualaError as error:
            left_out[run.info.run_id] = str(error)
    if not trials:
        place = f"of the experiment `{arguments.experiment}` " if arguments.experiment else ""
        reason = "; ".join(left_out.values()) or "`quala run` one"
        raise QualaError(
            f"No finished workflow {place}in {reports.uri} has a report to compare: {reason}"
        )
    return trials, left_out


def _runs(reports: Reports, name: str) -> list[Run]:
    """Return the workflow run of this name, or the runs of a sweep's finished jobs."""
    from quala.workflow.tracking import KIND

    run = reports.run(name)
    if run.data.tags[KIND] == "workflow":
        return [run]
    jobs = [job.run for job in reports.jobs(run) if job.run and job.status == "FINISHED"]
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
