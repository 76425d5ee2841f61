"""Triples: what is read, which false ones are drawn, and what each is ranked among."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quala.data.features import ClassificationExample
from quala.data.slices import data_fingerprint
from quala.data.spec import DataSpec
from quala.data.taskdata import TaskData
from quala.errors import QualaError

Named = tuple[str, str]
ENTITIES = [f"the_{letter}" for letter in "abcdefgh"]
TRAIN = [(one, "part_of", other) for one, other in pairwise(ENTITIES)]
VALID = [("the_a", "part_of", "the_c")]
TEST = [("the_a", "part_of", "the_d"), ("the_h", "part_of", "the_a")]


def lines(triples: list[tuple[str, ...]]) -> str:
    return "".join("\t".join(one) + "\n" for one in triples)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A chain of eight entities, a fact to validate and two to test."""
    for name, triples in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        (tmp_path / f"{name}.txt").write_text(lines(triples))
    return tmp_path


def spec_of(path: Path, **changes: Any) -> DataSpec:
    sizes: dict[str, Any] = {"search_size": 0, "selection_size": 0, "max_length": 16}
    return DataSpec(task="triples", path=str(path), test_split="test", **{**sizes, **changes})


@pytest.fixture
def read(graph: Path, bert_tokenizer: Any) -> Any:
    return lambda **changes: TaskData(spec_of(graph, **changes), bert_tokenizer)


def texts(triple: tuple[str, ...]) -> Named:
    head, relation, tail = (part.replace("_", " ") for part in triple[:3])
    return f"{head}: {relation}", tail


def pairs(examples: Any, label: int) -> list[Named]:
    return [(one.text, one.text_pair) for one in examples if one.label == label]


def corruptions(triple: tuple[str, ...]) -> set[Named]:
    head, relation, tail = triple
    others = [(one, relation, tail) for one in ENTITIES] + [(head, relation, e) for e in ENTITIES]
    return {texts(one) for one in others}


@pytest.mark.parametrize("negatives", [None, 3])
def test_false_triples_have_another_head_or_tail(read: Any, negatives: int | None) -> None:
    data = read(negatives=negatives)
    for part, own, known in (("train", TRAIN, TRAIN), ("test", TEST, TRAIN + VALID + TEST)):
        examples = getattr(data, part).examples
        assert pairs(examples, 1) == [texts(one) for one in own]
        false = pairs(examples, 0)
        assert len(false) == len(set(false)) == (negatives or 1) * len(own)
        assert not set(false) & {texts(one) for one in known}
        for number, triple in enumerate(own):
            drawn = {(one.text, one.text_pair) for one in examples if one.group == str(number)}
            assert len(drawn) == 1 + (negatives or 1)
            assert drawn <= corruptions(triple)


def test_false_triples_of_train_do_not_tell_what_is_tested(read: Any) -> None:
    found: set[Named] = set()
    for seed in range(30):
        found |= set(pairs(read(negatives=5, seed=seed).train.examples, 0))
    assert {texts(TEST[0]), texts(VALID[0])} <= found


def test_a_triple_without_enough_false_ones_has_all(read: Any) -> None:
    examples = read(negatives=100).train.examples
    every = set().union(*(corruptions(one) for one in TRAIN)) - {texts(one) for one in TRAIN}
    assert set(pairs(examples, 0)) == every


@pytest.mark.parametrize("candidates", [None, 3])
def test_rankings_are_filtered(read: Any, candidates: int | None) -> None:
    data = read(metric="mrr", candidates=candidates)
    known = {texts(one) for one in TRAIN + VALID + TEST}
    for number, (head, relation, tail) in enumerate(TEST):
        queries = {
            "head": {texts((one, relation, tail)) for one in ENTITIES},
            "tail": {texts((head, relation, one)) for one in ENTITIES},
        }
        for side, every in queries.items():
            group = [one for one in data.test.examples if one.group == f"{number} {side}"]
            assert pairs(group, 1) == [texts((head, relation, tail))]
            others = pairs(group, 0)
            assert len(others) == len(set(others))
            if candidates is None:
                assert set(others) == every - known
            else:
                assert len(others) == min(candidates, len(every - known))
                assert set(others) <= every - known
    assert any("ranked among" in note for note in data.notes)
    assert len(pairs(data.train.examples, 0)) == 5 * len(TRAIN)  # the paper's, for rankings


