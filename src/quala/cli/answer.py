"""`quala answer`: answer a question about a context, within a budget."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from quala.cli.arguments import Parser, add_budget, add_runtime, budget_of, number
from quala.cli.locate import add_model, locate_model
from quala.cli.output import show, warn, write_json
from quala.errors import QualaError
from quala.lengths import layers_text
from quala.reading import expanded, read_text
from quala.redact import visible

if TYPE_CHECKING:
    from quala.runtime.card import Reply
    from quala.runtime.prediction import Prediction

LONGEST = 2**24
"""Bytes of a context."""


def main(argv: Sequence[str]) -> int:
    """Print the answer. Raises QualaError for bad text, budgets, models and runtimes."""
    arguments = _parser().parse_args(argv)
    from quala.runtime.card import Query

    query = Query(
        question=arguments.question,
        context=text_of(arguments.context),
        budget=budget_of(arguments),
        top_k=arguments.top_k,
    )
    folder = locate_model(arguments.model, arguments.tracking_uri)
    from quala.runtime.answerer import load_answerer

    model = load_answerer(folder, runtime=arguments.runtime, threads=arguments.threads)
    model.answer_batch([query])  # compiles for these lengths; the time shown is a warm one
    (reply,) = model.answer_batch([query])
    if reply.note:
        warn(reply.note)
    if arguments.json:
        found = asdict(reply)
        for name in ("no_answer", "units"):  # of a model that always answers, as a whole
            if found[name] is None:
                del found[name]
        write_json(found, as_is=True)
    else:
        _show(reply, model.facts.sequence_length)
    return 0


def text_of(value: str, what: str = "context") -> str:
    """Return the text itself, the content of `@FILE`, or standard input for `-`.

    Raises QualaError for a file that is missing or no UTF-8 text.
    """
    if value != "-" and not value.startswith("@"):
        return value
    if value.startswith("@"):
        return read_text(expanded(value[1:]), LONGEST, piped=True)
    try:
        return sys.stdin.buffer.read(LONGEST + 1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise QualaError(f"The {what} from standard input is no UTF-8 text.") from error


def work_text(reply: Reply | Prediction, longest: int) -> str:
    """Return the time of a reply and what ran for it; `longest` is the model's most tokens."""
    kept = ",".join(map(str, reply.lengths or ()))
    windows = f"{reply.windows} window{'s' if reply.windows > 1 else ''}"
    units = f", heads x neurons {layers_text(reply.units)}" if reply.units else ""
    return f"{reply.milliseconds:.1f} ms, {windows}, tokens per layer {kept} of {longest}{units}"


def _show(reply: Reply, longest: int) -> None:
    table = Table("Answer", "Share", "Score", "Characters")
    for answer in reply.answers:
        table.add_row(
            Text(visible(answer.text)),
            f"{answer.probability:.2f}",
            f"{answer.score:.2f}",
            f"{answer.start}-{answer.end}",
        )
    spent = work_text(reply, longest)
    none = "" if reply.no_answer is None else f"no answer (probability {reply.no_answer:.2f})"
    if reply.answers:
        show(table, ", ".join(filter(None, (spent, none))))
    else:
        show(none, spent)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala answer", description=__doc__)
    add_model(parser)
    parser.add_argument("--question", required=True)
    parser.add_argument(
        "--context", required=True, metavar="TEXT", help="the text, @FILE, or - for standard input"
    )
    add_budget(parser, "the answer")
    parser.add_argument(
        "--top-k",
        type=number(int, at_least=1, at_most=100),
        default=1,
        metavar="N",
        help="answers to print, at most 100",
    )
    add_runtime(parser)
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
