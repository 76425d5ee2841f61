"""`quala predict`: labels, values, entities or embeddings of texts, and rankings of passages."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from quala.cli.answer import text_of, work_text
from quala.cli.arguments import (
    PLACE,
    Parser,
    add_budget,
    add_runtime,
    budget_of,
    number,
    one_of,
    text,
)
from quala.cli.locate import add_model, locate_model
from quala.cli.output import show, warn, write_json
from quala.errors import QualaError, unknown
from quala.reading import expanded, read_text
from quala.redact import visible

if TYPE_CHECKING:
    from quala.runtime.prediction import Prediction
    from quala.runtime.texts import TextPredictor

TASKS = {
    "answer": "question-answering",
    "classify": "classification",
    "regress": "regression",
    "tag": "token-classification",
    "embed": "embedding",
}
"""Kinds of tasks by what their models do."""
QUOTING = ("detect", "quoted", "plain")
WAYS = {
    "text": ("pair",),
    "data": ("out", "prefix", "quoting", "n_best"),
    "query": ("passages", "label"),
}
"""What is predicted for, and the options that only one of them has."""
SHOWN = 80
"""Characters of a passage in a table."""


def main(argv: Sequence[str]) -> int:
    """Predict for a text, a file or the passages of a query.

    Return 1 where every row of a file failed. Raises QualaError for bad texts, files, budgets and
    models, and for options that do not go together.
    """
    arguments = _parser().parse_args(argv)
    way = _way(arguments)
    budget_of(arguments)
    folder = locate_model(arguments.model, arguments.tracking_uri)
    from quala.runtime.answerer import QuestionAnswerer, load

    model = load(folder, runtime=arguments.runtime, threads=arguments.threads)
    if arguments.task and model.task != TASKS[arguments.task]:
        raise QualaError(f"`{arguments.model}` cannot {arguments.task}: its task is {model.task}.")
    if way == "data":
        return _rows(arguments, model)
    if isinstance(model, QuestionAnswerer):
        raise QualaError(
            f"`{arguments.model}` answers questions: use `quala answer` for one question, and "
            "`--data` for a file of them."
        )
    return _text(arguments, model) if way == "text" else _ranking(arguments, model)


def _way(arguments: argparse.Namespace) -> str:
    """Return what is predicted for. Raises QualaError for options that do not go together."""
    given = [way for way in WAYS if getattr(arguments, way) is not None]
    if len(given) != 1:
        raise QualaError(
            "Give one of `--text`, `--data` and `--query`, got "
            f"{' and '.join(f'`--{one}`' for one in given) or 'none'}."
        )
    (way,) = given
    for other, options in WAYS.items():
        for option in options:
            asked = getattr(arguments, option) is not None
            if asked and other != way:
                flag = option.replace("_", "-")
                raise QualaError(f"`--{flag}` goes with `--{other}`, got `--{way}`.")
    needed = {"data": "out", "query": "passages"}.get(way)
    if needed and getattr(arguments, needed) is None:
        raise QualaError(f"`--{way}` needs `--{needed}` too.")
    if arguments.columns and way == "text":
        raise QualaError("`--columns` is for files, got `--text`.")
    return way


def _text(arguments: argparse.Namespace, model: TextPredictor) -> int:
    from quala.runtime.prediction import TextQuery

    query = TextQuery(
        text=text_of(arguments.text, "text"),
        pair=None if arguments.pair is None else text_of(arguments.pair, "pair"),
        budget=budget_of(arguments),
        top_k=1 if arguments.top_k is None else arguments.top_k,
    )
    model.predict_batch([query])  # compiles for these lengths; the time shown is a warm one
    (found,) = model.predict_batch([query])
    if found.note:
        warn(found.note)
    if arguments.json:
        values = asdict(found)
        if found.units is None:
            del values["units"]
        write_json(values, as_is=True)
    elif found.embedding is not None:
        sys.stdout.write(json.dumps(found.embedding) + "\n")
    else:
        show(_table(found), work_text(found, model.facts.sequence_length))
    return 0


def _table(found: Prediction) -> Table:
    if found.value is not None:
        table = Table("Value")
        table.add_row(f"{found.value:.6g}")
    elif found.label is not None:
        table = Table("Label", "Probability")
        for score in found.scores:
            table.add_row(Text(visible(score.label)), f"{score.probability:.4f}")
    else:
        table = Table("Entity", "Label", "Probability", "Characters")
        for tag in found.tags:
            cells = Text(visible(tag.text)), Text(visible(tag.label))
            table.add_row(*cells, f"{tag.probability:.2f}", f"{tag.start}-{tag.end}")
    return table


def _rows(arguments: argparse.Namespace, model: Any) -> int:
    from quala.runtime.rows import RowJob, predict_rows
    from quala.stage import shown_progress

    job = RowJob(
        data=expanded(arguments.data),
        out=expanded(arguments.out),
        columns=_mapped(arguments.columns),
        budget=budget_of(arguments),
        top_k=1 if arguments.top_k is None else arguments.top_k,
        n_best=arguments.n_best or 0,
        prefix=arguments.prefix or "",
        quoting=arguments.quoting or "detect",
    )
    logger = None if sys.stderr.isatty() else logging.getLogger("quala.predict")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with shown_progress(f"predict {job.data.name}", 1.0, logger) as progress:
        done = predict_rows(model, job, advance=progress.advance)
    for place, reason in done.reasons:
        warn(f"row {place}: {reason}")
    if done.failed > len(done.reasons):
        warn(f"{done.failed:,} rows failed; the others have their reason in the column `error`.")
    if arguments.json:
        failures = [{"row": place, "error": reason} for place, reason in done.reasons]
        found = {"out": str(job.out), "rows": done.rows, "failed": done.failed}
        write_json(found | {"failures": failures})
    else:
        show(f"Predicted {done.rows - done.failed:,} of {done.rows:,} rows to {job.out}.")
    return 1 if done.failed == done.rows else 0


def _mapped(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, given, column = pair.partition("=")
        if not given or not column:
            raise QualaError(f"`--columns` takes `text=review` and the like, got `{pair}`.")
        found[name] = column
    return found


def _ranking(arguments: argparse.Namespace, model: TextPredictor) -> int:
    model.scorer(arguments.label)  # refuses before the work
    rows = _passages(expanded(arguments.passages), _mapped(arguments.columns))
    ranked = model.rank(
        text_of(arguments.query, "query"),
        [passage for _, passage in rows],
        budget=budget_of(arguments),
        label=arguments.label,
    )
    if notes := [one.prediction.note for one in ranked if one.prediction.note]:
        warn(f"{len(notes):,} of {len(ranked):,} passages: {notes[0]}")
    best = ranked[: arguments.top_k or None]
    if arguments.json:
        found = [
            {"score": one.score, **dict(zip(("row", "text"), rows[one.place]))} for one in best
        ]
        write_json({"passages": found}, as_is=True)
        return 0
    table = Table("Score", "Row", "Passage")
    for one in best:
        row, passage = rows[one.place]
        table.add_row(f"{one.score:.4f}", str(row), Text(visible(passage[:SHOWN])))
    show(table)
    return 0


def _passages(file: Path, mapped: dict[str, str]) -> list[tuple[int, str]]:
    """Return the passages of a file of rows or lines, each with the number of its row.

    Those without words are left out, with a warning. Raises QualaError where there is none.
    """
    from quala.data.files import SUFFIXES, suffix_of
    from quala.data.tables import RowFile
    from quala.runtime.card import check_words

    found: list[tuple[int, str]] = []
    if suffix_of(file) not in SUFFIXES:
        if mapped:
            raise QualaError(f"`--columns` is for files of rows, `{file}` has a passage a line.")
        lines = enumerate(read_text(file).split("\n"), start=1)
        return [(place, line.strip()) for place, line in lines if line.strip()]
    if mapped.keys() - {"text"}:
        raise unknown("name in `--columns`", min(mapped.keys() - {"text"}), ["text"])
    names = [mapped["text"]] if mapped else ["text", "passage", "sentence"]
    for place, line in enumerate(RowFile(file), start=1):
        passage = next((line.row[name] for name in names if name in line.row), None)
        try:
            if line.error:
                raise QualaError(line.error)
            if passage is None:
                raise QualaError(f"The row has no {' or '.join(f'`{one}`' for one in names)}.")
            check_words("passage", passage)
        except QualaError as error:
            warn(f"row {place} is left out: {error}")
        else:
            found.append((place, passage))
    if not found:
        raise QualaError(f"`{file}` has no passage; `--columns text=NAME` names their column.")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala predict", description=__doc__)
    add_model(parser)
    what = parser.add_argument_group("one text")
    what.add_argument("--text", metavar="TEXT", help="the text, @FILE, or - for standard input")
    what.add_argument("--pair", metavar="TEXT", help="the second text of a pair, in the same way")
    what = parser.add_argument_group("the rows of a file")
    what.add_argument(
        "--data", type=PLACE, metavar="FILE", help=".jsonl, .csv, .tsv, .parquet or .json, or .gz"
    )
    what.add_argument(
        "--out",
        type=PLACE,
        metavar="FILE",
        help="a new file: .jsonl, .csv, .tsv or .parquet; .npy for embeddings; .json for answers, "
        "as `quala evaluate` reads them. After a kill the same command goes on",
    )
    what.add_argument(
        "--columns",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=COLUMN",
        help="columns that have other names than text and pair, or question, context and id",
    )
    what.add_argument(
        "--n-best",
        type=number(int, at_least=1, at_most=100),
        metavar="N",
        help="answers to a question; for a .json file they are in nbest_FILE beside it",
    )
    what.add_argument(
        "--prefix", type=text("line"), help="stands before the names of the columns that are added"
    )
    what.add_argument(
        "--quoting", type=one_of("quoting", QUOTING), help="whether quotes enclose fields in CSV"
    )
    what = parser.add_argument_group("the passages of a query")
    what.add_argument("--query", metavar="TEXT", help="the query, @FILE, or -")
    what.add_argument(
        "--passages",
        type=PLACE,
        metavar="FILE",
        help="a file of rows with a column text, or a text file with a passage a line",
    )
    what.add_argument(
        "--label",
        type=text("line"),
        metavar="LABEL",
        help="of a classifier: ranks by its probability",
    )
    parser.add_argument(
        "--task",
        type=one_of("task", TASKS),
        help="what the model must be for: " + ", ".join(TASKS),
    )
    add_budget(parser, "each text")
    parser.add_argument(
        "--top-k",
        type=number(int, at_least=0, at_most=100),
        metavar="N",
        help="labels (default: 1) or passages (default: all), 0 for all",
    )
    add_runtime(parser)
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
