"""Tagged words: files of every form, windows of tokens, the task's loss and scores."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import pre_tokenizers
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from quala.compress.losses import divergence
from quala.data.features import TaggedExample
from quala.data.spec import DataSpec
from quala.data.tags import tag_features
from quala.data.task import Outcome
from quala.data.task_tags import NO_TAG, Tags
from quala.data.taskdata import TaskData
from quala.data.tokenize import FastTokenizer
from quala.errors import QualaError
from quala.metrics.glue import compute_metric

NAMES = ("O", "B-A", "I-A")
CONLL = """-DOCSTART- -X- O

the DT O
cat NN B-A
sat NN I-A

on IN O

-DOCSTART- -X- O

mat NN B-A
"""


def spec_of(path: Path, **changes: Any) -> DataSpec:
    sizes: dict[str, Any] = {"search_size": 0, "selection_size": 0, "max_length": 16}
    return DataSpec(task="tags", path=str(path), **{**sizes, "doc_stride": 2, **changes})


def folder_of(tmp_path: Path, text: str, suffix: str = ".txt") -> Path:
    for name in ("train", "test"):
        (tmp_path / f"{name}{suffix}").write_text(text, encoding="utf-8")
    return tmp_path


def data_of(path: Path, tokenizer: Any, **changes: Any) -> TaskData:
    names = changes.pop("names", None)
    spec = spec_of(path, test_split="test", **changes)
    return TaskData(spec, tokenizer, names=names)


def rows(examples: Any) -> list[tuple[Any, ...]]:
    return [(one.words, one.tags, one.document) for one in examples]


def test_conll_files(tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast) -> None:
    data = data_of(folder_of(tmp_path, CONLL), bert_tokenizer)
    assert data.task == Tags(3, names=("O", "B-A", "I-A"))
    assert rows(data.test.examples) == [
        (("the", "cat", "sat"), (0, 1, 2), 1), (("on",), (0,), 1), (("mat",), (1,), 2),
    ]  # fmt: skip
    assert data.task.label_counts(data.test.examples) == {"O": 2, "B-A": 2, "I-A": 1}
    assert data.test.examples[0].article == data.test.examples[1].article


def test_columns_of_conll_files_are_numbers(
    tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = folder_of(tmp_path, "# id 1\nthe\tDT\tO\r\ncat\tNN\tB-A\r\n", ".conll")
    data = data_of(folder, bert_tokenizer, columns={"tags": "2"})
    assert data.task.names == ("DT", "NN")  # type: ignore[attr-defined]
    assert data.task.metrics == ("accuracy", "f1_macro", "f1_weighted")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("the O\ncat NN O\n", "line 2 has 3 columns instead of 2"),
        ("the\ncat\n", "line 1 has 1 columns instead of two or more"),
        ("-DOCSTART- O\n\n", "holds no rows"),
    ],
)
def test_malformed_conll_files(
    text: str, sentence: str, tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(QualaError, match=sentence):
        _ = data_of(folder_of(tmp_path, text), bert_tokenizer).task


def test_json_lines(tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast) -> None:
    lines = [{"tokens": ["the", "cat"], "tags": ["O", "B-A"]}, {"tokens": [], "tags": []}]
    folder = folder_of(tmp_path, "\n".join(map(json.dumps, lines)), ".jsonl")
    data = data_of(folder, bert_tokenizer)
    assert rows(data.test.examples) == [(("the", "cat"), (0, 1), None)]
    assert data.summary()["left_out"] == {
        "train: rows without a word": 1, "test: rows without a word": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"tokens": ["a"], "tags": ["O", "O"]}, "1 words, but 2 tags"),
        ({"tokens": "a", "tags": ["O"]}, "`tokens` must be a list of words"),
        ({"tokens": ["a"], "tags": [-100]}, "numbers from 0"),
        ({"tokens": ["a"], "tags": [1.5]}, "names or of numbers"),
        ({"text": "a", "tags": ["O"]}, r"none of tokens, words.*data\.columns\.tokens"),
    ],
)
def test_malformed_rows(
    row: Any, sentence: str, tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = folder_of(tmp_path, json.dumps(row), ".jsonl")
    with pytest.raises(QualaError, match=sentence):
        _ = data_of(folder, bert_tokenizer).task


def test_numbers_have_the_names_of_the_features(
    tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    table = pa.table({"tokens": [["the", "cat"]], "ner_tags": [[0, 2]]})
    features = {"ner_tags": {"feature": {"names": [*NAMES]}, "_type": "Sequence"}}
    stored = json.dumps({"info": {"features": features}})
    for name in ("train", "test"):
        file = tmp_path / f"{name}.parquet"
        pq.write_table(table.replace_schema_metadata({"huggingface": stored}), file)
    data = data_of(tmp_path, bert_tokenizer)
    assert data.task == Tags(3, names=NAMES)
    assert data.test.examples[0].tags == (0, 2)  # type: ignore[attr-defined]


def test_tags_have_the_order_of_the_model(
    tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = folder_of(tmp_path, CONLL)
    data = data_of(folder, bert_tokenizer, names=("I-A", "B-A", "O", "B-B"))
    assert (data.task.num_labels, data.task.metric) == (4, "f1")
    assert [one.tags for one in data.test.examples] == [(2, 1, 0), (2,), (1,)]  # type: ignore[attr-defined]
    with pytest.raises(QualaError, match=r"those of the model O, B-A: each"):
        _ = data_of(folder, bert_tokenizer, names=("O", "B-A")).task


def test_numbers_without_names_take_those_of_the_options(
    tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    text = json.dumps({"tokens": ["the", "cat", "sat"], "tags": [0, 1, 2]})
    data = data_of(folder_of(tmp_path, text, ".jsonl"), bert_tokenizer, labels=NAMES)
    assert (data.task.names, data.task.metric) == (NAMES, "f1")  # type: ignore[attr-defined]


def test_a_tag_that_train_lacks_is_refused(
    tmp_path: Path, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    (folder_of(tmp_path, CONLL) / "test.txt").write_text("mat NN B-Z\n")
    with pytest.raises(QualaError, match=r"line 1: the tag `B-Z` is not one of train's: O, B-A"):
        _ = data_of(tmp_path, bert_tokenizer).test


def test_options_of_other_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="`group` is not for task `tags`"):
        spec_of(tmp_path, group="query")
    with pytest.raises(QualaError, match="`doc_stride` must be below"):
        spec_of(tmp_path, doc_stride=16)
    with pytest.raises(QualaError, match="`metric` of tags"):
        spec_of(tmp_path, metric="pearson")


def test_first_tokens_are_those_of_transformers(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    words = ("cats", "don't", "sat", "3.5", "the")
    features = tag_features(
        [TaggedExample("0", words, (1, 2, 3, 4, 5))],
        FastTokenizer.of(bert_tokenizer),
        spec_of(Path("none"), max_length=40),
    )
    encoded = bert_tokenizer([*words], is_split_into_words=True)
    assert features.input_ids.tolist() == encoded["input_ids"]
    owners, firsts = encoded.word_ids(), {}
    for place, word in enumerate(owners):
        if word is not None:
            firsts.setdefault(word, place)
    assert features.words is not None
    assert {int(word): place for place, word in enumerate(features.words) if word >= 0} == firsts
    assert features.labels is not None
    labels = features.labels[0]
    assert labels.shape == (40,)
    assert [int(labels[place]) for place in firsts.values()] == [1, 2, 3, 4, 5]
    assert (labels == NO_TAG).sum() == 35


@pytest.mark.parametrize("trimmed", [True, False])
def test_blanks_inside_tokens(roberta_tokenizer: PreTrainedTokenizerFast, trimmed: bool) -> None:
    backend = roberta_tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trimmed)
    features = tag_features(
        [TaggedExample("0", ("né", "", "b"), (1, 2, 3))],
        FastTokenizer.of(roberta_tokenizer),
        spec_of(Path("none")),
    )
    assert features.words is not None
    begun = [int(word) for word in features.words if word >= 0]
    assert begun == [0, 2]  # an empty word has no token
    pieces = roberta_tokenizer.convert_ids_to_tokens(features.input_ids.tolist())
    assert pieces[int(np.flatnonzero(features.words == 0)[0])] == "n"


@pytest.fixture
def long_sentence(tokenizer: PreTrainedTokenizerFast) -> Outcome:
    """A sentence of several windows, whose logits say a tag of each word in each window."""
    example = TaggedExample("0", ("the", "cat", "sat", "on", "mat") * 4, (0, 1, 2, 0, 1) * 4)
    spec = spec_of(Path("none"), max_length=10, doc_stride=4)
    features = tag_features([example], FastTokenizer.of(tokenizer), spec)
    assert len(features) > 2
    assert features.words is not None
    outputs = []
    for row in range(len(features)):
        words = features.words[features.offsets[row] : features.offsets[row + 1]]
        edge = np.minimum(np.arange(len(words)), np.arange(len(words))[::-1])
        logits = np.zeros((len(words), 3))
        for place, word in enumerate(words):
            # Right where the word is far from the window's ends, wrong at its edge.
            right = edge[place] > 2
            tag = example.tags[word] if right else 2 - example.tags[word]
            logits[place, tag if word >= 0 else 1] = 1.0
        outputs.append(logits)
    return Outcome([example], features, outputs)


def test_windows_are_merged_by_word(long_sentence: Outcome) -> None:
    examples, (tags,) = Tags(3, names=NAMES)._tagged(long_sentence)
    features = long_sentence.features
    assert features.words is not None
    best: dict[int, int] = {}
    for row in range(len(features)):
        words = features.words[features.offsets[row] : features.offsets[row + 1]]
        for place, word in enumerate(words.tolist()):
            if word >= 0:
                best[word] = max(best.get(word, 0), min(place, len(words) - 1 - place))
    assert {*best} == {*range(20)}  # each word begins in some window
    right = [int(tag) == gold for tag, gold in zip(tags, examples[0].tags, strict=True)]  # type: ignore[attr-defined]
    assert right == [best[word] > 2 or gold == 1 for word, gold in enumerate(examples[0].tags)]  # type: ignore[attr-defined]


def test_scores_and_tables(bert_tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [
        TaggedExample("a", ("the", "cat", "sat"), (0, 1, 2)), TaggedExample("b", ("mat",), (1,)),
    ]  # fmt: skip
    spec = spec_of(Path("none"))
    features = tag_features(examples, FastTokenizer.of(bert_tokenizer), spec)
    said = {0: [0, 1, 0], 1: [1]}
    outputs = []
    for row in range(2):
        logits = np.zeros((int(features.lengths[row]), 3))
        for place, tag in enumerate(said[row], start=1):
            logits[place, tag] = 1
        outputs.append(logits)
    outcome, task = Outcome(examples, features, outputs), Tags(3, names=NAMES)
    scores, predictions = task.judge(outcome)
    assert predictions == {"a": "O B-A O", "b": "B-A"}
    assert scores == pytest.approx({"f1": 50, "precision": 50, "recall": 50, "accuracy": 75})
    sample = task.samples(outcome, predictions)["f1"]
    assert (sample.examples, sample.lowest) == (2, 0.0)
    assert np.isin(sample.values, (0.0, 50.0, 100.0)).all()
    assert task.per_class(outcome) == [
        {"class": "A", "precision": 50.0, "recall": 50.0, "f1": 50.0, "support": 2}
    ]
    words = Tags(3, names=("x", "y", "z"))
    assert words.judge(outcome)[0]["f1_macro"] == pytest.approx(
        compute_metric("f1_macro", [0, 1, 0, 1], [0, 1, 2, 1])
    )
    assert [one["class"] for one in words.per_class(outcome)] == ["x", "y", "z"]


def test_losses_count_tagged_and_real_tokens() -> None:
    task = Tags(3, names=NAMES)
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, 2, 4, 3, generator=generator)
    labels = torch.full((2, 6), NO_TAG)
    labels[0, 1], labels[1, 2] = 2, 1
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    loss = task.loss(logits, {"labels": labels})  # type: ignore[typeddict-item]
    picked = torch.stack([logits[0, 1], logits[1, 2]])
    torch.testing.assert_close(loss, functional.cross_entropy(picked, torch.tensor([2, 1])))
    none = task.loss(logits, {"labels": torch.full((2, 6), NO_TAG)})  # type: ignore[typeddict-item]
    assert float(none) == 0
    soft = partial(divergence, temperature=1.0, direction="forward")
    changed = logits.clone()
    changed[0, 3] += 5 * torch.randn(3, generator=generator)  # padding
    found = [task.soft_loss(one, teacher, mask, soft) for one in (logits, changed)]
    torch.testing.assert_close(*found)
    real = functional.kl_div(
        logits[mask.bool()].log_softmax(-1), teacher[mask.bool()].softmax(-1), reduction="sum"
    )
    torch.testing.assert_close(found[0], real / 7)
