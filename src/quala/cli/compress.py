"""`quala compress`: make a fine-tuned model small and fast on your data, in one command.

It looks at the model and the data, times the model for a few seconds, chooses the steps that fit
into the minutes, says so, and runs the workflow with them. The same command goes on after an
interruption. Words `key=value` are options of the workflow: data.columns.text=review
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quala.cli.arguments import PLACE, Parser, number, one_of
from quala.errors import QualaError, ended
from quala.plugins import TASKS

if TYPE_CHECKING:
    from quala.autocompress.outcome import Outcome
    from quala.autocompress.pace import Pace, Sizes
    from quala.autocompress.recipe import Amounts
    from quala.autocompress.subject import Subject
    from quala.workflow.execute import Result

MINUTES, MAX_LOSS = 30.0, 1.0
RULES = 1
"""Version of what is chosen: a plan of another version is made anew."""


@dataclass
class Prepared:
    """What will be run: the overrides, and what is said of them."""

    words: list[str]
    recipe: str
    stages: list[tuple[str, str, float]]
    """Of each stage the name, what it does, and the estimated seconds."""
    said: list[str]
    notes: list[str] = field(default_factory=list)
    exported: dict[str, str] = field(default_factory=dict)
    """Digest of the manifest of each export that was written, by its folder."""

    @property
    def command(self) -> str:
        """The command of the workflow that this stands for."""
        from quala.autocompress.subject import WORKFLOW
        from quala.redact import shown

        return shlex.join(["quala", "run", WORKFLOW, *map(shown, self.words)])

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` says of the plan."""
        return {
            "command": self.command,
            "recipe": self.recipe,
            "stages": [
                {"stage": name, "what": what, "minutes": round(seconds / 60, 2)}
                for name, what, seconds in self.stages
            ],
            "notes": [*self.said, *self.notes],
        }


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
    from quala.autocompress.subject import find_subject, workflow

    subject = find_subject(arguments.model, arguments.data, arguments.task, words)
    file = _plan_file(arguments, subject, words)
    prepared = _known(file)
    if prepared is None:
        prepared = _prepare(arguments, subject, words)
        _keep(file, prepared)
    if arguments.out is not None:
        _check_out(Path(arguments.out), prepared)
    if arguments.plan or not arguments.json:
        _show_plan(prepared, arguments.json)
    if arguments.plan:
        return 0
    from quala.workflow import launch

    results: list[Result] = []
    own = ["--json"] if arguments.json else []
    code = launch.run(workflow(), [*prepared.words, *own], results.append)
    if not results:
        return code
    out, outcome = _finish(arguments, subject, prepared, results[0])
    _keep(file, prepared)
    _show_outcome(arguments, subject, prepared, results[0], out, outcome)
    return code


def _check_out(out: Path, prepared: Prepared | None = None) -> None:
    """Raise QualaError unless the export may be written to `out`, or is there already.

    Without what is prepared, any export may be the own one.
    """
    from quala.cli.export import check_free
    from quala.manifest import MANIFEST, digest

    if not (out / MANIFEST).is_file():
        check_free(out)
    elif prepared is not None:
        if prepared.exported.get(str(out.absolute())) != digest(out / MANIFEST):
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
    from quala.durable import read_whole
    from quala.stored import typed

    content = read_whole(file)
    if content is None:
        return None
    try:
        found: Prepared = typed(Prepared, content)
    except QualaError:  # of another version
        return None
    return found


def _keep(file: Path, prepared: Prepared) -> None:
    from dataclasses import asdict

    from quala.durable import located, write_whole

    with located(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(asdict(prepared), indent=1))


