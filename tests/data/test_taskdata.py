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


@pytest.mark.parametrize(("size", "count"), [(None, 6), (10, 10), (0.25, 15)])
def test_the_test_slice_of_a_single_file_has_the_size_asked_for(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, size: float | None, count: int
) -> None:
    write(tmp_path / "own.json", list("ab" * 30))
    data = TaskData(own(tmp_path / "own.json", test_size=size), tokenizer)
    assert len(data.test.examples) == count
    most = (60 if size is None else 60 - count) // 5
    assert (len(data.search.examples), len(data.selection.examples)) == (most, most)
    assert len(data.train.examples) == 60 - count - 2 * most
    assert (
        f"`own.json` is one file: {count} of its 60 examples are the test slice" in data.notes[0]
    )


def test_a_test_size_is_refused_where_there_are_splits(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(QualaError, match=r"`data.test_size` is for a single file"):
        TaskData(squad(folder, test_size=5), tokenizer)


def write(file: Path, labels: list[Any], *, first: int = 0) -> None:
    rows = [{"text": f"the cat {n}", "label": label} for n, label in enumerate(labels, first)]
    file.write_text(json.dumps(rows))


def own(path: Path, **fields: Any) -> DataSpec:
    return DataSpec(task="glue", path=str(path), **fields)


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """Two classes in train, of which test has one and one in another spelling."""
    write(tmp_path / "train.json", ["negative", "positive"] * 10)
    write(tmp_path / "validation.json", ["positive", "Negative", "positive"], first=50)
    return tmp_path


def test_classes_have_the_order_of_the_model(
    reviews: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    plain, ordered = (
        TaskData(own(reviews), tokenizer, names=names)
        for names in (None, ("Positive", "neutral", "Negative"))
    )
    assert (plain.task.num_labels, ordered.task.num_labels) == (2, 3)
    assert ordered.task.names == ("Positive", "neutral", "Negative")
    assert [one.label for one in plain.test.examples] == [1, 0, 1]
    assert [one.label for one in ordered.test.examples] == [0, 2, 0]
    for name in ("train", "search", "selection"):
        pairs = zip(getattr(plain, name).examples, getattr(ordered, name).examples, strict=True)
        assert {(a.id == b.id, a.label, b.label) for a, b in pairs} == {(True, 0, 2), (True, 1, 0)}


def test_indices_take_the_names_of_the_model(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write(tmp_path / "train.json", [0, 2] * 10)
    write(tmp_path / "validation.json", [2, 1, 0], first=50)
    data = TaskData(own(tmp_path), tokenizer, names=("entailment", "neutral", "contradiction"))
    assert [one.label for one in data.test.examples] == [2, 1, 0]
    outputs = [np.eye(3)[row] for row in (2, 1, 1)]
    scores, said = data.judge(data.test, outputs)
    assert said == {"0": "contradiction", "1": "neutral", "2": "neutral"}
    assert scores["accuracy"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("shards", [1, 2])
def test_the_names_in_parquet_of_the_hub_are_found_in_the_model(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, shards: int
) -> None:
    import datasets

    rows = [{"text": f"the cat {number}", "label": number % 3} for number in range(30)]
    kind = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    split = datasets.Dataset.from_list(rows).cast_column("label", kind)
    for shard in range(shards):
        for name in ("train", "validation"):
            part = split.shard(shards, shard)
            part.to_parquet(tmp_path / f"{name}-{shard:05}-of-{shards:05}.parquet")
    names = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
    data = TaskData(own(tmp_path), tokenizer, names=names)
    assert {one.label for one in data.test.examples if one.text.endswith("cat 0")} == {2}
    assert "The labels 2, 1, 0 are called CONTRADICTION, NEUTRAL, ENTAILMENT." in data.notes


def test_a_number_that_only_test_has_is_found_too(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write(tmp_path / "train.json", [3, 1] * 10)
    write(tmp_path / "validation.json", [2, 3, 1], first=50)
    data = TaskData(own(tmp_path), tokenizer, names=("3 stars", "2 stars", "1 star"))
    assert [one.label for one in data.test.examples] == [1, 0, 2]


def test_booleans_are_one_label_in_every_format(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write(tmp_path / "train.json", [False, True] * 10)
    (tmp_path / "validation.csv").write_text("text,label\na dog,True\na cow,FALSE\n")
    for names, labels in ((None, [1, 0]), (("True", "False"), [0, 1]), (("0", "1"), [1, 0])):
        data = TaskData(own(tmp_path, f1_class="true"), tokenizer, names=names)
        assert [one.label for one in data.test.examples] == labels
        assert data.task.positive == labels[0]


def test_data_labels_name_the_outputs(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "train.json", [1, 0] * 10)
    write(tmp_path / "validation.json", ["positive", "negative"], first=50)
    names = ("negative", "positive")
    with pytest.raises(QualaError, match="`positive` is not one of train's labels: 0, 1"):
        _ = TaskData(own(tmp_path), tokenizer).test
    write(tmp_path / "validation.json", ["0", 1.0], first=50)
    data = TaskData(own(tmp_path, labels=names), tokenizer)
    assert data.task.names == names
    assert [one.label for one in data.test.examples] == [0, 1]


def test_labels_of_another_model_are_refused(
    reviews: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(QualaError, match="negative, positive, those of the model spam, ham"):
        _ = TaskData(own(reviews), tokenizer, names=("spam", "ham")).task


def test_one_class_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "train.json", ["good"] * 10)
    write(tmp_path / "validation.json", ["good"], first=50)
    with pytest.raises(QualaError, match="at least two labels, train has good only"):
        _ = TaskData(own(tmp_path), tokenizer).task
    assert TaskData(own(tmp_path), tokenizer, names=("bad", "good")).train.examples[0].label == 1


@pytest.mark.parametrize(
    ("negative", "positive", "fields"),
    [
        (0, 1, {}),
        ("not_equivalent", "equivalent", {}),
        ("ham", "spam", {"f1_class": "spam"}),
        ("a", "b", {"f1_class": "1"}),
    ],
)
def test_f1_does_not_depend_on_how_classes_are_called(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    negative: Any,
    positive: Any,
    fields: dict[str, str],
) -> None:
    labels = [positive, positive, negative]
    write(tmp_path / "train.json", labels * 5)
    write(tmp_path / "validation.json", labels, first=50)
    data = TaskData(own(tmp_path, subset="mrpc", **fields), tokenizer)
    most = data.task.names.index(str(positive))
    scores = data.score(data.test, [np.eye(2)[most]] * 3)
    assert list(scores) == ["f1", "accuracy", "f1_macro", "f1_weighted"]
    assert [scores[name] for name in ("f1", "f1_macro")] == pytest.approx([80, 40])
    assert f"F1 counts `{positive}` as the positive class." in data.notes


def test_a_class_of_f1_adds_f1(reviews: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = TaskData(own(reviews, f1_class="negative"), tokenizer)
    assert data.task.metrics == ("accuracy", "f1_macro", "f1_weighted", "f1")
    assert data.task.positive == 0


def test_a_metric_can_be_chosen(reviews: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    task = TaskData(own(reviews, metric="f1_macro"), tokenizer).task
    assert (task.metric, task.additive) == ("f1_macro", False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ("a", "b")}, "`data.labels` and `data.f1_class` are for classes"),
        ({"metric": "f1"}, "`data.metric` must be accuracy here, got f1"),
    ],
)
def test_options_that_a_format_of_ones_own_ignores_are_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, fields: dict[str, Any], message: str
) -> None:
    topics = [{"text": f"cat {number}", "topics": "mat cat"} for number in range(9)]
    (tmp_path / "train.json").write_text(json.dumps(topics))
    spec = DataSpec(task="data.own_tasks.TopicsFormat", path=str(tmp_path), **fields)
    with pytest.raises(QualaError, match=message):
        _ = TaskData(spec, tokenizer).task


def test_the_summary_counts_rows_and_labels(
    reviews: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write(reviews / "train.json", ["negative", "positive"] * 10 + ["", "-1"])
    data = TaskData(own(reviews, unlabeled="drop", max_train=10, f1_class="positive"), tokenizer)
    assert data.summary()["slices"] == {}
    data.save_summary(tmp_path, whole=True)
    found = json.loads((tmp_path / "data.json").read_text())
    assert found["files"] == {
        "train": ["train.json"], "test": ["validation.json"],
    }  # fmt: skip
    assert found["slices"] == {"train": 10, "search": 4, "selection": 4, "test": 3}
    assert found["labels"]["test"] == {"negative": 1, "positive": 2}
    assert sum(found["labels"]["train"].values()) == 10
    assert found["left_out"] == {
        "train: rows without a label": 2, "train: beyond data.max_train": 2,
    }  # fmt: skip
    assert "F1 counts `positive` as the positive class." in found["notes"]


def test_the_summary_of_values_and_of_questions(
    folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write(tmp_path / "rows.json", [0.5, 1.0, 3.0] * 10)
    found = TaskData(own(tmp_path / "rows.json"), tokenizer).summary(whole=True)
    assert (found["labels"]["train"]["min"], found["labels"]["train"]["max"]) == (0.5, 3.0)
    assert TaskData(squad(folder), tokenizer).summary(whole=True)["labels"] == {}


@pytest.mark.parametrize("labels", [["good", "fine"], ["good", ""]])
def test_labels_of_test_are_checked_before_the_training(
    reviews: Path,
    tokenizer: PreTrainedTokenizerFast,
    labels: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(reviews / "validation.json", ["positive", labels[1]], first=50)
    with pytest.raises(QualaError, match=r"validation.json`, record 2"):
        _ = TaskData(own(reviews), tokenizer).train
    assert TaskData(own(reviews), tokenizer).search.examples
    monkeypatch.setattr("quala.data.taskdata.EARLY_TEST", 10)
    assert TaskData(own(reviews), tokenizer).train.examples


@pytest.mark.parametrize(("train", "test"), [("validation", "dev"), ("train", "Train")])
def test_one_file_is_not_both_splits(
    folder: Path, tokenizer: PreTrainedTokenizerFast, train: str, test: str
) -> None:
    spec = squad(folder, train_split=train, test_split=test)
    with pytest.raises(QualaError, match="are one file"):
        _ = TaskData(spec, tokenizer).train


def test_the_first_look_at_train_says_what_is_read(
    reviews: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "quala.data.taskdata")
    _ = TaskData(own(reviews), tokenizer).train
    said = [record.getMessage() for record in caplog.records]
    assert "Data: train from train.json, test from validation.json." in said
    assert "Slices by text with data.seed=0: train 12, search 4, selection 4." in said
    assert "Test: 3 examples, labels negative 1, positive 2." in said
    assert any(one.startswith("Train: 12 examples, labels negative ") for one in said)


def test_a_part_of_the_test_split_is_told_apart_from_it(
    reviews: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "quala.data.taskdata")
    _ = TaskData(own(reviews, max_test=1), tokenizer).test
    said = [record.getMessage() for record in caplog.records]
    assert "Test split: 3 examples, labels negative 1, positive 2." in said
    assert any(one.startswith("Test: 1 examples, labels ") for one in said)


def notes(spec: DataSpec, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    found: list[str] = TaskData(spec, tokenizer).summary(whole=True)["notes"]
    return found


def test_texts_of_test_that_train_has_are_counted(
    reviews: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    assert not any("train too" in note for note in notes(own(reviews), tokenizer))
    caplog.set_level("INFO", "quala.data.taskdata")
    text = (reviews / "train.json").read_text()
    (reviews / "validation.json").write_text(text.replace("the cat 1", "The  Cat 1"))
    _ = TaskData(own(reviews), tokenizer).train
    said = "20 of 20 test examples stand in train too (first: `the cat 0`)."
    assert said in caplog.text
    assert said in notes(own(reviews), tokenizer)


def test_questions_and_passages_of_test_that_train_has_are_counted(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    seen = [row | {"id": f"t{row['id']}"} for row in rows(4)]
    seen[0]["question"], seen[1]["question"] = "where?", "What sat? "
    (folder / "validation.json").write_text(json.dumps([*seen, *rows(6, first=100)]))
    assert notes(squad(folder), tokenizer)[-2:] == [
        "3 of 10 test examples stand in train too (first: `What sat? `).",
        "4 of 10 test examples share a text with train.",
    ]


def test_sentences_of_pairs_that_train_has_are_counted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    pairs = [
        {"premise": f"cat {n // 2}", "hypothesis": f"mat {n}", "label": n % 2} for n in range(40)
    ]
    (tmp_path / "train.json").write_text(json.dumps(pairs))
    new = [{"premise": "dog", "hypothesis": "mat 3", "label": 1}, {**pairs[0], "premise": "dog"}]
    other = {"premise": "dog", "hypothesis": "log", "label": 1}
    (tmp_path / "validation.json").write_text(json.dumps([*new, other]))
    found = notes(own(tmp_path), tokenizer)
    assert found[-1] == "2 of 3 test examples share a text with train."
    assert found[-3].endswith("of 8 search examples share a text with train.")
    (tmp_path / "one.json").write_text(json.dumps(pairs))
    data = TaskData(own(tmp_path / "one.json"), tokenizer)
    assert not any("share a text" in note for note in data.summary(whole=True)["notes"])
    first = [{one.text for one in getattr(data, name).examples} for name in ("train", "test")]  # type: ignore[attr-defined]
    assert first[1]
    assert not first[0] & first[1]


def test_questions_about_one_passage_are_cut_and_noted(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = [rows(1)[0] | {"id": str(n), "question": f"what is {n}?"} for n in range(60)]
    (folder / "train.json").write_text(json.dumps(asked))
    found = TaskData(squad(folder), tokenizer).summary(whole=True)
    assert found["slices"] == {"train": 36, "search": 12, "selection": 12, "test": 12}
    assert found["notes"][-3:] == [
        "The slices share passages, but no question: the passages are too few.",
        "12 of 12 search examples share a text with train.",
        "12 of 12 selection examples share a text with train.",
    ]


def test_empty_texts_are_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "train.json", [0, 1] * 10)
    text = (tmp_path / "train.json").read_text()
    texts = ('"the cat 3"', '" "'), ('"the cat 8"', '"\\u200b"')
    for old, new in texts:
        text = text.replace(old, new)
    (tmp_path / "validation.json").write_text(text.replace("the cat", "a dog"))
    (tmp_path / "train.json").write_text(text)
    assert "2 of 20 rows of `train` have an empty text (first: row 4)." in notes(
        own(tmp_path), tokenizer
    )
    (tmp_path / "validation.json").write_text('[{"text": " ", "label": 1}]')
    with pytest.raises(QualaError, match="No row of `validation` has a text"):
        _ = TaskData(own(tmp_path), tokenizer).test


def test_f1_of_three_classes_is_refused_before_the_training(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write(tmp_path / "train.json", [0, 1, 2] * 10)
    with pytest.raises(QualaError, match="`f1` is for two classes, the data have 3"):
        _ = TaskData(own(tmp_path, subset="mrpc"), tokenizer).task


def test_a_summary_without_train_says_so(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (folder / "train.json").unlink()
    data = TaskData(squad(folder), tokenizer)
    assert len(data.test.examples) == 12
    found = data.summary(whole=True)
    assert found["slices"] == {"test": 12}
    assert "has no `train` split" in found["notes"][0]


def test_what_is_lost_is_counted(
    folder: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    titles = ["a"] * 250 + ["b"] * 250 + ["c"] * 1000
    both = [row | {"title": title} for row, title in zip(rows(1500), titles, strict=True)]
    (folder / "train.json").write_text(json.dumps(both))
    caplog.set_level("INFO", "quala.data.taskdata")
    data = TaskData(squad(folder, search_size=200, selection_size=200), tokenizer)
    assert len(data.train.examples) == 1000
    assert (
        "Slices by article with data.seed=0: train 1000, search 200, selection 200." in caplog.text
    )
    assert (
        "100 of 1500 examples are in no slice: others of their article are in search"
        in caplog.text
    )
    assert data.summary()["left_out"] == {
        "other examples of articles in search": 50,
        "other examples of articles in selection": 50,
    }


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


def test_what_tokenizing_cuts_is_said_of_each_slice(
    folder: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "quala.data.taskdata")
    data = TaskData(squad(folder, max_question_length=1), tokenizer)
    (cut,) = [note for note in data.test.features.notes if "max_question_length" in note]
    assert f"test: {cut}" in caplog.text
    assert f"test: {cut}" in data.summary()["notes"]
