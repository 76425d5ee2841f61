"""`quala evaluate`: official SQuAD v1.1 exact match and F1 of a prediction file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from quala.cli.arguments import PLACE, Parser
from quala.cli.output import show, warn, write_json
from quala.errors import QualaError
from quala.reading import load_json, read_text

if TYPE_CHECKING:
    from quala.metrics.interval import Bounds
    from quala.metrics.squad import SquadScore


def main(argv: Sequence[str]) -> int:
    """Score a prediction file. Raises QualaError for files that are not what they should be."""
    arguments = _parser().parse_args(argv)
    # pyarrow takes a moment to import, which `--help` does not need.
    from quala.data.read import read_squad, remarks
    from quala.data.spec import DataSpec
    from quala.data.task import answer_samples
    from quala.metrics.squad import evaluate_predictions

    spec = DataSpec(
        task="squad",
        path=arguments.data,
        unanswerable="drop" if arguments.drop_unanswerable else "refuse",
        test_split=arguments.split,
        train_split="" if arguments.split == "train" else "train",
    )
    predictions = read_predictions(Path(arguments.predictions))
    try:
        examples = read_squad(spec, arguments.split, offsets=False)
    except QualaError as error:  # which names the options of a workflow
        told = str(error).replace("data.unanswerable=drop", "--drop-unanswerable")
        raise QualaError(told.replace("`test_split`", "`--split`")) from error
    score = evaluate_predictions(examples, predictions)
    unknown = len(predictions.keys() - {example.id for example in examples})
    if unknown:
        warn(f"{unknown} predicted ids are not in `{arguments.data}` and were left out.")
    for remark in remarks(examples, arguments.split):
        warn(remark)
    samples = answer_samples(examples, predictions)
    intervals = {name: sample.interval() for name, sample in samples.items()}
    if arguments.json:
        found = {f"{name}_interval": bounds for name, bounds in intervals.items()}
        write_json(asdict(score) | {"unknown": unknown} | found)
    else:
        show(_table(score, intervals))
    return 0


def read_predictions(file: Path) -> dict[str, str]:
    """Read the official format, one JSON object {question id: answer text}.

    Raises QualaError when the file is absent, truncated, or holds anything else.
    """
    from quala.data.files import twice

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        repeated = twice(identity for identity, _ in pairs)
        if repeated is not None:
            raise QualaError(f"Predictions `{file}` have the id `{repeated}` twice.")
        return dict(pairs)

    text = read_text(file, piped=True)
    try:
        content = load_json(text, file, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise QualaError(
            f"Predictions `{file}`, line {error.lineno} are not valid JSON: {error.msg}; "
            "is the file complete?"
        ) from error
    if not isinstance(content, dict):
        raise QualaError(
            f"Predictions `{file}` must be one object {{id: text}}, got a "
            f"{type(content).__name__}."
        )
    for identity, text in content.items():
        if not isinstance(text, str):
            raise QualaError(
                f"Predictions `{file}`: the answer to `{identity}` must be a string, got "
                f"{'nothing' if text is None else type(text).__name__}."
            )
    return content


def _table(score: SquadScore, intervals: Mapping[str, Bounds]) -> Table:
    from quala.metrics.interval import interval_text

    table = Table("", "Score", "95 % interval", "Questions", "Missing")
    for name, value in (("Exact match", score.exact_match), ("F1", score.f1)):
        bounds = interval_text(intervals[name.lower().replace(" ", "_")])
        table.add_row(name, f"{value:.4f}", bounds, f"{score.total:,}", f"{score.missing:,}")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala evaluate", description=__doc__)
    parser.add_argument(
        "--data",
        type=PLACE,
        required=True,
        help="SQuAD-format JSON, JSON lines, parquet, or a folder",
    )
    parser.add_argument(
        "--predictions",
        type=PLACE,
        required=True,
        metavar="FILE.json",
        help="one object {id: answer text}",
    )
    parser.add_argument(
        "--split",
        type=PLACE,
        default="validation",
        help="split of a folder (default: validation)",
    )
    parser.add_argument(
        "--drop-unanswerable",
        action="store_true",
        help="leave out the unanswerable questions of SQuAD 2.0 instead of refusing them",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
