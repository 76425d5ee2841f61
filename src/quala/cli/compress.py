"""`quala compress`: make a fine-tuned model small and fast on your data, in one command.

It looks at the model and the data, times the model for a few seconds, chooses the steps that fit
into the minutes, says so, and runs the workflow with them. The same command goes on after an
interruption. Words `key=value` are options of the workflow: data.columns.text=review

  model                            data
  question answering               question, context, answers; SQuAD 2.0 too
  classification, regression       a text or a pair, and a label or a number; rankings too
  token classification             CoNLL files; tokens and tags
  sentence encoder                 pairs with a number (STS-B): embeddings
  bare encoder                     any of them: it is trained first, with half of the time
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from quala.cli.arguments import PLACE, Parser, number, one_of
from quala.cli.export import check_free, check_outside, copied_card, drafted
from quala.cli.output import show, warn, write_json
from quala.durable import located, read_whole, write_whole
from quala.errors import QualaError, ended
from quala.manifest import MANIFEST, digest
from quala.plugins import TASKS
from quala.redact import shown
from quala.runtime.hardware import BUSY
from quala.stored import typed

if TYPE_CHECKING:
    from quala.autocompress.outcome import Outcome
    from quala.autocompress.pace import Pace, Sizes
    from quala.autocompress.recipe import Amounts
    from quala.autocompress.subject import Subject
    from quala.data.taskdata import TaskData
    from quala.workflow.execute import Result

MINUTES, MAX_LOSS = 30.0, 1.0
LENGTHS_ALONE = tuple(
    f"stage{key}=" for key in ("/length_adapt", ".length_adapt.significance",
                               ".length_adapt.semantics", ".length_adapt.layer_drop")
)  # fmt: skip
"""Options of the user that widths and depths would not go with."""
RULES = 3
"""Version of what is chosen: a plan of another version is made anew."""


@dataclass
class Prepared:
    """What will be run, as it is kept for the same command: it goes on with the same steps."""

    chosen: list[str]
    """The overrides that were chosen, beside those that name the model and the data."""
    recipe: str
    stages: list[tuple[str, str, float]]
    """Of each stage the name, what it does, and the estimated seconds."""
    said: list[str]
    notes: list[str] = field(default_factory=list)
    exported: dict[str, str] = field(default_factory=dict)
    """Digest of the manifest of each export that was written, by its folder."""

    def to_json(self, command: str) -> dict[str, Any]:
        """Return what `--json` says of the plan."""
        stages = [
            {"stage": name, "what": what, "minutes": round(seconds / 60, 2)}
            for name, what, seconds in self.stages
        ]
        notes = [*self.said, *self.notes]
        return {"command": command, "recipe": self.recipe, "stages": stages, "notes": notes}


def main(argv: Sequence[str]) -> int:
    """Compress a model.

    Raises QualaError, before any work, for a model, data or folder that cannot be used.
    """
    arguments, words = _parser().parse_with_overrides(argv)
    if arguments.out is None and not arguments.plan:
        raise QualaError("`--out` is missing: it names the folder that the export is written to.")
    if arguments.out is not None:
        _check_out(Path(arguments.out))
    # Hydra and transformers take seconds to import, which `--help` does not need.
    from quala.autocompress.subject import WORKFLOW, find_subject, joined, workflow

    subject = find_subject(arguments.model, arguments.data, arguments.task, words)
    file = _plan_file(arguments, subject, words)
    prepared = _known(file)
    if arguments.out is not None:
        check_outside(subject.folder, Path(arguments.out))
        _check_out(Path(arguments.out), prepared.exported if prepared else {})
    if prepared is None:
        prepared = _prepare(arguments, subject, words)
        _keep(file, prepared)
    final = joined([*subject.words, *prepared.chosen], words)
    command = shlex.join(["quala", "run", WORKFLOW, *map(shown, final)])
    if arguments.plan or not arguments.json:
        _show_plan(prepared, command, arguments.json)
    if arguments.plan:
        return 0
    from quala.workflow import launch

    results: list[Result] = []
    own = ["--json"] if arguments.json else []
    code = launch.run(workflow(), [*final, *own], results.append)
    if results:
        outcome, data = _finish(arguments, prepared, subject, final, results[0])
        _keep(file, prepared)
        plan = prepared.to_json(command) if arguments.json else None
        _show_outcome(arguments, _commands(arguments, data, outcome), results[0], outcome, plan)
    return code


def _check_out(out: Path, exported: Mapping[str, str] | None = None) -> None:
    """Raise QualaError unless the export may be written to `out`, or is one of the `exported`.

    None stands for not known yet.
    """
    if not (out / MANIFEST).is_file():
        check_free(out)
    elif exported is not None and exported.get(str(out.absolute())) != digest(out / MANIFEST):
        check_free(out)


def _plan_file(arguments: argparse.Namespace, subject: Subject, words: Sequence[str]) -> Path:
    """Return where the plan of this command is kept, so that it goes on with the same steps."""
    from quala.data.slices import data_fingerprint
    from quala.workflow.identity import content_hash, fingerprint

    settings = subject.settings
    asked = [getattr(arguments, one) for one in ("task", "minutes", "budget_ms", "max_loss")]
    own = sorted(word for word in words if not word.startswith(("tracking.", "data.path=")))
    made_of = [content_hash(subject.folder), data_fingerprint(settings.data)]
    key = fingerprint([RULES, *made_of, subject.bare, asked, own])
    folder, work = settings.tracking.folder, settings.tracking.work
    return Path(work or Path(folder) / "work").absolute() / "compress" / f"{key[:16]}.json"


def _known(file: Path) -> Prepared | None:
    """Return the plan that was kept, None where there is none that can be read."""
    content = read_whole(file)
    if content is None:
        return None
    try:
        found: Prepared = typed(Prepared, content)
    except QualaError:  # of another version
        return None
    return found


def _keep(file: Path, prepared: Prepared) -> None:
    with located(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(asdict(prepared), indent=1))


def _prepare(arguments: argparse.Namespace, subject: Subject, words: list[str]) -> Prepared:
    """Time the model, choose the recipe, and check what comes of it."""
    from quala.autocompress import pace, recipe
    from quala.autocompress.subject import WORKFLOW, joined, settings_of, workflow
    from quala.workflow.plan import check_plan

    check_plan(workflow(), subject.settings)  # what a model cannot do is said before it is timed
    wanted = MAX_LOSS if arguments.max_loss is None else arguments.max_loss
    asked = ["stage.search.cost=latency"]
    if arguments.budget_ms is None:
        asked = ["stage.search.cost=macs", f"stage.measure.max_loss={wanted:g}"]
    stages = subject.settings.stages
    asked = [one for one in asked if _has_effect(one, stages)]
    fitted = [*asked, *pace.fitted(subject, words)]
    known = joined([*subject.words, *fitted], words)
    subject = replace(subject, settings=settings_of(known))
    speed, sizes = pace.measured(subject)
    minutes = MINUTES if arguments.minutes is None else arguments.minutes
    try:
        amounts = recipe.choose(
            minutes,
            speed,
            sizes,
            bare=subject.bare,
            labels=subject.task != "embedding",
            narrow=sizes.narrows and not any(word.startswith(LENGTHS_ALONE) for word in words),
        )
    except QualaError as error:
        first = shlex.join(["quala", "run", WORKFLOW, *map(shown, known), "flow.until=finetune"])
        raise QualaError(f"{error} Or train it first, with `{first}`.") from error
    own = [one for one in recipe.overrides(amounts, speed, sizes) if _has_effect(one, stages)]
    chosen = joined([*fitted, *own], words)[: -len(words) or None]
    settings = settings_of(joined([*subject.words, *chosen], words))
    amounts = recipe.Amounts.of(settings, sizes, windows=speed.windows, bare=subject.bare)
    taken, what = recipe.seconds(amounts, speed), recipe.described(amounts)
    rows = [(name, what[name], found) for name, found in taken.items()]
    told = _told(subject, amounts, speed, sizes)
    total = sum(taken.values()) / 60
    told.append(
        f"Recipe: {amounts.recipe}; it {amounts.told}. About {total:.1f} of "
        f"{minutes:g} minutes{'' if arguments.minutes else ' (the default of `--minutes`)'}, "
        f"estimated from {1000 * speed.forward:.1f} ms for a forward pass and "
        f"{1000 * speed.train:.1f} ms for one of training on this machine now."
    )
    notes = []
    if total > 1.25 * minutes:
        notes.append(f"Less than about {total:.1f} minutes is not possible here.")
    least = recipe.least_loss(amounts.test, settings.data.metric or "")
    if arguments.budget_ms is None and least > wanted:
        notes.append(
            f"With {amounts.test:,} test examples no loss below {least:.1f} points can be "
            f"promised, so `--max-loss {wanted:g}` cannot: even equal answers leave it open."
        )
    return Prepared(chosen, amounts.recipe, rows, told, notes)


def _has_effect(word: str, stages: Any) -> bool:
    """Return whether an override sets an option of a stage that the user leaves on."""
    key = word.partition("=")[0].replace("/", ".")
    part, _, option = key.removeprefix("stage.").partition(".")
    if not key.startswith("stage.") or option == "enabled":
        return True
    return bool(stages[part].enabled and stages[part].given is None)


def _told(subject: Subject, amounts: Amounts, speed: Pace, sizes: Sizes) -> list[str]:
    """Say what was found."""
    from quala.cost import architecture_of, parameters
    from quala.data.read import is_single_file
    from quala.models.load import read_config

    arch = architecture_of(read_config(subject.folder).to_dict())
    data = subject.settings.data
    head = ", without a head" if subject.bare else ""
    counts = ", ".join(
        f"{size:,} to {what}" + (f" ({used:,} of them used)" if used < size else "")
        for what, size, used in (
            ("train on", sizes.train, amounts.train),
            ("search with", sizes.search, amounts.search),
            ("test with", sizes.test, amounts.test),
        )
    )
    said = [
        f"Model: {shown(subject.model)}, {sizes.task}{head}, {arch.family}, {arch.layers} "
        f"layers of width {arch.hidden}, {parameters(arch) / 1e6:.1f} million parameters.",
        f"Data: {shown(data.path or data.name)}, {counts}; inputs of up to {data.max_length} "
        "tokens.",
    ]
    if is_single_file(data) and not subject.bare:
        said.append(
            "The data are one file, from which the test examples are cut: scores are too good if "
            "your model was trained on it."
        )
    return [*said, *subject.said]


def _show_plan(prepared: Prepared, command: str, as_json: bool) -> None:
    if as_json:
        write_json(prepared.to_json(command))
        return
    table = Table(title="Plan", title_justify="left")
    table.add_column("Stage")
    table.add_column("What it does")
    table.add_column("Minutes, about", justify="right")
    for name, what, seconds in prepared.stages:
        table.add_row(name, what, f"{seconds / 60:.1f}")
    show(*prepared.said, table, f"It stands for: {command}")
    for note in prepared.notes:
        warn(note)
    sys.stdout.flush()  # before what the run logs


def _finish(
    arguments: argparse.Namespace,
    prepared: Prepared,
    subject: Subject,
    words: Sequence[str],
    result: Result,
) -> tuple[Outcome, TaskData]:
    """Write the export to `--out`, and compare the compressed model with the user's own."""
    from quala.autocompress.outcome import compared, own_row, within_budget, within_loss
    from quala.autocompress.pace import quiet
    from quala.autocompress.subject import settings_of
    from quala.checkpoint import load_data
    from quala.stages.measure import read_rows

    found = {one.name: one.folder for one in result.outcomes if one.folder is not None}
    if subject.task == "embedding":  # which nothing fine-tunes
        found["finetune"] = subject.folder
    lacking = {"finetune", "measure", "export"} - found.keys()
    if lacking:
        raise QualaError(
            f"The run {result.run_id} has no output of {' and '.join(sorted(lacking))}, which the "
            "overrides left out: `quala report` has what it made."
        )
    out = Path(arguments.out)
    if not (out / MANIFEST).is_file():
        with drafted(out) as draft:
            copied_card(found["export"], draft)
    prepared.exported[str(out.absolute())] = digest(out / MANIFEST)
    rows, settings = read_rows(found["measure"]), settings_of(words)
    with quiet():
        data = load_data(found["finetune"], settings.data)[1]
        points, own = compared(rows, found["measure"], data), own_row(rows)
    if arguments.budget_ms is not None:
        return within_budget(own, points, arguments.budget_ms), data
    return within_loss(own, points, settings.stages["measure"].max_loss), data


