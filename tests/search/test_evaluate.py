"""The shared evaluator on a toy model: the scores of the plain model, with less work."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering

from quala.checkpoint import cut_out
from quala.data.spec import DataSpec
from quala.data.taskdata import TaskData
from quala.lengths import LengthConfig, Units, elastic_layers, layers_name
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import load_tokenizer
from quala.search.evaluate import (
    Chunk,
    Outputs,
    Race,
    SharedEvaluator,
    TaskScoring,
    cut_chunks,
)
from quala.search.space import Space
from quala.search.strategy import EvaluatedLengths, frontier

RACE = Race(z=3.0, minimum=10, total=100)
EVEN = np.full(20, 50.0)


def test_a_clear_loss_stops() -> None:
    noise = np.random.default_rng(0).normal(0, 1, 20)
    assert RACE.lost(EVEN - 10 + noise, [EVEN])


def test_a_loss_within_the_noise_does_not_stop() -> None:
    noise = np.random.default_rng(0).normal(0, 30, 20)
    assert not RACE.lost(EVEN - 1 + noise, [EVEN])


def test_few_examples_do_not_stop() -> None:
    assert not RACE.lost(EVEN[:9] - 40, [EVEN])


def test_equal_scores_do_not_stop() -> None:
    assert not RACE.lost(EVEN, [EVEN])


def test_out_of_reach_stops_for_certain() -> None:
    assert Race(z=3.0, minimum=100, total=22).lost(EVEN, [], finished=[60.0])


def test_within_reach_does_not_stop() -> None:
    assert not RACE.lost(EVEN, [], finished=[89.0])


SPACE = Space(3, 24)
CHUNKS, SIZE = 6, 8


class CountingModel(LengthAdaptiveModel):
    """Counts attention blocks and feed-forwards."""

    attended = 0
    fed = 0

    def attend(self, *args: Any, **options: Any) -> Any:
        self.attended += 1
        return super().attend(*args, **options)

    def feed(self, *args: Any, **options: Any) -> Any:
        self.fed += 1
        return super().feed(*args, **options)


class Closeness:
    """Scores an example by how near its logits are to those of the full length."""

    additive = True

    def __init__(self, whole: dict[int, NDArray[Any]]) -> None:
        self.whole = whole

    def examples(self, outputs: Outputs) -> NDArray[np.float64]:
        apart = [np.abs(outputs[row] - self.whole[row]).mean() for row in sorted(outputs)]
        return np.asarray(100 * np.exp(-np.array(apart)), dtype=np.float64)

    def total(self, outputs: Outputs) -> float:
        return float(
            np.mean([100 * np.exp(-np.abs(outputs[r] - self.whole[r]).mean()) for r in outputs])
        )


def batch_of(rng: Random, first: int) -> dict[str, Tensor]:
    lengths = [rng.randint(10, 24) for _ in range(SIZE)]
    width = max(lengths)
    mask = torch.tensor([[int(i < n) for i in range(width)] for n in lengths])
    ids = torch.tensor([[rng.randint(5, 49) for _ in range(width)] for _ in lengths]) * mask
    segments = mask * (torch.arange(width) >= 5)
    features = torch.arange(first, first + SIZE)
    return {"input_ids": ids, "attention_mask": mask, "segment_ids": segments, "feature": features}


@pytest.fixture(scope="module")
def model() -> CountingModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=32,
            initializer_range=0.4,
        )
        return CountingModel(BertForQuestionAnswering(config)).eval()


@pytest.fixture(scope="module")
def chunks() -> list[Chunk]:
    rng = Random(0)
    return [
        Chunk((batch_of(rng, SIZE * i),), tuple(range(SIZE * i, SIZE * (i + 1))))
        for i in range(CHUNKS)
    ]


@pytest.fixture(scope="module")
def scoring(model: CountingModel, chunks: list[Chunk]) -> Closeness:
    return Closeness(naive_outputs(model, chunks, None))


def naive_outputs(
    model: LengthAdaptiveModel, chunks: Sequence[Chunk], lengths: LengthConfig | None
) -> dict[int, NDArray[Any]]:
    outputs = {}
    with torch.inference_mode():
        for batch in (batch for chunk in chunks for batch in chunk.batches):
            logits = model(batch, lengths).numpy()
            for i, row in enumerate(batch["feature"].tolist()):
                outputs[row] = logits[i, : int(batch["attention_mask"][i].sum())]
    return outputs


def cost(lengths: LengthConfig) -> float:
    return float(sum(lengths.lengths))


def candidates(count: int) -> list[LengthConfig]:
    rng = Random(5)
    return [SPACE.full, *dict.fromkeys(SPACE.draw(rng) for _ in range(count))]


class Sooner(SharedEvaluator):
    """Stops after one chunk of these tests."""

    minimum_examples = 16


def evaluator(
    model: LengthAdaptiveModel, chunks: list[Chunk], scoring: Any, **options: Any
) -> SharedEvaluator:
    settings = {"cache_bytes": 256 * 2**20, **options}
    return Sooner(model, chunks, scoring, cost, **settings)


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_scores_are_those_of_the_plain_model(
    model: CountingModel, chunks: list[Chunk], scoring: Closeness, cache_bytes: int
) -> None:
    shared = evaluator(model, chunks, scoring, patience=None, cache_bytes=cache_bytes)
    for scored in shared.evaluate(candidates(20)):
        alone = scoring.total(naive_outputs(model, chunks, scored.lengths))
        assert scored.score == pytest.approx(alone, abs=1e-3)


def test_early_stopping_finds_the_same_front(
    model: CountingModel, chunks: list[Chunk], scoring: Closeness
) -> None:
    outcomes = evaluator(model, chunks, scoring, patience=3.0).evaluate(candidates(40))
    naive = [
        EvaluatedLengths(g, cost(g), scoring.total(naive_outputs(model, chunks, g)))
        for g in candidates(40)
    ]
    raced = [EvaluatedLengths(s.lengths, s.cost, s.score, s.stopped) for s in outcomes]
    assert [k.lengths for k in frontier(raced)] == [k.lengths for k in frontier(naive)]
    assert any(scored.stopped for scored in outcomes)


def test_a_stopped_candidate_saw_fewer_examples(
    model: CountingModel, chunks: list[Chunk], scoring: Closeness
) -> None:
    for scored in evaluator(model, chunks, scoring, patience=3.0).evaluate(candidates(40)):
        assert scored.stopped == (len(scored.examples) < CHUNKS * SIZE)


def test_without_a_certainty_nothing_is_stopped(
    model: CountingModel, chunks: list[Chunk], scoring: Closeness
) -> None:
    outcomes = evaluator(model, chunks, scoring, patience=None).evaluate(candidates(40))
    assert not any(scored.stopped for scored in outcomes)


def test_candidates_share_the_layers_that_agree(
    model: CountingModel, chunks: list[Chunk], scoring: Closeness
) -> None:
    pair = [LengthConfig((24, 12, 6), 24), LengthConfig((24, 12, 3), 24)]
    shared = evaluator(model, chunks, scoring, patience=None)
    model.attended = model.fed = 0
    shared.evaluate(pair)
    assert (model.attended, model.fed) == (3 * CHUNKS, 4 * CHUNKS)


def test_candidates_that_overlap_share_a_feed_forward(
    model: CountingModel, chunks: list[Chunk], scoring: Closeness
) -> None:
    overlapping = [LengthConfig((24, 12, 9), 24), LengthConfig((24, 12, 8), 24)]
    shared = evaluator(model, chunks, scoring, patience=None)
    model.fed = 0
    outcomes = shared.evaluate(overlapping)
    assert model.fed == 3 * CHUNKS
    for scored in outcomes:
        alone = scoring.total(naive_outputs(model, chunks, scored.lengths))
        assert scored.score == pytest.approx(alone, abs=1e-3)


def test_undropped_layers_are_kept_between_generations(
    model: CountingModel, chunks: list[Chunk], scoring: Closeness
) -> None:
    shared = evaluator(model, chunks, scoring, patience=None)
    shared.evaluate([LengthConfig((24, 24, 6), 24)])
    model.attended = model.fed = 0
    shared.evaluate([LengthConfig((24, 24, 3), 24)])
    assert (model.attended, model.fed) == (0, CHUNKS)


def test_a_recalled_candidate_is_not_computed_again(
    model: CountingModel, chunks: list[Chunk], scoring: Closeness
) -> None:
    known = evaluator(model, chunks, scoring, patience=None).evaluate(candidates(3))
    fresh = evaluator(model, chunks, scoring, patience=None)
    fresh.recall(known)
    model.attended = 0
    assert fresh.evaluate(candidates(3)) == known
    assert model.attended == 0


def test_a_metric_that_is_no_mean_is_taken_over_everything(
    model: CountingModel, chunks: list[Chunk], scoring: Closeness
) -> None:
    whole = Closeness(scoring.whole)
    whole.additive = False
    outcomes = evaluator(model, chunks, whole, patience=3.0).evaluate(candidates(5))
    assert outcomes[0].score == pytest.approx(100.0, abs=1e-3)
    assert not any(scored.stopped for scored in outcomes)


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
    return TaskData(spec, load_tokenizer(tiny_tokenizer_folder))


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
        values += scoring.examples({row: outputs[row] for row in rows}).tolist()
    assert np.mean(values) == pytest.approx(scoring.total(outputs))


def test_a_structure_scores_as_the_model_that_is_cut_out(
    model: CountingModel, chunks: list[Chunk], scoring: Closeness
) -> None:
    whole = (Units(4, 32),) * 3
    structures = elastic_layers(whole, [1.0, 0.5], [1.0, 0.67])
    elastic = copy.deepcopy(model)
    names = [layers_name(layers) if layers else "" for layers in structures]
    elastic.hf.config.quala_elastic = names
    shared = SharedEvaluator(
        elastic, chunks, scoring, lambda c: sum(c.lengths), patience=None, cache_bytes=10**6
    )
    lengths = LengthConfig((20, 20, 9), 24)
    asked = [lengths.of(layers) for layers in structures]
    for config, found in zip(asked, shared.evaluate(asked), strict=True):
        part = cut_out(model, config.layers)
        outputs = naive_outputs(part, chunks, config.extracted)
        assert found.score == pytest.approx(scoring.total(outputs), abs=1e-4)
        assert found.lengths == config
    assert len({round(one.score, 3) for one in shared.evaluate(asked)}) == len(asked)
