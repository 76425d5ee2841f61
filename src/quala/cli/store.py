"""`quala store`: list what a store holds, check it, remove what nothing needs, carry runs away."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.cli.arguments import PLACE, Parser, add_store, number, one_of
from quala.cli.output import show, write_json
from quala.errors import QualaError
from quala.redact import cell, console

if TYPE_CHECKING:
    from mlflow.entities import Run

    from quala.workflow.inventory import Inventory

MIB = 2**20
LONGEST_AGE = 36_500
"""Days."""


def main(argv: Sequence[str]) -> int:
    """Do what the first word says; return 1 where something is damaged. Raises QualaError."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    return ACTIONS[arguments.action][0](arguments)


def _inventory(arguments: argparse.Namespace) -> Inventory:
    from quala.workflow.inventory import Inventory
    from quala.workflow.tracking import Tracking

    return Inventory.of(Tracking.connect(arguments.tracking_uri))


def _check(arguments: argparse.Namespace) -> None:
    """Raise QualaError for arguments that do not go together."""
    action, words = arguments.action, arguments.words
    if action in ("list", "check") and words:
        raise QualaError(f"`quala store {action}` takes no word more, got `{words[0]}`.")
    if action == "export" and not (words and arguments.out):
        raise QualaError("`quala store export` takes RUNs and `--out FILE.zip` or a new folder.")
    if action == "import" and len(words) != 1:
        raise QualaError("`quala store import` takes one file or folder of `quala store export`.")
    if action == "remove" and not (words or arguments.unused):
        raise QualaError("`quala store remove` takes RUNs, or `--unused` for what nothing needs.")
    given = {"--out": arguments.out, "--yes": arguments.yes, "--unused": arguments.unused}
    takes = {"export": ("--out",), "remove": ("--yes", "--unused")}.get(action, ())
    for option, value in given.items():
        if value and option not in takes:
            raise QualaError(f"`{option}` is not for `quala store {action}`.")
    if arguments.older_than and not arguments.unused:
        raise QualaError("`--older-than` limits `--unused`, which is missing.")


def _list(arguments: argparse.Namespace) -> int:
    from rich.table import Table

    inventory = _inventory(arguments)
    runs = inventory.of_kind("workflow", "sweep")
    lines = [_line(inventory, run) for run in runs]
    totals = _totals(inventory)
    if arguments.json:
        write_json({"store": inventory.tracking.uri, "runs": lines, "bytes": totals})
        return 0
    tables = []
    for name in dict.fromkeys(line["experiment"] for line in lines):
        table = Table(title=cell(f"Experiment {name}"), title_justify="left", box=None)
        for column in ("run", "name", "begun", "status", "stages", "MiB", "alone"):
            right = column in ("stages", "MiB", "alone")
            table.add_column(column, justify="right" if right else "left", no_wrap=True)
        for line in lines:
            if line["experiment"] == name:
                sizes = (_mib(line[key]) if totals else "-" for key in ("bytes", "bytes_alone"))
                words = (line["run"][:8], line["name"], line["begun"], line["status"])
                table.add_row(*map(cell, words), str(len(line["stages"])), *sizes)
        tables.append(table)
    kept = ", ".join(f"{name} {_mib(size)}" for name, size in totals.items())
    meaning = (
        f"MiB on disk: {kept}.",
        "A run's MiB count all its stages, `alone` those that no other run uses: what it frees.",
    )
    local = meaning if totals else ("Sizes are known of stores on this disk only.",)
    show(f"Store {inventory.tracking.uri}", *tables, *local)
    return 0


def _line(inventory: Inventory, run: Run) -> dict[str, Any]:
    return {
        "run": run.info.run_id,
        "experiment": inventory.experiments[run.info.experiment_id],
        "name": run.info.run_name,
        "kind": run.data.tags["quala.kind"],
        "begun": time.strftime("%Y-%m-%d %H:%M", time.localtime(run.info.start_time / 1000)),
        "status": run.info.status.lower(),
        "stages": sorted(inventory.stages_of(run)),
        "bytes": inventory.whole(run),
        "bytes_alone": inventory.alone(run),
    }


def _totals(inventory: Inventory) -> dict[str, int]:
    """Return the bytes of a local store by what they are for."""
    from quala.workflow.inventory import size_of

    if inventory.root is None:
        return {}
    stages = inventory.of_kind("stage")
    unfinished = inventory.unfinished()
    return {
        f"{len(stages)} stages": sum(map(inventory.size, stages)),
        "runs": sum(map(inventory.size, inventory.of_kind("workflow", "sweep"))),
        f"{len(inventory.trash)} deleted runs": sum(map(inventory.size, inventory.trash.values())),
        f"{len(unfinished)} in unfinished work": sum(map(size_of, unfinished)),
        "all": size_of(inventory.root),
    }


