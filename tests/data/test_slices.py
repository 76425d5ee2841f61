"""Slices of a data set, and the fingerprint of its content."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from quala.data.features import ClassificationExample, QAExample
from quala.data.slices import cut, data_fingerprint, nearest_sum, subsample
from quala.data.spec import DataSpec
from quala.errors import QualaError


def articles(seed: int) -> list[QAExample]:
    rng = Random(seed)
    titles = [f"title {rng.randrange(15)}" for _ in range(200)]
    return [
        QAExample(str(n), title, f"context {title} {n // 3}", "?", ("x",), (0,))
        for n, title in enumerate(titles)
    ]


@pytest.mark.parametrize("seed", range(10))
def test_no_title_is_in_two_slices(seed: int) -> None:
    slices = cut(articles(seed), {"search": 30, "selection": 20}, seed=seed).slices
    titles = [{example.title for example in part} for part in slices.values()]
    assert sum(map(len, titles)) == len(set().union(*titles))
    assert [len(slices[name]) for name in ("search", "selection")] == [30, 20]


def test_the_cut_depends_on_the_seed_only() -> None:
    sizes = {"search": 30, "selection": 20}
    assert cut(articles(0), sizes, seed=1) == cut(articles(0), sizes, seed=1)
    assert cut(articles(0), sizes, seed=1) != cut(articles(0), sizes, seed=2)


def test_questions_without_titles_are_cut_by_context() -> None:
    bare = [QAExample(str(n), "", f"context {n // 4}", "?") for n in range(80)]
    slices = cut(bare, {"search": 10, "selection": 10}, seed=0).slices
    contexts = [{example.context for example in part} for part in slices.values()]
    assert sum(map(len, contexts)) == len(set().union(*contexts))


def test_one_article_is_cut_by_context() -> None:
    one = [QAExample(str(n), "title", f"context {n // 4}", "?") for n in range(80)]
    slices = cut(one, {"search": 10, "selection": 10}, seed=0).slices
    assert len(slices["search"]) == 10
    assert len(slices["train"]) > 50


def test_equal_sentences_stay_together() -> None:
    sentences = [ClassificationExample(str(n), f"text {n % 40}", None, n % 2) for n in range(120)]
    slices = cut(sentences, {"search": 20}, seed=0).slices
    texts = [{example.text for example in part} for part in slices.values()]
    assert not texts[0] & texts[1]


def of_sizes(*sizes: int, per_passage: int = 10) -> list[QAExample]:
    """Return one article of each size; a passage has `per_passage` questions."""
    places = [(article, row) for article, size in enumerate(sizes) for row in range(size)]
    return [
        QAExample(f"{article}.{row}", f"title {article}", f"{article}.{row // per_passage}", "?")
        for article, row in places
    ]


def fifths(examples: list[QAExample]) -> dict[str, int]:
    return dict.fromkeys(("search", "selection"), len(examples) // 5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((1000, 120, 120, 120, 120, 120), (1120, 240, 240)),
        ((1000, 120, 120), (1000, 120, 120)),
        ((1000, 40, 60, 60, 40), (1000, 100, 100)),
        ((100,) * 10, (600, 200, 200)),
        ((30,) * 20, (360, 120, 120)),
    ],
)
def test_articles_are_chosen_so_that_none_is_lost(
    sizes: tuple[int, ...], expected: tuple[int, ...], seed: int
) -> None:
    examples = of_sizes(*sizes)
    found = cut(examples, fifths(examples), seed=seed)
    parts = [found.slices[name] for name in ("train", "search", "selection")]
    assert tuple(map(len, parts)) == expected
    titles = [{one.title for one in part} for part in parts]
    assert sum(map(len, titles)) == len(sizes)
    assert (found.by, found.lost, found.shares_articles) == ("article", {}, False)


def test_the_rest_of_an_article_is_lost_where_nothing_smaller_is_there() -> None:
    found = cut(of_sizes(250, 250, 1000), {"search": 200, "selection": 200}, seed=0)
    assert {name: len(part) for name, part in found.slices.items()} == {
        "search": 200, "selection": 200, "train": 1000,
    }  # fmt: skip
    assert found.lost == {"search": 50, "selection": 50}


@pytest.mark.parametrize("sizes", [(600,), (300, 300), (590, 5, 5), (200, 200, 200)])
def test_passages_are_cut_where_articles_are_too_few_or_too_large(sizes: tuple[int, ...]) -> None:
    examples = of_sizes(*sizes)
    found = cut(examples, fifths(examples), seed=0)
    assert {name: len(part) for name, part in found.slices.items()} == {
        "search": 120, "selection": 120, "train": 360,
    }  # fmt: skip
    contexts = [{one.context for one in part} for part in found.slices.values()]
    assert sum(map(len, contexts)) == len(set().union(*contexts))
    assert (found.by, found.shares_articles) == ("passage", True)


def test_a_passage_is_never_in_two_slices() -> None:
    examples = of_sizes(600, per_passage=600) + of_sizes(0, 3, 4, per_passage=9)
    found = cut(examples, fifths(examples), seed=0)
    assert sorted(len(part) for part in found.slices.values()) == [3, 4, 600]
    assert len(found.slices["train"]) == 600


def meeting(examples: list[Any], key: Callable[[Any], str], **options: Any) -> set[str]:
    """Return the keys that two of the slices share."""
    found = cut(examples, fifths(examples), seed=0, **options)
    assert {name: len(found.slices[name]) for name in ("search", "selection")} == fifths(examples)
    parts = [{key(one) for one in part} for part in found.slices.values()]
    return (parts[0] & parts[1]) | (parts[0] & parts[2]) | (parts[1] & parts[2])


def test_a_passage_that_many_titles_have_is_in_one_slice() -> None:
    titled = [QAExample(str(n), f"title {n}", f"context {n % 30}", "?") for n in range(300)]
    assert meeting(titled, lambda one: one.context) == set()


@pytest.mark.parametrize("title", ["", "{}"])
def test_passages_that_differ_in_blanks_are_in_one_slice(title: str) -> None:
    spelled = [
        QAExample(str(n), title.format(n), f"A context {n % 100}" + " " * (n // 100), "?")
        for n in range(300)
    ]
    assert meeting(spelled, lambda one: one.context.strip()) == set()


def test_sentences_that_differ_in_case_or_blanks_are_in_one_slice() -> None:
    spelled = [
        ClassificationExample(str(n), (f"Great  film {n}", f"great film {n} ")[side], None, n % 2)
        for n in range(200)
        for side in (0, 1)
    ]
    assert meeting(spelled, lambda one: " ".join(one.text.lower().split())) == set()


@pytest.mark.parametrize("apart", [False, True])
def test_pairs_that_share_a_sentence_can_be_kept_together(apart: bool) -> None:
    pairs = [ClassificationExample(str(n), f"Is it {n // 10}?", f"It is {n}") for n in range(600)]
    assert (meeting(pairs, lambda one: one.text, apart=apart) == set()) is apart


def test_pairs_of_a_few_sentences_are_not_kept_together() -> None:
    pairs = [ClassificationExample(str(n), f"view {n}", f"aspect {n % 5}") for n in range(200)]
    found = cut(pairs, {"test": 20, "search": 40, "selection": 40}, seed=0, apart=True)
    assert {name: len(part) for name, part in found.slices.items()} == {
        "test": 20, "search": 40, "selection": 40, "train": 100,
    }  # fmt: skip
    assert len({one.text_pair for one in found.slices["test"]}) == 5


def test_a_cut_in_which_no_text_meets_is_as_it_was() -> None:
    plain = [ClassificationExample(str(n), f"film {n}", None) for n in range(100)]
    both = [*plain, replace(plain[0], id="twin", text="Film  0")]
    names = sorted({one.article for one in both}, key=repr)
    Random("cut 1").shuffle(names)
    assert {names.index(one.article) > 90 for one in (both[0], both[-1])} == {False}
    found = cut(both, {"search": 9}, seed=1).slices["search"]
    assert [one.article for one in both if one.article in names[-9:]] == [
        one.article for one in found
    ]


def test_questions_about_one_passage_are_cut_by_question() -> None:
    asked = [QAExample(str(n), "title", "one context", f"what is {n // 2}?") for n in range(80)]
    assert meeting(asked, lambda one: one.question) == set()
    found = cut(asked, fifths(asked), seed=0)
    assert (found.by, len(found.slices["train"]), found.lost) == ("question", 48, {})


@pytest.mark.parametrize(
    "examples",
    [
        of_sizes(80, per_passage=80),
        of_sizes(40, 40, per_passage=80),
        [ClassificationExample(str(row), "one text", None, row % 2) for row in range(80)],
        of_sizes(1),
        [],
    ],
)
def test_too_few_texts_are_refused(examples: list[QAExample]) -> None:
    with pytest.raises(
        QualaError, match="texts are too few for search 16, selection 16 and `train`"
    ):
        cut(examples, {"search": 16, "selection": 16}, seed=0)


def test_a_cut_that_loses_little_is_as_it_always_was() -> None:
    """Whole articles in the seed's order, subsampled: what stored runs were trained on."""
    examples = of_sizes(*[7] * 100)
    found = cut(examples, {"search": 30, "selection": 20}, seed=3)
    names = sorted({one.article for one in examples}, key=repr)
    Random("cut 3").shuffle(names)
    taken = [one for one in examples if one.article in names[-5:]]
    assert found.slices["search"] == subsample(taken, 30, seed=3)
    assert found.slices["train"] == [one for one in examples if one.article in names[:-8]]
    assert found.lost == {"search": 5, "selection": 1}


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_sum_is_that_of_all_choices(seed: int) -> None:
    rng = Random(seed)
    sizes = [rng.randrange(1, 40) for _ in range(9)]
    goal = rng.randrange(120)
    places = nearest_sum(sizes, goal)
    sums = [
        sum(size for place, size in enumerate(sizes) if choice >> place & 1)
        for choice in range(2 ** len(sizes))
    ]
    assert len(set(places)) == len(places)
    assert sum(sizes[place] for place in places) == max(one for one in sums if one <= goal)


