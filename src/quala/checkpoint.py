"""Checkpoints of any precision: load them, with or without data, and score them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from quala.compress.prune.sparse import is_sparse
from quala.compress.prune.structured import extract
from quala.compress.prune.views import run_layers
from quala.compress.quantize.files import load_integer
from quala.compress.quantize.integer import precision_of
from quala.compress.quantize.modules import QuantLinear
from quala.compress.structure import is_structured, load_structured
from quala.data.batches import eval_batches
from quala.data.features import Batch, FeatureSet, Ints
from quala.data.formats import format_of
from quala.data.spec import DataSpec
from quala.data.task import Classes, Outcome, Span, Task, Value, task_of
from quala.data.task_embed import Embedding
from quala.data.task_tags import Tags
from quala.data.taskdata import Slice, TaskData
from quala.errors import QualaError
from quala.lengths import Layers, LengthConfig
from quala.models.adaptive import LengthAdaptiveModel, Semantics
from quala.models.families import family_of
from quala.models.foreign import ForeignModel
from quala.models.labels import is_classifier, is_regression, is_tagger, stored_labels
from quala.models.load import (
    METADATA_FILE,
    Head,
    check_inputs,
    label_names,
    load_model,
    load_tokenizer,
    model_facts,
    read_config,
    resolve_source,
    stored_facts,
)
from quala.models.sentence_encoder import is_sentence_encoder, pooled_as
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
    head: Head = "own",
    labels: tuple[str, ...] | None = None,
    seed: int = 0,
) -> Checkpoint:
    """Load a model as `load_any_model` does, for the task of these data, and the data."""
    tokenizer, data = load_data(source, spec, head=head, labels=labels)
    model = load_any_model(
        source,
        task=data.task,
        significance=significance,
        semantics=semantics,
        head=head,
        seed=seed,
    )
    return Checkpoint(model, tokenizer, data)


def load_data(
    source: str | Path,
    spec: DataSpec,
    *,
    head: Head = "own",
    labels: tuple[str, ...] | None = None,
) -> tuple[PreTrainedTokenizerBase, TaskData]:
    """Return a checkpoint's tokenizer, and data with the labels in the order of its outputs.

    A head that is drawn has the order of `labels`; None leaves it to the data. Raises QualaError
    for a model that cannot read these inputs.
    """
    tokenizer = load_tokenizer(source)
    check_inputs(source, tokenizer, spec.max_length)
    named = is_tagger if Tags.kind in format_of(spec).kinds else is_classifier
    if head != "new" and named(read_config(source)):
        labels = stored_labels(source) or ()
    threshold = stored_facts(source).get("null_threshold")
    return tokenizer, TaskData(spec, tokenizer, names=labels, null_threshold=threshold)


def check_given(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Raise QualaError for an output from outside that the stages after it could not load."""
    load_with_data(folder, inputs["data"])


def load_any_model(
    source: str | Path,
    *,
    task: Task | None = None,
    significance: str | None = None,
    semantics: Semantics | None = None,
    head: Head = "own",
    seed: int = 0,
) -> LengthAdaptiveModel:
    """Load a float or integer model; None keeps what its quala.json says.

    A checkpoint without quala.json has the task of its config.json, and ranks tokens as the task
    does under `natural` semantics. What `head` draws comes from `seed`. Raises QualaError
    for a checkpoint of another task, for one that cannot be read, and for one whose quala.json
    names code by a dotted path that nothing has imported (`Registry.check_stored`).
    """
    source = resolve_source(source)
    facts = stored_facts(source)
    if task is None:
        task = _stored_task(source, facts)
    elif head != "new":
        _check_task(source, facts, task)
        if head == "own" and "task" in facts and task.facts.keys() - facts.keys():
            raise QualaError(
                f"`{source}` was not trained with unanswerable questions, which "
                "`data.unanswerable=keep` reads: finetune trains it with them."
            )
    if isinstance(task, Embedding):
        task = pooled_as(source, task)
    ranking = significance or facts.get("significance") or untrained_ranking(task)
    if significance is None:
        SIGNIFICANCE.check_stored(ranking)
    lengths = semantics or facts.get("semantics", "natural")
    integer = facts.get("precision") == "int8"
    if not (integer or is_structured(source) or is_sparse(source)):
        return load_model(
            source, task=task, significance=ranking, semantics=lengths, head=head, seed=seed
        )
    if head == "new":
        raise QualaError(f"`{source}` is compressed, which leaves no room for a new head.")
    hf = load_integer(source) if integer else load_structured(source)
    return LengthAdaptiveModel(hf, task=task, significance=ranking, semantics=lengths)


def untrained_ranking(task: Task) -> str:
    """Return how a model ranks tokens that was not trained to: as its task does.

    It is `question` where that reads a head which only `length_adapt` trains for it.
    """
    span = SIGNIFICANCE.find(task.significance).needs_span_head
    return "question" if span else task.significance


def _stored_task(source: str | Path, facts: Mapping[str, Any]) -> Task:
    """Return the task that a checkpoint was trained for, with its labels."""
    config = read_config(source)
    if not facts and is_sentence_encoder(source):
        return Embedding()
    if not facts and is_tagger(config):
        kind, outputs = Tags.kind, int(config.num_labels or 1)
    elif facts or not is_classifier(config):
        kind, outputs = facts.get("task", Span.kind), facts.get("num_labels", 2)
    else:
        kind = Value.kind if is_regression(config) else Classes.kind
        outputs = int(config.num_labels or 1)
    TASKS.check_stored(kind)
    task, labels = task_of(kind, outputs), stored_labels(source)
    if isinstance(task, Span) and "null_threshold" in facts:
        return replace(task, null=True, null_threshold=facts["null_threshold"])
    named: dict[str, Any] = {"names": labels}
    known = labels and any(field.name == "names" for field in fields(task))
    return replace(task, **named) if known else task


