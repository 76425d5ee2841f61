"""`quala report`: the table of a tracked workflow, of a sweep, or of systems side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from quala.commands.output import show, write_json
from quala.errors import QualaError

if TYPE_CHECKING:
    from mlflow.entities import Run

    from quala.report.rows import Report
    from quala.report.store import Reports, SweepJob


def main(argv: Sequence[str]) -> int:
    """Print a report. Raises QualaError for unknown runs and runs without a report."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    from quala.report.store import Reports, default_tracking_uri

    reports = Reports.open(arguments.tracking_uri or default_tracking_uri(Path.cwd()))
    if arguments.compare:
        from quala.commands.compare import compare

        compare(
            reports,
            arguments.runs,
            out=Path(arguments.out) if arguments.out else None,
            as_json=arguments.json,
            experiment=arguments.experiment,
            task=arguments.task,
        )
        return 0
    run = reports.run(arguments.runs[0]) if arguments.runs else reports.newest()
    if run.data.tags["quala.kind"] == "sweep":
        _sweep(reports, run, as_json=arguments.json, out=arguments.out)
    else:
        _workflow(reports, run, as_json=arguments.json, out=arguments.out)
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


def _workflow(reports: Reports, run: Run, *, as_json: bool, out: str | None) -> None:
    report = reports.report(run)
    if report is None:
        raise QualaError(
            f"Run `{run.info.run_id}` ({run.info.status.lower()}) has no report: it did not come "
            "that far, or its report stage was left out."
        )
    folder = reports.export(run, Path(out)) if out else None
    if as_json:
        write_json({"run": run.info.run_id} | report.to_json())
        return
    from quala.report.table import terminal_table

    lines = [f"Run {run.info.run_id}", f"Hypervolume {report.metrics()['hypervolume']:.4f}"]
    if folder is not None:
        lines.append(f"Written to {folder}")
    show(terminal_table(report.rows, title=report.title), *lines)


def _sweep(reports: Reports, sweep: Run, *, as_json: bool, out: str | None) -> None:
    jobs = reports.jobs(sweep)
    if not jobs:
        raise QualaError(f"The sweep `{sweep.info.run_id}` has no jobs.")
    found = [(job, reports.report(job.run) if job.run else None) for job in jobs]
    lines = [_line(job, report) for job, report in found]
    if out:
        for job, report in found:
            if job.run is not None and report is not None:
                reports.export(job.run, Path(out) / job.run.info.run_id)
    if as_json:
        write_json({"run": sweep.info.run_id, "jobs": lines})
    else:
        show(_comparison(lines, f"Sweep {sweep.info.run_id}"))


def _line(job: SweepJob, report: Report | None) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "run": job.run.info.run_id if job.run else None,
        "overrides": job.overrides,
        "status": job.status.lower(),
        "metric": report.metric if report else None,
    }
    metrics = report.metrics() if report else {}
    name = figures["metric"]
    for key in (f"{name}_full", f"{name}_chosen", "gmacs_chosen", "macs_saved", "hypervolume"):
        # one column per meaning, whatever the metric is called
        figures[key.replace(f"{name}_", "score_")] = metrics[key] if key in metrics else None
    return figures


def _comparison(lines: Sequence[dict[str, Any]], title: str) -> Table:
    from quala.report.table import metric_name

    metric = next((metric_name(line["metric"]) for line in lines if line["metric"]), "Score")
    table = Table(title=title, title_justify="left")
    for heading in ("Run", "Overrides", "Status"):
        table.add_column(heading, overflow="fold")
    for heading in (f"{metric} full", f"{metric} chosen", "GMACs", "Saved", "Hypervolume"):
        table.add_column(heading, justify="right")
    for line in lines:
        table.add_row(
            line["run"][:8] if line["run"] else "-",
            line["overrides"],
            line["status"],
            _text(line["score_full"], "{:.2f}"),
            _text(line["score_chosen"], "{:.2f}"),
            _text(line["gmacs_chosen"], "{:.3f}"),
            _text(line["macs_saved"], "{:.2f}x"),
            _text(line["hypervolume"], "{:.4f}"),
        )
    return table


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quala report", description=__doc__)
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="id of a workflow or sweep run (default: the newest finished workflow; with "
        "--compare all of them)",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--out", metavar="DIR", help="also copy the report's files here")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="compare systems: seeds together, one table for each data; --out DIR gets the page",
    )
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        help="with --compare: only runs filed under this `tracking.experiment`",
    )
    parser.add_argument(
        "--task", metavar="NAME", help="with --compare: only this task, such as squad or mnli"
    )
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="the store (default: sqlite:///<this folder>/mlruns/mlflow.db)",
    )
    return parser