def _commands(arguments: argparse.Namespace, data: TaskData, outcome: Outcome) -> list[str]:
    """Return the two commands that use the export at the chosen point."""
    from quala.data.task import Classes
    from quala.metrics.ranking import RANKING_METRICS

    place, row = shlex.quote(arguments.out), outcome.chosen.row
    lengths = row.lengths
    limit = serve = f" --budget-ms {arguments.budget_ms:g}" if arguments.budget_ms else ""
    if lengths and not limit:  # the loss is known of these lengths, not of a time
        limit, layers = (
            f" --lengths {row.tokens}",
            f', "layers": "{row.layers}"' * bool(row.layers),
        )
        serve = f'  # with "lengths": {json.dumps(lengths)}{layers} in each request'
    use, task = f'quala predict {place} --text "..."', data.task
    if task.kind == "question-answering":
        use = f'quala answer {place} --question "..." --context @page.txt'
    elif task.metric in RANKING_METRICS:
        use = f'quala predict {place} --query "..." --passages passages.txt'
        if isinstance(task, Classes) and task.names:
            use += f" --label {shlex.quote(task.names[task.positive or 0])}"
    elif not task.headless and getattr(data.test.examples[0], "text_pair", None) is not None:
        use += ' --pair "..."'
    return [f"{use}{limit}", f"quala serve {place}{serve}"]


