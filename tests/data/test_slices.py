"""Slices of a data set, and the fingerprint of its content."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from quala.data.features import ClassificationExample, QAExample
from quala.data.slices import cut, data_fingerprint, subsample
from quala.data.spec import DataSpec
from quala.errors import QualaError


def articles(seed: int) -> list[QAExample]:
    rng = Random(seed)
    titles = [f"title {rng.randrange(15)}" for _ in range(200)]
    return [
        QAExample(str(n), title, f"context {n // 3}", "?", ("x",), (0,))
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


def test_other_files_do_not_count(spec: DataSpec) -> None:
    before = data_fingerprint(spec)
    (Path(str(spec.path)) / "README.json").write_text("{}")
    assert data_fingerprint(spec) == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"max_length": 320}, {"max_train": 10}])
def test_fields_that_shape_the_data_count(spec: DataSpec, change: dict[str, int]) -> None:
    assert data_fingerprint(replace(spec, **change)) != data_fingerprint(spec)


def test_name_and_revision_stand_for_the_hub() -> None:
    hub = DataSpec(task="squad", name="rajpurkar/squad")
    assert data_fingerprint(hub) == data_fingerprint(replace(hub))
    assert data_fingerprint(hub) != data_fingerprint(replace(hub, revision="abc"))


def test_missing_files_are_refused() -> None:
    with pytest.raises(QualaError, match="does not exist"):
        data_fingerprint(DataSpec(task="squad", path="/nowhere/at/all"))