def _prepare(arguments: argparse.Namespace, subject: Subject, words: list[str]) -> Prepared:
    """Time the model, choose the recipe, and check what comes of it."""
    from dataclasses import replace

    from quala.autocompress import pace, recipe
    from quala.autocompress.subject import joined, settings_of

    ours = [*subject.words, *_asked(arguments)]
    fitted = joined([*ours, *pace.fitted(subject, words)], words)
    subject = replace(subject, settings=settings_of(fitted))
    speed, sizes = pace.measured(subject)
    minutes = MINUTES if arguments.minutes is None else arguments.minutes
    try:
        amounts = recipe.choose(minutes, speed, sizes, bare=subject.bare)
    except QualaError as error:
        first = shlex.join(["quala", "run", "quala_minilm", *fitted, "flow.until=finetune"])
        raise QualaError(f"{error} Or train it first, with `{first}`.") from error
    stages = subject.settings.stages
    chosen = [
        word for word in recipe.overrides(amounts, speed, sizes)
        if _has_effect(word, stages)
    ]  # fmt: skip
    final = joined([*fitted[: len(fitted) - len(words)], *chosen], words)
    settings = settings_of(final)
    amounts = recipe.Amounts.of(settings, sizes, bare=subject.bare)
    taken, what = recipe.seconds(amounts, speed), recipe.described(amounts)
    rows = [(name, what[name], found) for name, found in taken.items()]
    told = _told(subject, amounts, speed, sizes)
    total = sum(taken.values()) / 60
    told.append(
        f"The {amounts.recipe}: it {recipe.TOLD[amounts.recipe]}. About {total:.1f} of "
        f"{minutes:g} minutes{'' if arguments.minutes else ' (the default of `--minutes`)'}, "
        f"estimated from {1000 * speed.forward:.1f} ms for a forward pass and "
        f"{1000 * speed.train:.1f} ms for one of training on this machine now."
    )
    metric = str(settings.data.metric or "")
    notes = _warnings(arguments, amounts, total, minutes, metric)
    return Prepared(final, amounts.recipe, rows, told, notes)


def _asked(arguments: argparse.Namespace) -> list[str]:
    if arguments.budget_ms is not None:
        return ["stage.search.cost=latency"]
    wanted = MAX_LOSS if arguments.max_loss is None else arguments.max_loss
    return ["stage.search.cost=macs", f"stage.measure.max_loss={wanted:g}"]


def _has_effect(word: str, stages: Any) -> bool:
    """Return whether an override sets an option of a stage that the user leaves on."""
    key = word.partition("=")[0]
    part, _, option = key.removeprefix("stage.").partition(".")
    if not key.startswith("stage.") or option == "enabled":
        return True
    return bool(stages[part].enabled and stages[part].given is None)


def _told(subject: Subject, amounts: Amounts, speed: Pace, sizes: Sizes) -> list[str]:
    """Say what was found."""
    from quala.cost import architecture_of, parameters
    from quala.models.load import read_config
    from quala.redact import shown

    arch = architecture_of(read_config(subject.folder).to_dict())
    data = subject.settings.data
    used = f", {amounts.test:,} of them used" if amounts.test < sizes.test else ""
    head = ", without a head" if subject.bare else ""
    return [
        f"Model: {shown(subject.model)}, {subject.task}{head}, {arch.family}, {arch.layers} "
        f"layers of width {arch.hidden}, {parameters(arch) / 1e6:.1f} million parameters.",
        f"Data: {shown(data.path or data.name)}, {sizes.train:,} examples to train on, "
        f"{sizes.search:,} to search with, {sizes.test:,} to test with{used}; inputs of up to "
        f"{data.max_length} tokens.",
    ]


def _warnings(
    arguments: argparse.Namespace, amounts: Amounts, total: float, minutes: float, metric: str
) -> list[str]:
    from quala.autocompress.recipe import least_loss

    found = []
    if total > 1.25 * minutes:
        found.append(f"Less than about {total:.1f} minutes is not possible here.")
    wanted = MAX_LOSS if arguments.max_loss is None else arguments.max_loss
    least = least_loss(amounts.test, metric)
    if arguments.budget_ms is None and least > wanted:
        found.append(
            f"With {amounts.test:,} test examples no loss below {least:.1f} points can be "
            f"promised, so `--max-loss {wanted:g}` cannot: even equal answers leave it open."
        )
    return found


def _show_plan(prepared: Prepared, as_json: bool) -> None:
    from rich.table import Table

    from quala.cli.output import show, warn, write_json

    if as_json:
        write_json(prepared.to_json())
        return
    table = Table(title="Plan", title_justify="left")
    table.add_column("Stage")
    table.add_column("What it does")
    table.add_column("Minutes, about", justify="right")
    for name, what, seconds in prepared.stages:
        table.add_row(name, what, f"{seconds / 60:.1f}")
    show(*prepared.said, table, f"It stands for: {prepared.command}")
    for note in prepared.notes:
        warn(note)


