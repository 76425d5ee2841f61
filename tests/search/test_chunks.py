from typing import Any

import numpy as np
import pytest

from quala.data.spec import DataSpec
from quala.data.taskdata import TaskData, load_task_data
from quala.models.load import load_tokenizer
from quala.search.evaluate import TaskScoring, cut_chunks


@pytest.fixture(scope="module")
def data(tiny_tokenizer_folder: Any) -> TaskData:
    spec = DataSpec(
        task="squad",
        name="demo",
        max_length=64,
        doc_stride=16,
        max_question_length=24,
        search_size=20,
    )
    return load_task_data(spec, load_tokenizer(tiny_tokenizer_folder))


def test_every_example_comes_once_with_all_its_features(data: TaskData) -> None:
    part = data.search
    chunks = cut_chunks(part, examples=6, batch_size=4, seed=0)
    assert sorted(e for chunk in chunks for e in chunk.examples) == list(range(len(part.examples)))
    for chunk in chunks:
        rows = sorted(int(row) for batch in chunk.batches for row in batch["feature"])
        assert rows == part.features.rows_of(chunk.examples).tolist()


def test_the_seed_decides_the_chunks(data: TaskData) -> None:
    cuts = [
        [chunk.examples for chunk in cut_chunks(data.search, examples=6, batch_size=4, seed=seed)]
        for seed in (0, 0, 1)
    ]
    assert cuts[0] == cuts[1] != cuts[2]


def test_the_mean_of_the_examples_is_the_score(data: TaskData) -> None:
    part, rng = data.search, np.random.default_rng(0)
    outputs = {row: rng.normal(size=(n, 2)) for row, n in enumerate(part.features.lengths)}
    scoring = TaskScoring(data, part)
    values = []
    for chunk in cut_chunks(part, examples=6, batch_size=4, seed=0):
        rows = [int(row) for batch in chunk.batches for row in batch["feature"]]
        values += scoring.examples(chunk, {row: outputs[row] for row in rows}).tolist()
    assert np.mean(values) == pytest.approx(scoring.total(outputs))
