"""Toy models and batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor
from toys import build, build_hf, make_batch

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.transform import calibrate, quantize
from quala.models.adaptive import LengthAdaptiveModel

__all__ = ["build", "build_hf", "make_batch"]

Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]


@pytest.fixture
def integer(build: Build, make_batch: MakeBatch) -> LengthAdaptiveModel:
    """A toy model with integer layers."""
    model = build(significance="span").float()

    def observe() -> None:
        model(make_batch([7, 20, 32]))

    quantize(model.hf, QuantizeConfig())
    calibrate(model.hf, observe)
    to_integer(model.hf, inplace=True)
    return model
