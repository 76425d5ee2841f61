"""What runs a model: the door behind which PyTorch, and later faster runtimes, stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from quala.lengths import LengthConfig

if TYPE_CHECKING:
    from torch import Tensor

    from quala.data.batch import Batch
    from quala.models.adaptive import LengthAdaptiveModel


class Session(Protocol):
    """A loaded model that answers batches at any lengths."""

    def run(self, batch: Batch, lengths: LengthConfig | None) -> Tensor:
        """Return logits (B, n, 2) for spans, (B, C) otherwise; None drops nothing."""


class TorchSession:
    """Runs float and integer models with PyTorch, the reference."""

    def __init__(self, model: LengthAdaptiveModel) -> None:
        self._model = model.eval()

    def run(self, batch: Batch, lengths: LengthConfig | None) -> Tensor:
        """Return the logits without recording gradients."""
        with torch.inference_mode():
            logits: Tensor = self._model(batch, lengths)
        return logits
