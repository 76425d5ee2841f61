from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from quala.data.spec import DataSpec
from quala.data.taskdata import Slice, TaskData
from quala.errors import QualaError

SMALL = {"max_length": 40, "doc_stride": 8, "max_question_length": 16, "max_answer_length": 40}


def rows(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "id": str(number),
            "title": f"title {number // 4}",
            "context": f"item {number} sat on mat {number * 7} and the cat on {number}.",
            "question": "what sat?",
            "answers": {"text": [f"mat {number * 7}"], "answer_start": [13 + len(str(number))]},
        }
        for number in range(first, first + count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.json").write_text(json.dumps(rows(60)))
    (tmp_path / "validation.json").write_text(json.dumps(rows(12, first=100)))
    return tmp_path


def squad(path: Path, **fields: Any) -> DataSpec:
    return DataSpec(task="squad", path=str(path), **{**SMALL, **fields})


def perfect(part: Slice) -> list[np.ndarray]:
    outputs = [np.zeros((n, 2), np.float32) for n in part.features.lengths]
    for logits, (start, end) in zip(outputs, part.features.labels):
        logits[start, 0] = logits[end, 1] = 9
    return outputs


def glue(path: Path, labels: list[float], **fields: Any) -> DataSpec:
    sentences = [{"text": f"the cat {n}", "label": label} for n, label in enumerate(labels)]
    (path / "train.json").write_text(json.dumps(sentences * 5))
    (path / "validation.json").write_text(json.dumps(sentences))
    return DataSpec(task="glue", path=str(path), search_size=1, selection_size=1, **fields)


def test_slices_have_the_sizes_asked_for(
    folder: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    spec = squad(folder, search_size=6, selection_size=5, max_train=20, max_test=10)
    data = TaskData(spec, bert_tokenizer)
    parts = (data.train, data.search, data.selection, data.test)
    assert [len(part.examples) for part in parts] == [20, 6, 5, 10]
    assert [part.name for part in parts] == ["train", "search", "selection", "test"]


def test_slices_never_take_more_than_a_fifth_of_train(
    folder: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = TaskData(squad(folder), bert_tokenizer)
    assert (len(data.search.examples), len(data.selection.examples)) == (12, 12)


def test_features_are_built_once(folder: Path, bert_tokenizer: PreTrainedTokenizerFast) -> None:
    data = TaskData(squad(folder), bert_tokenizer)
    assert data.test.features is data.test.features


def test_right_answers_score_full_marks(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = TaskData(squad(folder), tokenizer)
    assert data.task.kind == "question-answering"
    scores = data.score(data.test, perfect(data.test))
    assert scores == {"f1": 100.0, "exact_match": 100.0}


def test_example_scores_average_to_the_metric(
    folder: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = TaskData(squad(folder), bert_tokenizer)
    rng = np.random.default_rng(0)
    outputs = [rng.standard_normal((n, 2)) for n in data.test.features.lengths]
    scores = data.example_scores(data.test, outputs)
    assert len(scores) == len(data.test.examples)
    assert scores.mean() == pytest.approx(data.score(data.test, outputs)["f1"])


def test_scores_of_some_rows_are_those_of_their_examples(
    folder: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = TaskData(squad(folder), bert_tokenizer)
    rng = np.random.default_rng(0)
    outputs = [rng.standard_normal((n, 2)) for n in data.test.features.lengths]
    chosen = data.test.features.rows_of([7, 2]).tolist()[::-1]
    part = data.example_scores(data.test, [outputs[row] for row in chosen], chosen)
    assert part.tolist() == data.example_scores(data.test, outputs)[[2, 7]].tolist()


def test_a_single_file_gives_all_slices(
    folder: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = TaskData(squad(folder / "train.json"), bert_tokenizer)
    parts = (data.train, data.search, data.selection, data.test)
    ids = [example.id for part in parts for example in part.examples]
    assert all(part.examples for part in parts)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("labels", "subset", "kind", "metric"),
    [
        ([0, 1, 0, 1], "cola", "classification", "matthews"),
        ([0, 1, 2, 1], None, "classification", "accuracy"),
        ([0.5, 1.0, 4.5, 2.0], None, "regression", "pearson_spearman"),
    ],
)
def test_glue_tasks_are_read_off_their_labels(
    tmp_path: Path,
    bert_tokenizer: PreTrainedTokenizerFast,
    labels: list[float],
    subset: str | None,
    kind: str,
    metric: str,
) -> None:
    data: TaskData = TaskData(glue(tmp_path, labels, subset=subset), bert_tokenizer)
    assert (data.task.kind, data.task.metric) == (kind, metric)
    outputs = [
        np.array([label]) if kind == "regression" else np.eye(data.task.num_labels)[int(label)]
        for label in labels
    ]
    scores = data.score(data.test, outputs)
    assert next(iter(scores)) == metric
    assert scores[metric] == pytest.approx(100, abs=1e-3)


def test_example_scores_of_classes_say_right_or_wrong(
    tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = TaskData(glue(tmp_path, [0, 1, 0, 1]), bert_tokenizer)
    outputs = [np.array([1.0, 0.0])] * 4
    assert data.example_scores(data.test, outputs).tolist() == [100, 0, 100, 0]


def test_correlations_have_no_example_scores(
    tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = TaskData(glue(tmp_path, [0.5, 1.5, 2.5]), bert_tokenizer)
    with pytest.raises(QualaError, match="no mean over examples"):
        data.example_scores(data.test, [np.zeros(1)] * 3)


def test_wrong_numbers_of_outputs_are_refused(
    folder: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = TaskData(squad(folder), bert_tokenizer)
    with pytest.raises(QualaError, match="Expected the outputs of"):
        data.score(data.test, [])
