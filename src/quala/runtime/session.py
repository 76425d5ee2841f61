"""What runs a model in the stages: PyTorch, or the runtime that will serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from quala.lengths import LengthConfig
from quala.runtime.latency import torch_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from quala.data.features import Batch
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.runtime.engine import Engine, Words


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


class EngineSession:
    """Runs a model as it is served: exported, in one of the fast runtimes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, batch: Batch, lengths: LengthConfig | None) -> Tensor:
        """Return the logits of the exported graph."""
        words = {
            "input_ids": batch["input_ids"].numpy(),
            "attention_mask": batch["attention_mask"].numpy(),
            "segment_ids": batch["segment_ids"].numpy(),
        }
        return torch.from_numpy(self._engine.logits(words, lengths))


def open_session(
    runtime: str, model: LengthAdaptiveModel, *, sequence_length: int, threads: int
) -> Session:
    """Return a session of `model` in the runtime `torch`, `onnxruntime` or `openvino`.

    Raises QualaError for another name, and for models that cannot be exported.
    """
    if runtime == "torch":
        return TorchSession(model)
    return EngineSession(
        model_engine(runtime, model, sequence_length=sequence_length, threads=threads)
    )


def model_engine(
    runtime: str, model: LengthAdaptiveModel, *, sequence_length: int, threads: int
) -> Engine:
    """Export `model` in memory and open it in a fast runtime. Raises as `open_session`."""
    from quala.graph.encoder import build_graph
    from quala.runtime.engine import Facts, open_engine

    graph = build_graph(model, sequence_length=sequence_length)
    facts = Facts.of(model.arch, sequence_length)
    return open_engine(runtime, graph, facts, threads=threads)


class PaddedTorchEngine:
    """PyTorch on inputs padded to one length, as published evaluations run a baseline."""

    name = "torch"

    def __init__(self, model: LengthAdaptiveModel, *, pad_to: int, threads: int) -> None:
        self._model = model.eval()
        self._pad_to = pad_to
        self._threads = threads

    def logits(self, words: Words, lengths: LengthConfig | None) -> NDArray[np.float32]:
        """Return the logits of the tokens that came, without those of the padding."""
        tokens = words["input_ids"].shape[1]
        padded = {
            name: torch.from_numpy(np.pad(values, ((0, 0), (0, self._pad_to - tokens))))
            for name, values in words.items()
        }
        with torch_threads(self._threads), torch.inference_mode():
            found: Tensor = self._model(padded, lengths)
        return found[:, :tokens].numpy()
