"""The embedded reading-comprehension set: made-up articles, in which each fact occurs once.

Every context describes two to four people or things by the same attributes, so that it holds
several answers of each type. Train and test share no name. tests/data/demo_generator.py wrote the
file, and a test compares them.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

from quala.data.features import QAExample

FILE = Path(__file__).with_name("demo.jsonl.gz")


@cache
def demo_examples() -> tuple[tuple[QAExample, ...], tuple[QAExample, ...]]:
    """Return 2,400 training and 480 held-out questions."""
    splits: dict[str, list[QAExample]] = {"train": [], "test": []}
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            row["answers"] = tuple(row["answers"])
            row["answer_starts"] = tuple(row["answer_starts"])
            splits[row.pop("split")].append(QAExample(**row))
    return tuple(splits["train"]), tuple(splits["test"])