def test_no_slice_is_cut_for_size_zero() -> None:
    slices = cut(articles(0), {"search": 0, "selection": 0}, seed=0).slices
    assert (len(slices["search"]), len(slices["train"])) == (0, 200)


def test_slices_that_leave_no_train_are_refused() -> None:
    with pytest.raises(QualaError, match="too few for search 200 and `train`"):
        cut(articles(0), {"search": 200}, seed=0)


def test_a_subsample_keeps_the_order() -> None:
    drawn = subsample(articles(0), 20, seed=0)
    numbers = [int(example.id) for example in drawn]
    assert len(numbers) == 20
    assert numbers == sorted(set(numbers))


@pytest.fixture
def spec(tmp_path: Path) -> DataSpec:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.json").write_text(json.dumps({"data": [], "split": split}))
    return DataSpec(task="squad", path=str(folder))


def test_the_place_of_the_files_does_not_count(spec: DataSpec, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(str(spec.path), tmp_path / "elsewhere")
    assert data_fingerprint(replace(spec, path=str(elsewhere))) == data_fingerprint(spec)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_content_of_both_splits_counts(spec: DataSpec, split: str) -> None:
    before = data_fingerprint(spec)
    (Path(str(spec.path)) / f"{split}.json").write_text("{}")
    assert data_fingerprint(spec) != before


def test_the_border_between_the_splits_counts(tmp_path: Path) -> None:
    one, two, elsewhere = (tmp_path / name for name in ("one", "two", "elsewhere"))
    for folder, names in ((one, ("train-00000", "train-00001", "test-00000")),
                          (two, ("train-00000", "test-00000", "test-00001"))):  # fmt: skip
        folder.mkdir()
        for number, name in enumerate(names):
            (folder / f"{name}.jsonl").write_text(f"{number}\n")
    shutil.copytree(one, elsewhere)
    first, second, third = (
        data_fingerprint(DataSpec(task="squad", path=str(folder), test_split="test"))
        for folder in (one, two, elsewhere)
    )
    assert first != second
    assert first == third


def test_other_files_do_not_count(spec: DataSpec) -> None:
    before = data_fingerprint(spec)
    (Path(str(spec.path)) / "README.json").write_text("{}")
    assert data_fingerprint(spec) == before


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"max_length": 320}, {"max_train": 10}, {"test_size": 0.5}]
)
def test_fields_that_shape_the_data_count(spec: DataSpec, change: dict[str, int]) -> None:
    assert data_fingerprint(replace(spec, **change)) != data_fingerprint(spec)