def _check_store(arguments: argparse.Namespace) -> int:
    from quala.workflow.database import database_of
    from quala.workflow.inventory import check_database_file, check_output, check_versions

    inventory = _inventory(arguments)
    stages = inventory.of_kind("stage")
    path = database_of(inventory.tracking.uri)
    found = [*(check_database_file(path) if path else ()), *check_versions(inventory)]
    found += [one for run in _tracked(stages) if (one := check_output(inventory, run))]
    damaged = sum(one.damaged for one in found)
    if arguments.json:
        write_json({"outputs": len(stages), "findings": [vars(one) for one in found]})
        return int(damaged > 0)
    for one in found:
        text = cell(f"{one.name} {one.what}: {one.advice}.", "red" if one.damaged else "")
        console().print(text, soft_wrap=True)
    strays = inventory.strays()
    show(
        f"{len(stages)} outputs in {inventory.tracking.uri}: {damaged or 'none'} damaged.",
        *([f"{len(strays)} folders are of no run: `quala store remove --unused`."] * bool(strays)),
    )
    return int(damaged > 0)


def _tracked(runs: Sequence[Run]) -> Iterator[Run]:
    """Yield runs, and show on a terminal how many are done."""
    from rich.progress import track

    out = console(stderr=True)
    yield from track(
        runs, "Reading the outputs", console=out, transient=True, disable=not sys.stderr.isatty()
    )


def _remove(arguments: argparse.Namespace) -> int:
    from quala.workflow.inventory import plan_removal, size_of

    inventory = _inventory(arguments)
    plan = plan_removal(
        inventory, arguments.words, unused=arguments.unused, days=arguments.older_than or 0.0
    )
    size, local = plan.bytes, inventory.root is not None
    lines = [
        {
            "run": run_id,
            "name": plan.entry(run_id).info.run_name,
            "why": why,
            "bytes": inventory.size(plan.entry(run_id)),
        }
        for run_id, why in plan.runs.items()
    ]
    folders: list[dict[str, Any]] = [
        {"folder": str(at), "why": why, "bytes": size_of(at)} for at, why in plan.folders.items()
    ]
    if arguments.yes:
        plan.apply()
    if arguments.json:
        write_json({"removed": arguments.yes, "bytes": size, "runs": lines, "folders": folders})
        return 0
    for line in lines:
        space = f"{_mib(line['bytes']):>9} MiB" if local else ""
        show(f"{line['run'][:8]}  {space}  {line['name']} ({line['why']})")
    for line in folders:
        show(f"{_mib(line['bytes']):>19} MiB  {line['folder']} ({line['why']})")
    space = f" and {len(folders)} folders, {_mib(size)} MiB" if local else ""
    many = f"{len(lines)} runs{space}"
    done = f"Removed {many}." if arguments.yes else f"Would remove {many}: `--yes` does it."
    remote = "The server keeps them in its trash until `mlflow gc` runs there."
    show(*plan.notes, done, *([remote] * (arguments.yes and not local)))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from quala.workflow.transfer import export_runs

    inventory = _inventory(arguments)
    runs = [inventory.find(name) for name in arguments.words]
    sent = export_runs(inventory, runs, Path(arguments.out))
    if arguments.json:
        write_json({"out": arguments.out, "runs": sent})
    else:
        show(f"Written to {arguments.out}: {len(sent)} runs; `quala store import` takes them.")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from quala.workflow.transfer import import_runs

    took = import_runs(Path(arguments.words[0]), arguments.tracking_uri)
    if arguments.json:
        write_json({"runs": took.ids, "new": took.new})
        return 0
    many = f"{len(took.new)} runs are new, {len(took.ids) - len(took.new)} were there"
    others = any(old != new for old, new in took.ids.items())
    renamed = " with other ids than before, which `--json` lists" if others else ""
    show(f"{many}{renamed}.", *(f"quala report {took.ids[one]}" for one in took.fronts))
    return 0


Action = Callable[[argparse.Namespace], int]
ACTIONS: dict[str, tuple[Action, str]] = {
    "list": (_list, "experiments and runs with sizes (default)"),
    "check": (_check_store, "compare every output with its checksums; 1 when one is damaged"),
    "remove": (_remove, "remove RUNs or what is unused; without --yes only say what"),
    "export": (_export, "write RUNs with their stages into --out, a file or a folder"),
    "import": (_import, "take the runs of such a file or folder into the store"),
}


def _parser() -> argparse.ArgumentParser:
    actions = "\n".join(f"  {name:<8}{summary}" for name, (_, summary) in ACTIONS.items())
    parser = Parser(
        prog="quala store",
        description=f"{__doc__}\n\nactions:\n{actions}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", nargs="?", default="list", type=one_of("action", ACTIONS))
    parser.add_argument("words", nargs="*", type=PLACE, metavar="RUN",
                        help="ids, or the beginnings of ids")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    parser.add_argument("--unused", action="store_true", help="remove: failed and deleted runs, "
                        "stages that no workflow run needs, work that has ended")  # fmt: skip
    parser.add_argument("--older-than", type=number(float, at_least=0, at_most=LONGEST_AGE),
                        metavar="DAYS", help="remove: only what ended before")  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="remove: do it")
    parser.add_argument("--out", type=PLACE, metavar="FILE|DIR", help="export: where to")
    add_store(parser)
    return parser


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f}"
