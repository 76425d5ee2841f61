"""The door that models are run through."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quala.data.features import Batch
from quala.data.task import Span
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import load_model
from quala.runtime.session import TorchSession


@pytest.fixture
def model(tiny_checkpoint: Path) -> LengthAdaptiveModel:
    return load_model(tiny_checkpoint, task=Span())


@pytest.fixture
def batch() -> Batch:
    ids = torch.arange(5, 25).view(2, 10)
    segments = (torch.arange(10) > 3).long().expand(2, 10)
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "segment_ids": segments,
        "feature": torch.arange(2),
    }  # fmt: skip


@pytest.mark.parametrize("lengths", [None, LengthConfig((6, 4), 10)])
def test_a_session_answers_as_the_model_does(
    model: LengthAdaptiveModel, batch: Batch, lengths: LengthConfig | None
) -> None:
    expected = model(batch, lengths).detach()
    torch.testing.assert_close(TorchSession(model).run(batch, lengths), expected)


def test_a_session_neither_drops_out_nor_records(model: LengthAdaptiveModel, batch: Batch) -> None:
    session = TorchSession(model.train())
    first, second = session.run(batch, None), session.run(batch, None)
    assert torch.equal(first, second)
    assert first.is_inference()