def _finish(
    arguments: argparse.Namespace, subject: Subject, prepared: Prepared, result: Result
) -> tuple[Path, Outcome]:
    """Write the export to `--out`, and compare the compressed model with the user's own."""
    from quala.autocompress.outcome import compared, own_row, within_budget, within_loss
    from quala.autocompress.subject import settings_of
    from quala.cli.export import copied_card, drafted
    from quala.manifest import MANIFEST, digest
    from quala.stages.measure import read_rows

    folders = {one.name: one.folder for one in result.outcomes}
    lacking = [one for one in ("finetune", "measure", "export") if not folders.get(one)]
    if lacking:
        raise QualaError(
            f"The run {result.run_id} has no output of {' and '.join(lacking)}, which the "
            "overrides left out: `quala report` has what it made."
        )
    found = {name: Path(str(folder)) for name, folder in folders.items()}
    out = Path(arguments.out)
    if not (out / MANIFEST).is_file():
        with drafted(out) as draft:
            copied_card(found["export"], draft)
    prepared.exported[str(out.absolute())] = digest(out / MANIFEST)
    rows, settings = read_rows(found["measure"]), settings_of(prepared.words)
    points = compared(rows, found["measure"], found["finetune"], settings.data)
    own = own_row(rows)
    if arguments.budget_ms is not None:
        return out, within_budget(own, points, arguments.budget_ms)
    wanted = settings.stages["measure"].max_loss
    return out, within_loss(own, points, wanted)


def _show_outcome(
    arguments: argparse.Namespace,
    subject: Subject,
    prepared: Prepared,
    result: Result,
    out: Path,
    outcome: Outcome,
) -> None:
    """Print the front, what it costs in quality, and the commands that use the export."""
    from quala.cli.output import show, write_json
    from quala.workflow.launch import duration
    from quala.workflow.server import store_words

    commands = _commands(arguments, subject, out, outcome)
    if arguments.json:
        told = {"out": str(out), "plan": prepared.to_json(), "commands": commands}
        write_json({**result.to_json(), **told, **outcome.to_json()})
        return
    words = store_words(result.store.uri)
    show(
        _table(outcome),
        *(ended(one) for one in outcome.said),
        f"Wrote {out} in {duration(result.seconds)}. Report: quala report {result.run_id}{words}",
        *commands,
    )


def _commands(
    arguments: argparse.Namespace, subject: Subject, out: Path, outcome: Outcome
) -> list[str]:
    budget = arguments.budget_ms or outcome.milliseconds
    limit = f" --budget-ms {budget:g}" if budget else ""
    place = shlex.quote(str(out))
    use = f'quala predict {place} --text "..."'
    if subject.task == "question-answering":
        use = f'quala answer {place} --question "..." --context @page.txt'
    return [f"{use}{limit}", f"quala serve {place}{limit}"]


def _table(outcome: Outcome) -> Any:
    from rich.table import Table

    from quala.autocompress.outcome import Compared
    from quala.cli.output import show  # noqa: F401 - rich is imported with it
    from quala.metrics.interval import interval_text, metric_name, score_text
    from quala.redact import cell

    own = outcome.own
    title = f"{own.examples or 0:,} test examples, intervals of 95 %"
    table = Table(title=title, title_justify="left")
    table.add_column("Model")
    table.add_column("Tokens per layer", overflow="fold")
    for heading in (metric_name(own.metric), "Points lost", "ms", "Faster", "MiB"):
        table.add_column(heading, justify="right")
    for one in (Compared(own), *outcome.points):
        row, name = one.row, "your model" if one.row is own else f"compressed, {one.row.precision}"
        lost = "-" if one.lost is None else f"{one.lost:.2f} ({interval_text(one.bounds)})"
        table.add_row(
            cell(name),
            row.tokens,
            score_text(row.score, row.interval),
            lost,
            "-" if row.median_ms is None else f"{row.median_ms:.2f}",
            "-" if row.own_speedup is None else f"{row.own_speedup:.2f}x",
            f"{row.size_bytes / 2**20:.1f}",
            style="bold green" if one is outcome.chosen else None,
        )
    return table


def _parser() -> argparse.ArgumentParser:
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
        help="a file or folder with columns such as text and label, or question, context and "
        "answers; a name on the hub; or demo",
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
