"""`quala evaluate`: official SQuAD exact match and F1 of a prediction file.

The data decide the version: with questions that have no answer, or that say whether they have
one, it is 2.0, else 1.1.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from quala.cli.arguments import PLACE, Parser, number
from quala.cli.output import show, warn, write_json
from quala.errors import QualaError
from quala.reading import load_json, read_text

if TYPE_CHECKING:
    from quala.metrics.interval import Bounds


def main(argv: Sequence[str]) -> int:
    """Score a prediction file. Raises QualaError for files that are not what they should be."""
    arguments = _parser().parse_args(argv)
    # pyarrow takes a moment to import, which `--help` does not need.
    from quala.data.decode import answer_samples
    from quala.data.read import knows_unanswerable, read_squad, remarks
    from quala.data.spec import DataSpec
    from quala.metrics.squad import evaluate_null_predictions, evaluate_predictions

    spec = DataSpec(
        task="squad",
        path=arguments.data,
        unanswerable="drop" if arguments.drop_unanswerable else "keep",
        test_split=arguments.split,
        train_split="" if arguments.split == "train" else "train",
    )
    predictions = read_predictions(Path(arguments.predictions))
    na_probs = arguments.na_prob and read_na_probs(Path(arguments.na_prob))
    try:
        examples = read_squad(spec, arguments.split, offsets=False)
    except QualaError as error:  # which names the options of a workflow
        raise QualaError(str(error).replace("`test_split`", "`--split`")) from error
    null = not arguments.drop_unanswerable and knows_unanswerable(spec, arguments.split, examples)
    scores: dict[str, Any]
    if null:
        scores = evaluate_null_predictions(
            examples,
            predictions,
            na_probs=na_probs,
            na_prob_threshold=arguments.na_prob_threshold,
        )
    elif na_probs is None:
        scores = asdict(evaluate_predictions(examples, predictions))
    else:
        raise QualaError("`--na-prob` is for SQuAD 2.0; all questions of the data have answers.")
    unknown = len(predictions.keys() - {example.id for example in examples})
    if unknown:
        warn(f"{unknown} predicted ids are not in `{arguments.data}` and were left out.")
    for remark in remarks(examples, arguments.split):
        warn(remark)
    if na_probs is not None:
        above = (one for one, value in na_probs.items() if value > arguments.na_prob_threshold)
        predictions |= {one: "" for one in above if one in predictions}
    samples = answer_samples(examples, predictions, null=null)
    intervals = {name: sample.interval() for name, sample in samples.items()}
    if arguments.json:
        found = {f"{name}_interval": bounds for name, bounds in intervals.items()}
        write_json(scores | {"unknown": unknown} | found)
    else:
        show(_table(scores, intervals))
        if na_probs is not None:
            show(*(_best(scores, *one) for one in NAMES.items()))
    return 0


def read_predictions(file: Path) -> dict[str, str]:
    """Read the official format, one JSON object {question id: answer text}.

    Raises QualaError when the file is absent, truncated, or holds anything else.
    """
    found: dict[str, str] = {}
    for identity, text in _read_by_id(file, "text").items():
        if not isinstance(text, str):
            raise QualaError(
                f"Predictions `{file}`: the answer to `{identity}` must be a string, got "
                f"{'nothing' if text is None else type(text).__name__}."
            )
        found[identity] = text
    return found


def read_na_probs(file: Path) -> dict[str, float]:
    """Read the official format, one JSON object {question id: probability of no answer}.

    Any numbers do that rise with it, such as the differences of scores that run_squad writes.
    Raises QualaError when the file is absent, truncated, or holds anything else.
    """
    found: dict[str, float] = {}
    for identity, value in _read_by_id(file, "number").items():
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise QualaError(
                f"`{file}`: the probability for `{identity}` must be a number, got {value!r}."
            )
        found[identity] = float(value)
    return found


def _read_by_id(file: Path, what: str) -> dict[str, Any]:
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
            f"Predictions `{file}` must be one object {{id: {what}}}, got a "
            f"{type(content).__name__}."
        )
    return content


NAMES = {"exact_match": "Exact match", "f1": "F1"}
PARTS = {"": "", "has_answer_": ", with an answer", "no_answer_": ", without an answer"}


def _table(scores: Mapping[str, Any], intervals: Mapping[str, Bounds]) -> Table:
    from quala.metrics.interval import interval_text

    table = Table("", "Score", "95 % interval", "Questions", "Missing")
    for part, of in PARTS.items():
        for key, name in NAMES.items():
            if part + key not in scores:
                continue
            bounds, missing = interval_text(intervals[key]), f"{scores['missing']:,}"
            table.add_row(
                name + of,
                f"{scores[part + key]:.4f}",
                "" if part else bounds,
                f"{scores[f'{part}total']:,}",
                "" if part else missing,
            )
    return table


def _best(scores: Mapping[str, Any], key: str, name: str) -> str:
    threshold = scores[f"best_{key}_threshold"]
    return f"{name}: {scores[f'best_{key}']:.4f} with the best threshold, {threshold:g}."


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
        help="leave out the unanswerable questions of SQuAD 2.0, and score as 1.1 does",
    )
    parser.add_argument(
        "--na-prob",
        type=PLACE,
        metavar="FILE.json",
        help="one object {id: probability of no answer}: also print the best threshold",
    )
    parser.add_argument(
        "--na-prob-threshold",
        type=number(float),
        default=1.0,
        metavar="X",
        help="count questions with a higher --na-prob as not answered (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
