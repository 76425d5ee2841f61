"""Pairs of texts for embeddings, and rankings of the items of a query."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import PreTrainedTokenizerFast

from quala.compress.losses import divergence
from quala.data.features import ClassificationExample
from quala.data.spec import DataSpec
from quala.data.task import Classes, Outcome, Value
from quala.data.task_embed import Embedding
from quala.data.taskdata import TaskData
from quala.data.tokenize import FastTokenizer, paired_features
from quala.errors import QualaError
from quala.metrics.ranking import query_scores

SIZES: dict[str, Any] = {"search_size": 0, "selection_size": 0, "max_length": 16}


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_the_texts_of_a_pair_are_two_features(
    tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    pairs = [("the cat", "sat", 1.5), ("on", "the mat", 5), ("cat", "what", 0)]
    write(
        tmp_path, [dict(zip(("text_a", "text_b", "score"), pair, strict=True)) for pair in pairs]
    )
    spec = DataSpec(task="embed", path=str(tmp_path), test_split="test", pooling="cls", **SIZES)
    data = TaskData(spec, bert_tokenizer)
    assert data.task == Embedding(pooling="cls")
    assert data.task.label_counts(data.test.examples)["max"] == 5
    features = data.test.features
    assert features.example.tolist() == [0, 0, 1, 1, 2, 2]
    assert features.lengths.tolist() == [4, 3, 3, 4, 3, 3]
    assert features.labels is None


def test_single_texts_are_refused(tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast) -> None:
    write(tmp_path, [{"text": "the cat", "label": 1.5}] * 3)
    spec = DataSpec(task="embed", path=str(tmp_path), test_split="test", **SIZES)
    with pytest.raises(QualaError, match="pairs of texts"):
        _ = TaskData(spec, bert_tokenizer).train


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("pooling", "max", "`pooling` must be|unknown `pooling`|pooling"),
        ("metric", "accuracy", "metric` of embeddings"),
        ("labels", ("a", "b"), "`labels` is not for task `embed`"),
    ],
)
def test_options_that_do_not_fit(option: str, value: Any, sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        DataSpec(task="embed", path="x", **{option: value})


def test_scores_are_of_cosines_in_any_order(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    rng = np.random.default_rng(0)
    examples = [
        ClassificationExample(str(number), "the cat", "sat on", float(label))
        for number, label in enumerate(rng.random(12))
    ]
    features = paired_features(examples, FastTokenizer.of(bert_tokenizer), max_length=16)
    vectors = rng.normal(size=(24, 8))
    rows = rng.permutation(24).tolist()
    outcome = Outcome(examples, features, [vectors[row] for row in rows], rows)
    pairs = vectors.reshape(12, 2, 8)
    lengths = np.linalg.norm(pairs, axis=2).prod(axis=1)
    cosines = (pairs[:, 0] * pairs[:, 1]).sum(axis=1) / lengths
    gold = [one.label for one in examples]
    scores, predictions = Embedding().judge(outcome)
    assert scores["spearman"] == pytest.approx(100 * spearmanr(cosines, gold).statistic, abs=1e-4)
    assert float(predictions["3"]) == pytest.approx(cosines[3])
    assert Embedding().samples(outcome, predictions)["spearman"].lowest == -100


def test_the_loss_is_0_for_equal_directions_only() -> None:
    soft = partial(divergence, temperature=1.0, direction="forward")
    generator = torch.Generator().manual_seed(0)
    teacher, other = torch.randn(2, 5, 6, generator=generator)
    mask, task = torch.ones(5, 3), Embedding()
    assert float(task.soft_loss(3 * teacher, teacher, mask, soft)) == pytest.approx(0, abs=1e-5)
    assert float(task.soft_loss(other, teacher, mask, soft)) > 0.5
    # A rotation keeps the relations: a teacher of another width gives these alone.
    turned = teacher @ torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    wide = torch.nn.functional.pad(turned, (0, 2))
    assert float(task.soft_loss(teacher, wide, mask, soft)) == pytest.approx(0, abs=1e-5)
    assert float(task.soft_loss(turned, teacher, mask, soft)) > 0.1
    with pytest.raises(QualaError, match="no labels to learn"):
        task.loss(teacher, {})  # type: ignore[typeddict-item]


@pytest.mark.parametrize("group", ["query", None])
def test_rankings_of_classes(
    group: str | None, tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [
        {"query": number // 3, "text_a": f"the {number // 3}", "text_b": f"cat {number}",
         "label": ("no", "yes")[number % 3 == 2]}
        for number in range(12)
    ]  # fmt: skip
    write(tmp_path, rows)
    spec = DataSpec(
        task="glue", path=str(tmp_path), test_split="test", metric="mrr", group=group, **SIZES
    )
    data = TaskData(spec, bert_tokenizer)
    task, part = data.task, data.test
    assert isinstance(task, Classes)
    assert task.metrics[0] == "mrr"
    assert ("ndcg_10" in task.metrics, task.additive) == (True, False)
    assert len({one.article for one in part.examples}) == 4
    logits = np.random.default_rng(0).normal(size=(12, 2))
    outcome = Outcome(part.examples, part.features, list(logits))
    scores, _ = task.judge(outcome)
    queries = [number // 3 for number in range(12)]
    expected = query_scores(
        "mrr", logits[:, 1] - logits[:, 0], [row["label"] == "yes" for row in rows], queries
    )
    assert scores["mrr"] == pytest.approx(expected.mean())
    sample = task.samples(outcome, {})["mrr"]
    assert sample.values == pytest.approx(expected)


def test_grades_of_relevance_are_numbers(
    tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    write(tmp_path, [{"text_a": "the", "text_b": str(n), "label": n % 3} for n in range(9)])
    spec = DataSpec(task="glue", path=str(tmp_path), test_split="test", metric="ndcg_10", **SIZES)
    data = TaskData(spec, bert_tokenizer)
    assert data.task.metrics[0] == "ndcg_10"
    assert isinstance(data.task, Value)


def test_a_group_adds_rankings_to_the_metrics(
    tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [{"q": n // 2, "text_a": "the", "text_b": str(n), "label": n % 4 / 2} for n in range(8)]
    write(tmp_path, rows)
    spec = DataSpec(task="glue", path=str(tmp_path), test_split="test", group="q", **SIZES)
    data = TaskData(spec, bert_tokenizer)
    assert isinstance(data.task, Value)
    assert data.task.metrics == ("pearson_spearman", "mrr", "ndcg_10")
    part = data.test
    outcome = Outcome(part.examples, part.features, [np.array([float(n)]) for n in range(8)])
    scores, _ = data.task.judge(outcome)
    assert (scores["mrr"], scores["ndcg_10"]) == (100.0, 100.0)
    other = DataSpec(task="glue", path=str(tmp_path), test_split="test", group="qq", **SIZES)
    with pytest.raises(QualaError, match=r"data\.group"):
        _ = TaskData(other, bert_tokenizer).train