def _check_task(source: str | Path, facts: Mapping[str, Any], task: Task) -> None:
    """Raise QualaError for a checkpoint that was trained for another task than the data have."""
    kind, outputs = facts.get("task", task.kind), facts.get("num_labels", task.num_labels)
    if (kind, outputs) != (task.kind, task.num_labels):
        raise QualaError(
            f"`{source}` was trained for {kind} with {outputs} outputs, the data asks for "
            f"{task.kind} with {task.num_labels}; finetune draws a new head with "
            "`model.new_head=true`."
        )
    labels = stored_labels(source) or ()
    if not same_order(labels, label_names(task)):
        raise QualaError(
            f"The outputs of `{source}` are {', '.join(labels)}, the data's labels are "
            f"{', '.join(label_names(task))}: their order must be the same."
        )


def same_order(one: Sequence[str], other: Sequence[str]) -> bool:
    """Tell whether two lists of labels may name the same outputs; numbers from 0 are places."""
    places = [list(map(str, range(len(labels)))) == list(labels) for labels in (one, other)]
    renamed = any(places) and len(one) == len(other) and set(one) != set(other)
    return not one or not other or tuple(one) == tuple(other) or renamed


def metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what quala.json says of a model beside its precision."""
    return model_facts(checkpoint.model, checkpoint.data.spec.max_length)


def set_dropout(model: PreTrainedModel, *, hidden: float | None, attention: float | None) -> None:
    """Replace the dropout rates of a Hugging Face model; None keeps them."""
    family = family_of(model)
    family.set_dropout(model, hidden=hidden, attention=attention)
    for key, rate in (
        (family.facts.attention_dropout, attention),
        (family.facts.hidden_dropout, hidden),
    ):
        if rate is not None:
            setattr(model.config, key, rate)


def predict(
    model: LengthAdaptiveModel | ForeignModel,
    features: FeatureSet,
    *,
    batch_size: int,
    pad_to: int | None,
    lengths: LengthConfig | None = None,
    rows: Ints | None = None,
) -> list[np.ndarray]:
    """Return the logits of the features `rows` (None: all), in order.

    They are (n_i, K) with outputs per token, else (K,).
    """
    call: Callable[..., Any] = model
    if lengths is not None and lengths.layers and isinstance(model, LengthAdaptiveModel):
        if any(isinstance(one, QuantLinear) for one in model.modules()):  # in training
            call = partial(run_layers, model, layers=lengths.layers)
        else:
            call = model = cut_out(model, lengths.layers)
            lengths = lengths.extracted
    wanted = np.arange(len(features)) if rows is None else rows
    outputs: list[np.ndarray] = [np.empty(0)] * len(wanted)
    with torch.inference_mode():
        for places in eval_batches(features.lengths[wanted], batch_size):
            part = wanted[places].tolist()
            batch = on_device(model.hf.device, features.batch(part, pad_to=pad_to))
            logits = (call(batch) if lengths is None else call(batch, lengths=lengths)).float()
            logits = logits.cpu().numpy()
            for place, row, values in zip(places, part, logits, strict=True):
                outputs[place] = model.task.cut(values, features.lengths[row])
    return outputs


def cut_out(model: LengthAdaptiveModel, layers: Layers) -> LengthAdaptiveModel:
    """Return a sub-network, float or of integers, as a model of its own; no layers: all of it.

    It takes the lengths of the layers that stay (`LengthConfig.extracted`).
    """
    return model.with_network(extract(model.hf, layers)).eval() if layers else model


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
    outputs = _slice_outputs(checkpoint, part, batch_size=batch_size, lengths=lengths)
    return checkpoint.data.score(part, outputs)


def score_selection(
    checkpoint: Checkpoint, *, batch_size: int, lengths: LengthConfig | None = None
) -> dict[str, float]:
    """Return the metrics on the selection slice; at full length the task is tuned on it before.

    So every training selects and ends with the threshold of null answers of its own weights.
    """
    data, part = checkpoint.data, checkpoint.data.selection
    outputs = _slice_outputs(checkpoint, part, batch_size=batch_size, lengths=lengths)
    if lengths is None:
        data.task = data.task.tune(Outcome(part.examples, part.features, outputs))
        checkpoint.model.task = data.task
    return data.score(part, outputs)


def ensure_tuned(checkpoint: Checkpoint, *, batch_size: int) -> None:
    """Tune the task of a model of another tool, whose files do not say what it was tuned to."""
    if not checkpoint.data.task.tuned and checkpoint.data.selection.examples:
        score_selection(checkpoint, batch_size=batch_size)


def record_tuned(checkpoint: Checkpoint, folder: Path) -> None:
    """Write what the task was tuned to into the quala.json of a saved model."""
    if facts := checkpoint.data.task.facts:
        stored = {**stored_facts(folder), **facts}
        (folder / METADATA_FILE).write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


def _slice_outputs(
    checkpoint: Checkpoint, part: Slice, *, batch_size: int, lengths: LengthConfig | None
) -> list[np.ndarray]:
    checkpoint.model.eval()
    return predict(
        checkpoint.model,
        part.features,
        batch_size=batch_size,
        pad_to=checkpoint.pad_to,
        lengths=lengths,
    )
