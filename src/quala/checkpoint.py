"""Checkpoints of any precision: load them, with or without data, and score them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quala.compress.prune.sparse import is_sparse
from quala.compress.quantize.files import load_integer
from quala.compress.quantize.integer import precision_of
from quala.compress.structure import is_structured, load_structured
from quala.data.batches import eval_batches
from quala.data.features import Batch, FeatureSet
from quala.data.spec import DataSpec
from quala.data.task import Span, Task, task_of
from quala.data.taskdata import Slice, TaskData
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel, Semantics
from quala.models.families import family_of
from quala.models.load import (
    METADATA_FILE,
    load_model,
    load_tokenizer,
    read_metadata,
    resolve_source,
)
from quala.plugins import SIGNIFICANCE, TASKS


@dataclass(frozen=True)
class Checkpoint:
    """A model in memory, of any precision, its tokenizer, and the data that this reads."""

    model: LengthAdaptiveModel
    tokenizer: PreTrainedTokenizerBase
    data: TaskData

    @property
    def precision(self) -> str:
        """`fp32`, `int8`, or the bits of an integer model below 8: see `precision_of`."""
        return precision_of(self.model)

    @property
    def pad_to(self) -> int | None:
        """Tokens that every input is padded to, or None where the batch's longest decides."""
        return padding(self.data.spec, self.model.semantics)


def padding(spec: DataSpec, semantics: str) -> int | None:
    """Return the length that every input is padded to; `reference` semantics need one."""
    return spec.max_length if spec.pad_to_max or semantics == "reference" else None


def load_with_data(
    source: str | Path,
    spec: DataSpec,
    *,
    significance: str | None = None,
    semantics: Semantics | None = None,
    seed: int = 0,
) -> Checkpoint:
    """Load a model as `load_any_model` does, for the task of these data, and the data."""
    tokenizer = load_tokenizer(source)
    data = TaskData(spec, tokenizer)
    model = load_any_model(
        source, task=data.task, significance=significance, semantics=semantics, seed=seed
    )
    return Checkpoint(model, tokenizer, data)


def load_any_model(
    source: str | Path,
    *,
    task: Task | None = None,
    significance: str | None = None,
    semantics: Semantics | None = None,
    seed: int = 0,
) -> LengthAdaptiveModel:
    """Load a float or integer model; None keeps what its quala.json says.

    A checkpoint without quala.json answers questions and ranks tokens by `question` rows under
    `natural` semantics. A head that the checkpoint lacks is drawn from `seed`. Raises QualaError
    for a checkpoint of another task, for one that cannot be read, and for one whose quala.json
    names code by a dotted path that nothing has imported (`Registry.check_stored`).
    """
    source = resolve_source(source)
    facts = read_metadata(source) if (Path(source) / METADATA_FILE).is_file() else {}
    task = _task(source, facts, task)
    ranking = significance or facts.get("significance", "question")
    if significance is None:
        SIGNIFICANCE.check_stored(ranking)
    lengths = semantics or facts.get("semantics", "natural")
    integer = facts.get("precision") == "int8"
    if integer or is_structured(source) or is_sparse(source):
        hf = load_integer(source) if integer else load_structured(source)
        return LengthAdaptiveModel(hf, task=task, significance=ranking, semantics=lengths)
    return load_model(source, task=task, significance=ranking, semantics=lengths, seed=seed)


def _task(source: str | Path, facts: dict[str, Any], task: Task | None) -> Task:
    """Return the task to load, which must be the one that the checkpoint was trained for."""
    if task is None:
        kind = facts.get("task", Span.kind)
        TASKS.check_stored(kind)
        return task_of(kind, facts.get("num_labels", 2))
    kind, labels = facts.get("task", task.kind), facts.get("num_labels", task.num_labels)
    if (kind, labels) != (task.kind, task.num_labels):
        raise QualaError(
            f"`{source}` was trained for {kind} with {labels} outputs, the data asks for "
            f"{task.kind} with {task.num_labels}."
        )
    return task


def metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what quala.json says of a model beside its precision."""
    model = checkpoint.model
    return {
        "task": model.task.kind,
        "num_labels": model.arch.outputs,
        "significance": model.significance.name,
        "semantics": model.semantics,
        "sequence_length": checkpoint.data.spec.max_length,
    }


def set_dropout(model: PreTrainedModel, *, hidden: float | None, attention: float | None) -> None:
    """Replace the dropout rates of a Hugging Face model; None keeps them."""
    family = family_of(model)
    of_attention = {family.block(layer).attention_dropout for layer in family.layers(model)}
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            rate = attention if module in of_attention else hidden
            module.p = module.p if rate is None else rate
    for key, rate in (
        (family.facts.attention_dropout, attention),
        (family.facts.hidden_dropout, hidden),
    ):
        if rate is not None:
            setattr(model.config, key, rate)


def predict(
    model: LengthAdaptiveModel,
    features: FeatureSet,
    *,
    batch_size: int,
    pad_to: int | None,
    lengths: LengthConfig | None = None,
) -> list[np.ndarray]:
    """Return the logits of every feature, in order: (n_i, K) with outputs per token, else (K,)."""
    outputs: list[np.ndarray] = [np.empty(0)] * len(features)
    with torch.inference_mode():
        for rows in eval_batches(features.lengths, batch_size):
            batch = on_device(model.hf.device, features.batch(rows, pad_to=pad_to))
            logits = model(batch, lengths).float().cpu().numpy()
            for row, values in zip(rows, logits, strict=True):
                outputs[row] = model.task.cut(values, features.lengths[row])
    return outputs


def on_device(device: torch.device, batch: Batch) -> Batch:
    """Return a batch on the device of a model, which during training is Lightning's choice."""
    tensors = cast("dict[str, torch.Tensor]", batch)
    return cast("Batch", {name: tensor.to(device) for name, tensor in tensors.items()})


def score_slice(
    checkpoint: Checkpoint,
    part: Slice,
    *,
    batch_size: int,
    lengths: LengthConfig | None = None,
) -> dict[str, float]:
    """Return the metrics of a model on a slice, in percent."""
    checkpoint.model.eval()
    outputs = predict(
        checkpoint.model,
        part.features,
        batch_size=batch_size,
        pad_to=checkpoint.pad_to,
        lengths=lengths,
    )
    return checkpoint.data.score(part, outputs)
