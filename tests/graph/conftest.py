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
def integer(
    request: pytest.FixtureRequest, build: Build, make_batch: MakeBatch
) -> LengthAdaptiveModel:
    """A toy model with integer layers, BERT unless a test names another family."""
    family = getattr(request, "param", "bert")
    model = build(family, significance="span").float()

    def observe() -> None:
        model(make_batch([7, 20, 32], family=family))

    quantize(model.hf, QuantizeConfig())
    calibrate(model.hf, observe)
    to_integer(model.hf, inplace=True)
    return model
