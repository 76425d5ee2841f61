"""`quala answer`: answer a question about a context, within a budget."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from quala.cli.locate import add_model, locate_model
from quala.cli.output import show, warn, write_json
from quala.errors import QualaError
from quala.redact import visible

if TYPE_CHECKING:
    from quala.runtime.card import Reply


def main(argv: Sequence[str]) -> int:
    """Print the answer. Raises QualaError for bad text, budgets, models and runtimes."""
    arguments = _parser().parse_args(argv)
    from quala.runtime.card import Budget, Query

    budget = Budget(
        ms=arguments.budget_ms,
        macs=arguments.budget_macs,
        keep=arguments.keep,
        lengths=_lengths(arguments.lengths),
        strict=arguments.strict,
    )
    query = Query(
        question=arguments.question,
        context=read_text(arguments.context),
        budget=budget,
        top_k=arguments.top_k,
    )
    folder = locate_model(arguments.model, arguments.tracking_uri)
    from quala.runtime.answerer import load

    model = load(folder, runtime=arguments.runtime, threads=arguments.threads)
    model.answer_batch([query])  # compiles for these lengths; the time shown is a warm one
    (reply,) = model.answer_batch([query])
    if reply.note:
        warn(reply.note)
    if arguments.json:
        write_json(asdict(reply), as_is=True)
    else:
        _show(reply, model.facts.sequence_length)
    return 0


def read_text(value: str) -> str:
    """Return the text itself, the content of `@FILE`, or standard input for `-`.

    Raises QualaError for a file that is missing or no UTF-8 text.
    """
    if value != "-" and not value.startswith("@"):
        return value
    place = "standard input" if value == "-" else value[1:]
    try:
        raw = sys.stdin.buffer.read() if value == "-" else Path(place).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise QualaError(f"The context `{place}` cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise QualaError(f"The context `{place}` is not UTF-8 text.") from error


def _lengths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise QualaError(
            f"`--lengths` wants whole numbers separated by commas, got `{text}`."
        ) from error


def _show(reply: Reply, longest: int) -> None:
    table = Table("Answer", "Share", "Score", "Characters")
    for answer in reply.answers:
        table.add_row(
            Text(visible(answer.text)),
            f"{answer.probability:.2f}",
            f"{answer.score:.2f}",
            f"{answer.start}-{answer.end}",
        )
    kept = ",".join(map(str, reply.lengths or ()))
    windows = f"{reply.windows} window{'s' if reply.windows > 1 else ''}"
    show(table, f"{reply.milliseconds:.1f} ms, {windows}, tokens per layer {kept} of {longest}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quala answer", description=__doc__)
    add_model(parser)
    parser.add_argument("--question", required=True)
    parser.add_argument(
        "--context", required=True, metavar="TEXT", help="the text, @FILE, or - for standard input"
    )
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument("--budget-ms", type=float, metavar="X", help="milliseconds for the answer")
    limits.add_argument("--budget-macs", type=float, metavar="X", help="MACs, for example 1.2e9")
    limits.add_argument("--keep", type=float, metavar="X", help="share of the full length's MACs")
    limits.add_argument("--lengths", metavar="A,B,...", help="tokens kept by each layer")
    parser.add_argument(
        "--strict", action="store_true", help="refuse a budget below the cheapest point"
    )
    parser.add_argument(
        "--top-k", type=int, default=1, metavar="N", help="answers to print, at most 100"
    )
    parser.add_argument(
        "--runtime", default="onnxruntime", help="onnxruntime (default) or openvino"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