def _show_outcome(
    arguments: argparse.Namespace,
    commands: Sequence[str],
    result: Result,
    outcome: Outcome,
    plan: Mapping[str, Any] | None,
) -> None:
    """Print the front, what it costs in quality, and the commands; with a `plan` all as JSON."""
    from quala.workflow.launch import duration
    from quala.workflow.server import store_words

    if plan is not None:
        told = {"out": arguments.out, "plan": plan, "commands": list(commands)}
        write_json({**result.to_json(), **told, **outcome.to_json()})
        return
    report = f"quala report {result.run_id}{store_words(result.store.uri)}"
    took = "finished before" if result.reused else f"took {duration(result.seconds)}"
    show(
        _table(outcome),
        *(ended(one) for one in outcome.said),
        f"The export is in {arguments.out} ({took}). All figures: {report}",
        *commands,
    )


def _table(outcome: Outcome) -> Table:
    from quala.autocompress.outcome import Compared
    from quala.metrics.interval import interval_text, metric_name, score_text

    own = outcome.own
    title = f"{own.examples or 0:,} test examples, intervals of 95 %"
    table = Table(title=title, title_justify="left")
    table.add_column("Model")
    table.add_column("Tokens per layer", overflow="fold")
    for heading in (metric_name(own.metric), "Points lost", "ms", "Faster", "MiB"):
        table.add_column(heading, justify="right")
    for one in (Compared(own), *outcome.points):
        row = one.row
        busy = f" {BUSY}" if row.latency_ms and row.latency_ms.busy else ""
        table.add_row(
            "your model" if row is own else f"compressed, {row.precision}",
            row.tokens,
            score_text(row.score, row.interval),
            "-" if one.lost is None else f"{one.lost:.2f} ({interval_text(one.bounds)})",
            "-" if row.median_ms is None else f"{row.median_ms:.2f}{busy}",
            "-" if row.own_speedup is None else f"{row.own_speedup:.2f}x",
            f"{row.size_bytes / 2**20:.1f}",
            style="bold green" if one is outcome.chosen else None,
        )
        if busy:
            table.caption = f"{BUSY} other programs disturbed the timing"
    return table


def _parser() -> Parser:
    parser = Parser(
        prog="quala compress",
        description=__doc__,
        usage="quala compress MODEL --data DATA --out DIR [options] [key=value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        type=PLACE,
        metavar="MODEL",
        help="a folder in the Hugging Face format, a name on the hub, a run id, or runs:/... and "
        "models:/... of a checkpoint",
    )
    parser.add_argument(
        "--data", type=PLACE, required=True, metavar="PATH",
        help="a file or folder (columns as above, others by data.columns), a name on the hub, or "
        "demo",
    )  # fmt: skip
    parser.add_argument(
        "--task", type=one_of("task", TASKS.names), help="the task, where columns do not tell it"
    )
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument(
        "--budget-ms", type=number(float, above=0), metavar="X", help="milliseconds of an input"
    )
    bound.add_argument(
        "--max-loss", type=number(float, above=0, at_most=100), metavar="X",
        help=f"points of the metric that may be lost (default: {MAX_LOSS:g})",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=number(float, above=0, at_most=100_000), metavar="N",
        help=f"time for all, about (default: {MINUTES:g})",
    )  # fmt: skip
    parser.add_argument("--out", type=PLACE, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--plan", "--dry-run", action="store_true", help="show the plan only")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
