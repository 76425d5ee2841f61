from __future__ import annotations

from itertools import chain, islice

import numpy as np
import pytest
from torch.utils.data import DataLoader

from quala.data.batches import BatchDataset, BatchPlan, StepBatches, eval_batches
from quala.data.features import FeatureSet
from quala.errors import QualaError

LENGTHS = np.random.default_rng(0).integers(5, 60, 203)
PLANS = [
    BatchPlan(seed=1, batch_size=8),
    BatchPlan(seed=1, batch_size=8, bucketed=False),
]


def ragged(lengths: np.ndarray) -> FeatureSet:
    total = int(lengths.sum())
    return FeatureSet(
        input_ids=np.arange(1, total + 1, dtype=np.int32),
        offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        segment_one=np.full(len(lengths), 3, dtype=np.int32),
        example=np.arange(len(lengths), dtype=np.int32),
        pad_token_id=0,
    )


@pytest.mark.parametrize("plan", PLANS)
def test_every_row_comes_once_in_an_epoch(plan: BatchPlan) -> None:
    batches = StepBatches(LENGTHS, plan, total_steps=10)
    for epoch in range(3):
        rows = sorted(chain.from_iterable(batches.epoch(epoch)))
        assert rows == list(range(len(LENGTHS)))


@pytest.mark.parametrize("plan", PLANS)
def test_a_resumed_run_goes_on_as_the_whole_one(plan: BatchPlan) -> None:
    batches = StepBatches(LENGTHS, plan, total_steps=90)
    whole = list(batches)
    assert len(whole) == len(batches) == 90
    for start in (0, 1, 25, 26, 27, 60, 89, 90):
        resumed = batches.resumed(start)
        assert list(resumed) == whole[start:]
        assert len(resumed) == 90


@pytest.mark.parametrize("plan", PLANS)
def test_epochs_and_seeds_differ(plan: BatchPlan) -> None:
    batches = StepBatches(LENGTHS, plan, total_steps=1)
    assert batches.epoch(0) != batches.epoch(1)


def test_steps_per_epoch_counts_the_short_batch() -> None:
    batches = StepBatches(LENGTHS, PLANS[0], total_steps=1)
    assert batches.steps_per_epoch == 26 == len(batches.epoch(3))


def test_buckets_need_less_padding() -> None:
    def tokens(plan: BatchPlan) -> int:
        batches = StepBatches(LENGTHS, plan, total_steps=1).epoch(0)
        return sum(int(LENGTHS[rows].max()) * len(rows) for rows in batches)

    assert tokens(PLANS[0]) < 0.8 * tokens(PLANS[1])


def test_eval_batches_hold_every_row_once_with_the_longest_first() -> None:
    batches = eval_batches(LENGTHS, 8)
    assert sorted(chain.from_iterable(batches)) == list(range(len(LENGTHS)))
    longest = [LENGTHS[rows].max() for rows in batches]
    assert longest == sorted(longest, reverse=True)


def test_a_data_loader_takes_the_batches() -> None:
    features = ragged(LENGTHS)
    batches = StepBatches(features.lengths, PLANS[0], total_steps=3)
    loader = DataLoader(BatchDataset(features), sampler=batches, batch_size=None)
    loaded = [batch["feature"].tolist() for batch in loader]
    assert loaded == list(batches)


def test_a_batch_is_padded_to_its_longest_row() -> None:
    batch = ragged(np.array([4, 6, 5])).batch([2, 0])
    assert batch["input_ids"].tolist() == [[11, 12, 13, 14, 15], [1, 2, 3, 4, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, 0]]
    assert batch["feature"].tolist() == [2, 0]


def test_a_batch_is_padded_to_a_given_length() -> None:
    features = ragged(np.array([4, 6, 5]))
    assert features.batch([0], pad_to=9)["input_ids"].shape == (1, 9)
    with pytest.raises(QualaError, match="`pad_to` must be at least 6"):
        features.batch([1], pad_to=5)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(QualaError, match="at least one feature"):
        ragged(np.array([4])).batch([])


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(QualaError, match="`batch_size` must be at least 1"):
        BatchPlan(seed=0, batch_size=0)
    with pytest.raises(QualaError, match="`start` must lie in 0 to 1"):
        StepBatches(LENGTHS, PLANS[0], total_steps=1, start=2)


def test_endless_steps_are_drawn_lazily() -> None:
    batches = StepBatches(LENGTHS, PLANS[0], total_steps=10**9)
    assert len(list(islice(batches.resumed(10**8), 3))) == 3
