"""Open what an earlier stage left, whatever its precision, and score it."""

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
from quala.data.task import Task
from quala.data.taskdata import Slice, TaskData, load_task_data
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel, Semantics
from quala.models.families import family_of
from quala.models.load import METADATA_FILE, load_model, load_tokenizer, read_metadata


@dataclass(frozen=True)
class Opened:
    """A checkpoint in memory: the model, its tokenizer, and the data read with it."""

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


def open_checkpoint(
    source: str | Path,
    spec: DataSpec,
    *,
    significance: str | None = None,
    semantics: Semantics | None = None,
    seed: int = 0,
) -> Opened:
    """Load a float or integer checkpoint with the data; None keeps what its quala.json says.

    A checkpoint without quala.json ranks by `question` rows under `natural` semantics. A head
    that the checkpoint lacks is drawn from `seed`. Raises QualaError for a checkpoint of another
    task and for one that cannot be read.
    """
    facts = _facts(source)
    tokenizer = load_tokenizer(source)
    data = load_task_data(spec, tokenizer)
    _check_task(source, facts, data.task)
    ranking = significance or facts.get("significance", "question")
    lengths = semantics or facts.get("semantics", "natural")
    integer = facts.get("precision") == "int8"
    if integer or is_structured(source) or is_sparse(source):
        model = LengthAdaptiveModel(
            load_integer(source) if integer else load_structured(source),
            task_kind=data.task.kind,
            significance=ranking,
            semantics=lengths,
        )
    else:
        model = load_model(
            source, task=data.task, significance=ranking, semantics=lengths, seed=seed
        )
    return Opened(model, tokenizer, data)


def _facts(source: str | Path) -> dict[str, Any]:
    """Return what quala.json says, nothing where there is none."""
    return read_metadata(source) if (Path(source) / METADATA_FILE).is_file() else {}


def _check_task(source: str | Path, facts: dict[str, Any], task: Task) -> None:
    kind, labels = facts.get("task", task.kind), facts.get("num_labels", task.num_labels)
    if (kind, labels) != (task.kind, task.num_labels):
        raise QualaError(
            f"`{source}` was trained for {kind} with {labels} outputs, the data asks for "
            f"{task.kind} with {task.num_labels}."
        )


def metadata(opened: Opened) -> dict[str, Any]:
    """Return what quala.json says of a model beside its precision."""
    model = opened.model
    return {
        "task": model.task_kind,
        "num_labels": model.arch.outputs,
        "significance": model.significance.name,
        "semantics": model.semantics,
        "sequence_length": opened.data.spec.max_length,
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
    """Return the logits of every feature, in order: (n_i, 2) for spans, (C,) otherwise."""
    outputs: list[np.ndarray] = [np.empty(0)] * len(features)
    spans = model.task_kind == "question-answering"
    with torch.inference_mode():
        for rows in eval_batches(features.lengths, batch_size):
            batch = on_device(model.hf.device, features.batch(rows, pad_to=pad_to))
            logits = model(batch, lengths).float().cpu().numpy()
            for row, values in zip(rows, logits, strict=True):
                outputs[row] = values[: features.lengths[row]] if spans else values
    return outputs


def on_device(device: torch.device, batch: Batch) -> Batch:
    """Return a batch where a model is: while training scores, where Lightning has put it."""
    tensors = cast("dict[str, torch.Tensor]", batch)
    return cast("Batch", {name: tensor.to(device) for name, tensor in tensors.items()})


def score_slice(
    opened: Opened, part: Slice, *, batch_size: int, lengths: LengthConfig | None = None
) -> dict[str, float]:
    """Return the metrics of a model on a slice, in percent."""
    opened.model.eval()
    outputs = predict(
        opened.model,
        part.features,
        batch_size=batch_size,
        pad_to=opened.pad_to,
        lengths=lengths,
    )
    return opened.data.score(part, outputs)