def test_hits_and_reciprocal_ranks_are_those_of_loops(read: Any) -> None:
    data = read(metric="hits_3")
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=2) for _ in data.test.examples]
    ranks: dict[str, int] = {}
    of: dict[str, list[tuple[float, int]]] = {}
    for one, logits in zip(data.test.examples, outputs, strict=True):
        of.setdefault(one.group, []).append((logits[1] - logits[0], one.label))
    for group, items in of.items():
        (true,) = (score for score, label in items if label)
        ranks[group] = 1 + sum(score > true for score, label in items if not label)
    scores = data.score(data.test, outputs)
    assert list(scores) == ["hits_3", "mrr", "hits_1", "hits_10"]
    assert scores["mrr"] == pytest.approx(np.mean([100 / rank for rank in ranks.values()]))
    for k in (1, 3, 10):
        expected = 100 * np.mean([rank <= k for rank in ranks.values()])
        assert scores[f"hits_{k}"] == pytest.approx(expected)


def test_a_limit_leaves_no_triple_without_its_others(read: Any) -> None:
    data = read(metric="mrr", max_test=1, max_train=4, negatives=2)
    assert {one.group.split()[0] for one in data.test.examples} <= {"0", "1"}
    assert len({one.group for one in data.test.examples}) == 2  # a head and a tail
    groups = [one.group for one in data.train.examples]
    assert len(set(groups)) == 4
    assert all(groups.count(one) == 3 for one in groups)
    assert data.summary()["left_out"]["test: triples beyond data.max_test"] == 1


def test_labels_of_a_file_are_taken_as_they_are(read: Any, graph: Path) -> None:
    given = [(*TEST[0], "1"), ("the_b", "part_of", "the_h", "-1")]
    (graph / "test.txt").write_text(lines(given))
    examples = read().test.examples
    assert [(one.text, one.text_pair, one.label) for one in examples] == [
        (*texts(given[0]), 1), (*texts(given[1]), 0),
    ]  # fmt: skip
    ranked = read(metric="mrr").test.examples  # a false triple is not ranked
    assert {one.group for one in ranked} == {"0 head", "0 tail"}


def test_texts_of_names_are_read_and_count(read: Any, graph: Path) -> None:
    before = data_fingerprint(spec_of(graph))
    (graph / "entity2text.txt").write_text("the_a\tAlpha, the first\n")
    (graph / "relation2text.txt").write_text("part_of\tis a part of\n")
    first = read().train.examples[0]
    assert (first.text, first.text_pair) == ("Alpha, the first: is a part of", "the b")
    assert data_fingerprint(spec_of(graph)) != before


@pytest.mark.parametrize(
    ("file", "text", "options", "sentence"),
    [
        ("train.txt", "a\tr\tb\na\tb\n", {}, "line 2 has 2 columns instead of 3"),
        ("train.txt", "a r b\n", {}, "line 1 has 1 columns instead of 3 or 4"),
        ("test.txt", "a\tr\tb\t7\n", {}, "Unknown label of .*line 1 `7`"),
        ("entity2text.txt", "x\ttext\n", {}, "`entity2text` names none of the graph"),
        (None, "", {"metric": "pearson"}, "Unknown `metric` of triples `pearson`"),
        (None, "", {"candidates": 5}, "`candidates` are those of rankings"),
        (None, "", {"group": "x"}, "`group` is not for task `triples`"),
    ],
)
def test_what_is_no_graph_is_refused(
    read: Any, graph: Path, file: str | None, text: str, options: Any, sentence: str
) -> None:
    if file is not None:
        (graph / file).write_text(text)
    with pytest.raises(QualaError, match=sentence):
        _ = read(**options).train.examples, read(**options).test.examples


def test_rankings_too_many_to_hold_are_refused(read: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("quala.data.triples.MOST_INPUTS", 31)
    with pytest.raises(QualaError, match="2 triples ranked among 8 entities are 32 inputs"):
        _ = read(metric="mrr").test


def test_a_single_file_is_refused(graph: Path) -> None:
    with pytest.raises(QualaError, match="got the file"):
        data_fingerprint(spec_of(graph / "train.txt"))


@pytest.mark.parametrize("option", ["negatives", "candidates"])
def test_other_data_have_no_false_triples(option: str) -> None:
    for task, name in (("glue", "path"), ("squad", "path"), ("tags", "path"), ("embed", "path")):
        with pytest.raises(QualaError, match=f"`{option}` is not for task `{task}`"):
            DataSpec(task=task, **{name: "x", option: 2})


def test_examples_are_pairs(read: Any) -> None:
    one = read().test.examples[0]
    assert isinstance(one, ClassificationExample)
    assert read().test.features.labels.tolist()[:2] == [[1], [0]]