@pytest.mark.parametrize(
    "change",
    [{"misaligned": "drop"}, {"columns": {"id": "key"}}, {"header": False}, {"quoting": "plain"}],
)
def test_later_options_count_where_they_are_set(spec: DataSpec, change: dict[str, Any]) -> None:
    assert data_fingerprint(replace(spec, **change)) != data_fingerprint(spec)


def test_the_fingerprint_of_questions_is_that_of_earlier_versions(spec: DataSpec) -> None:
    fields = {
        "task": "squad", "name": None, "subset": None, "revision": None, "train_split": "train",
        "test_split": "validation", "unanswerable": "refuse", "max_length": 384,
        "doc_stride": 128, "max_question_length": 64, "max_train": None, "max_test": None,
        "search_size": 1000, "selection_size": 1000, "seed": 0, "n_best": 20,
        "max_answer_length": 30, "pad_to_max": False,
    }  # fmt: skip
    files = [Path(str(spec.path)) / f"{split}.json" for split in ("train", "validation")]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    text = json.dumps([fields, digests], sort_keys=True)
    assert data_fingerprint(spec) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("task", "ending", "marked"),
    [("glue", ".json", True), ("squad", ".json", False), ("squad", ".tsv", False)],
)
def test_a_new_reading_makes_new_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: str, ending: str, marked: bool
) -> None:
    for split in ("train", "dev"):
        (tmp_path / f"{split}{ending}").write_text("{}")
    spec = DataSpec(task=task, path=str(tmp_path))
    single = replace(spec, path=str(tmp_path / f"train{ending}"))
    before = data_fingerprint(spec), data_fingerprint(single)
    monkeypatch.setattr("quala.data.slices.READER", 0)
    assert (data_fingerprint(spec) != before[0]) is marked
    assert data_fingerprint(single) != before[1]


def test_options_that_came_later_do_not_count_at_their_default() -> None:
    known = "6ccbbd1f2857b17e16d42eb6bf31c352f2a955d3e4978bc58968fe5b83f99451"
    assert data_fingerprint(DataSpec(task="squad", name="demo")) == known


def test_name_and_revision_stand_for_the_hub() -> None:
    hub = DataSpec(task="squad", name="rajpurkar/squad")
    assert data_fingerprint(hub) == data_fingerprint(replace(hub))
    assert data_fingerprint(hub) != data_fingerprint(replace(hub, revision="abc"))


def test_missing_files_are_refused() -> None:
    with pytest.raises(QualaError, match="does not exist"):
        data_fingerprint(DataSpec(task="squad", path="/nowhere/at/all"))
