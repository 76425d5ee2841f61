"""Toy data in which every other question has no answer, as SQuAD 2.0 writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from quala.data.demo import demo_examples
from quala.data.features import QAExample
from quala.manifest import write_manifest


def questions(split: int, count: int) -> list[QAExample]:
    """Return questions of the demo set; every other one is about the context of another title."""
    examples = demo_examples()[split]
    chosen = examples[:: len(examples) // count][:count]
    found = list(chosen)
    for number in range(1, count, 2):
        one, other = chosen[number], chosen[number - 1 - count // 2]
        assert one.title != other.title
        found[number] = QAExample(one.id, other.title, other.context, one.question)
    return found


def official(examples: list[QAExample]) -> dict[str, Any]:
    """Return the questions as the official files have them, with plausible answers."""
    articles = []
    for one in examples:
        pairs = zip(one.answers, one.answer_starts, strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        question = {"id": one.id, "question": one.question, "answers": answers,
                    "is_impossible": not answers}  # fmt: skip
        if not answers:
            first = one.context.split()[0]
            question["plausible_answers"] = [{"text": first, "answer_start": 0}]
        paragraph = {"context": one.context, "qas": [question]}
        articles.append({"title": one.title, "paragraphs": [paragraph]})
    return {"version": "v2.0", "data": articles}


def records(examples: list[QAExample]) -> list[dict[str, Any]]:
    """Return the questions as the hub's parquet has them: empty answers, no `is_impossible`."""
    return [
        {"id": one.id, "title": one.title, "context": one.context, "question": one.question,
         "answers": {"text": list(one.answers), "answer_start": list(one.answer_starts)}}
        for one in examples
    ]  # fmt: skip


def write_official(folder: Path, *, train: int, test: int) -> Path:
    """Write train and dev files as SQuAD 2.0 has them, and return their folder."""
    for split, (name, count) in enumerate((("train-v2.0", train), ("dev-v2.0", test))):
        text = json.dumps(official(questions(split, count)))
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def with_threshold(export: Path, folder: Path, threshold: float) -> Path:
    """Return a copy of an export that gives no answer where [CLS] is ahead by `threshold`."""
    shutil.copytree(export, folder)
    file = folder / "quala.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**card, "null_threshold": threshold}), encoding="utf-8")
    write_manifest(folder)
    return folder
