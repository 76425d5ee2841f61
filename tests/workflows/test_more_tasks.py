"""Tagged words and embeddings from data to an export that agrees with PyTorch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import STAGES, Toy, output

pytestmark = pytest.mark.slow


def write_tags(folder: Path) -> None:
    """Write CoNLL files in which two words are entities wherever they stand."""
    draw = random.Random(0)
    for name, count in (("train", 100), ("validation", 24)):
        lines = []
        for number in range(count):
            if number % 5 == 0:
                lines.append("-DOCSTART- -X- O\n")
            filler = draw.choices(("the", "of", "and", "in"), k=draw.randint(2, 5))
            named = draw.choice((("first", "B-A", "year", "I-A"), ("three", "B-B")))
            place = draw.randrange(len(filler) + 1)
            words = [(word, "O") for word in filler]
            words[place:place] = zip(named[::2], named[1::2], strict=True)
            lines += [*(f"{word} NN {tag}" for word, tag in words), ""]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")


def write_pairs(folder: Path) -> None:
    """Write pairs whose score is the share of words that they have in common."""
    draw = random.Random(0)
    words = ("the", "of", "and", "in", "was", "to", "first", "three", "year", "would")
    for name, count in (("train", 100), ("validation", 24)):
        rows = []
        for number in range(count):
            one, other = draw.sample(words, 5), draw.sample(words, 5)
            rows.append(
                {
                    "sentence1": " ".join([*one, str(number)]),
                    "sentence2": " ".join(other),
                    "score": len({*one} & {*other}) / 1.0,
                }
            )
        text = "\n".join(map(json.dumps, rows))
        (folder / f"{name}.jsonl").write_text(text + "\n", encoding="utf-8")


def agrees(folder: Path, result: Any, task: str, kind: str) -> tuple[Any, list[Any]]:
    """Compare an export with the integer model at full length and with drops; return the card."""
    from quala.checkpoint import load_with_data, predict
    from quala.data.spec import DataSpec
    from quala.lengths import LengthConfig
    from quala.runtime.card import Card
    from quala.runtime.engine import open_export

    spec = DataSpec(
        task=task, path=str(folder), max_length=32, doc_stride=8, search_size=12, selection_size=8
    )
    opened = load_with_data(output(result, "quantize"), spec)
    features = opened.data.test.features
    exported = output(result, "export")
    card = Card.read(exported)
    assert (card.task, opened.precision) == (kind, "int8")
    engine = open_export(exported, card, runtime="onnxruntime", threads=1)
    found = []
    for lengths in (None, LengthConfig((8,) * card.arch.layers, 32)):
        logits = predict(opened.model, features, batch_size=4, pad_to=None, lengths=lengths)
        served = [engine.logits(features.arrays([row]), lengths)[0] for row in range(8)]
        for ours, theirs in zip(logits, served, strict=False):
            np.testing.assert_allclose(theirs, ours, atol=2e-3)
        found.append(logits)
    assert not np.allclose(found[0][0], found[1][0], atol=2e-3)
    return card, found[0]


def test_tagged_words(
    tiny_checkpoint: Path, migrated_database: Path, tmp_path: Path, fast: None
) -> None:
    (tmp_path / "data").mkdir()
    write_tags(tmp_path / "data")
    words = ["experiment=ner", "stage.distill.enabled=true", "data.name=null",
             "data.revision=null", "data.doc_stride=8", "data.max_length=32",
             f"data.path={tmp_path / 'data'}"]  # fmt: skip
    toy = Toy(tmp_path, tiny_checkpoint, migrated_database, words)
    training = ["max_steps=60", "learning_rate=0.01", "epochs=20"]
    result = toy("run", *(f"stage.finetune.{one}" for one in training))
    assert [one["stage"] for one in result["stages"]] == STAGES
    assert result["stages"][0]["metrics"]["selection/f1"] > 50
    report = json.loads((output(result, "report") / "report.json").read_text())
    assert {row["metric"] for row in report["rows"]} == {"f1"}
    assert report["rows"][0]["interval"]
    classes = report["data"]["details"]["fine-tuned full"]["classes"]
    assert [(one["class"], one["support"] > 0) for one in classes] == [("A", True), ("B", True)]
    assert "## Classes" in (output(result, "report") / "report.md").read_text()
    card, logits = agrees(tmp_path / "data", result, "tags", "token-classification")
    assert card.labels == ("O", "B-A", "B-B", "I-A")
    assert logits[0].shape[1] == 4


def test_embeddings(
    tiny_checkpoint: Path, migrated_database: Path, tmp_path: Path, fast: None
) -> None:
    (tmp_path / "data").mkdir()
    write_pairs(tmp_path / "data")
    words = ["experiment=sts", "stage.distill.enabled=true", "stage.distill.hard=0",
             "data.name=null", "data.subset=null", "data.max_length=32",
             f"data.path={tmp_path / 'data'}"]  # fmt: skip
    toy = Toy(tmp_path, tiny_checkpoint, migrated_database, words)
    result = toy("run", "stage.quantize.method=qat")
    assert [one["stage"] for one in result["stages"]] == STAGES[1:]
    report = json.loads((output(result, "report") / "report.json").read_text())
    assert {row["metric"] for row in report["rows"]} == {"spearman"}
    _, vectors = agrees(tmp_path / "data", result, "embed", "embedding")
    assert {one.shape for one in vectors} == {(32,)}
    np.testing.assert_allclose([np.linalg.norm(one) for one in vectors], 1.0, atol=1e-5)
