"""Teacher outputs for a batch, from a live model or from a cache."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch

from quala.checkpoint import Checkpoint, on_device, same_order
from quala.compress.layer_maps import hidden_pairs
from quala.compress.losses import TeacherOutput
from quala.compress.partial_states import (
    KeptState,
    Pairs,
    entries,
    keep_states,
    some_states,
    spread_states,
)
from quala.data.batches import eval_batches
from quala.data.tokenize import FastTokenizer
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import label_names
from quala.stages.outside_teacher import training_device
from quala.stages.teacher_cache import MEBIBYTE, AnswerStore, Ints, Layout
from quala.stages.training import Plan, step_batches

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from quala.data.features import Batch, FeatureSet
    from quala.models.selection import State
    from quala.stage import StageContext
    from quala.stages.distill_options import CacheConfig
    from quala.stages.options import TrainingConfig

log = logging.getLogger(__name__)


class Teacher(Protocol):
    """The source of a distillation's targets."""

    @property
    def width(self) -> int:
        """The width of the hidden states that a student follows."""

    @property
    def figures(self) -> Mapping[str, float]:
        """What its preparation cost, for the stage's final metrics."""

    def to(self, device: torch.device) -> None:
        """Return all later outputs on a device."""

    def outputs(self, batch: Batch, *, traced: bool) -> TeacherOutput:
        """Return the answers to a batch and, if `traced`, the inner states."""


def same_ids(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> str | None:
    """Return why a teacher cannot read the student's token ids as its own, None if it can."""
    if teacher.get_vocab() != student.get_vocab():
        return (
            "both must have the same vocabulary, got "
            f"{len(teacher):,} and {len(student):,} tokens that differ"
        )
    for name in ("cls_token_id", "sep_token_id", "pad_token_id"):
        ids = [getattr(tokenizer, name) for tokenizer in (teacher, student)]
        if ids[0] != ids[1]:
            return f"both must have the same `{name}`, got {ids[0]} and {ids[1]}"
    return None


def check_teacher(teacher: Checkpoint, student: Checkpoint) -> None:
    """Raise QualaError unless both read the same token ids, and mean the same by their outputs."""
    if reason := same_ids(teacher.tokenizer, student.tokenizer):
        raise QualaError(f"The teacher reads the student's tokens: {reason}.")
    one, other = (label_names(model.model.task) for model in (teacher, student))
    places = {getattr(model.data.label_order, "places", ()) for model in (teacher, student)}
    if len(places) > 1 or not same_order(one, other):
        raise QualaError(
            f"The teacher's labels are {', '.join(one)}, the student's {', '.join(other)}: soft "
            "labels need the same order."
        )


def translated_ids(
    teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase
) -> Ints | str:
    """Return the teacher's id of each id of the student, or why they do not map one to one.

    Special tokens are mapped by their role, [CLS] to <s> for instance, the others by their text.
    """
    roles = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")
    named = {getattr(student, role): getattr(teacher, role) for role in roles}
    there, own = teacher.get_vocab(), student.get_vocab()
    found = {number: there.get(named.get(token) or token) for token, number in own.items()}
    lacking = sorted(token for token, number in own.items() if found[number] is None)
    if lacking:
        return f"the teacher has no token `{lacking[0]}`, nor {len(lacking) - 1:,} others"
    if len(set(found.values())) < len(found):
        return "several tokens of the student are one token of the teacher"
    ids = np.zeros(max(found) + 1, dtype=np.int64)
    for number, other in found.items():
        ids[number] = other or 0
    return ids


class TranslatedModel(LengthAdaptiveModel):
    """A model that reads the ids of another tokenizer with the same tokens."""

    ids: Tensor

    @classmethod
    def of(cls, model: LengthAdaptiveModel, ids: Ints) -> TranslatedModel:
        """Wrap a model; `ids[i]` is its own id of the other tokenizer's id i."""
        ranking, semantics = model.significance.name, model.semantics
        made = cls(model.hf, task=model.task, significance=ranking, semantics=semantics)
        made.register_buffer("ids", torch.from_numpy(ids).to(model.hf.device), persistent=False)
        return made

    def begin(self, batch: Batch) -> State:
        own = {**batch, "input_ids": self.ids[batch["input_ids"]]}
        return super().begin(cast("Batch", own))


def translated(teacher: Checkpoint, student: PreTrainedTokenizerBase, losses: str) -> Checkpoint:
    """Return a teacher that reads a student's ids, for losses on its inner states.

    It gets the student's windows: its own may have more special tokens between two texts, which
    is logged. Raises QualaError, which names the losses, where ids do not map one to one.
    """
    if same_ids(teacher.tokenizer, student) is None:
        return teacher
    ids = translated_ids(teacher.tokenizer, student)
    if isinstance(ids, str):
        raise QualaError(
            f"The losses on inner states ({losses}) compare token by token, so the teacher must "
            f"read the student's tokens: {ids}; set them to 0, its answers are mapped by "
            "characters."
        )
    own, other = (FastTokenizer.of(one).layout() for one in (teacher.tokenizer, student))
    if ids[other.between].tolist() != own.between.tolist():
        log.warning(
            "Between two texts the teacher was trained with %d special tokens; it reads the "
            "student's windows, which have %d.", len(own.between), len(other.between),
        )  # fmt: skip
    return replace(teacher, model=TranslatedModel.of(teacher.model, ids), tokenizer=student)


class LiveTeacher:
    """A frozen model that runs on every batch. It is no `nn.Module`: no checkpoint holds it."""

    def __init__(self, model: LengthAdaptiveModel):
        self.model = model.eval().requires_grad_(False)
        self.figures: Mapping[str, float] = {}

    @property
    def width(self) -> int:
        return self.model.arch.hidden

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    @torch.no_grad()
    def outputs(self, batch: Batch, *, traced: bool = False) -> TeacherOutput:
        if not traced:
            return TeacherOutput(self.model(batch))
        trace = self.model.trace(batch)
        return TeacherOutput(trace.logits, trace=trace)


FOLDER = "teacher"


class CachedTeacher:
    """A teacher's stored answers and the kept part of its hidden states.

    `pairs` are a student's state and the teacher's state that it follows.
    """

    def __init__(self, store: AnswerStore, pairs: Pairs, figures: Mapping[str, float]):
        self.store, self.pairs, self.figures = store, pairs, figures

    @property
    def width(self) -> int:
        return self.store.layout.hidden

    def to(self, device: torch.device) -> None:
        """Do nothing: outputs go to the device of the batch."""

    def outputs(self, batch: Batch, *, traced: bool) -> TeacherOutput:
        slots = self.store.layout.slots(batch["feature"].cpu().numpy())
        logits = self._logits(slots, batch["input_ids"])
        if not traced:
            return TeacherOutput(logits)
        states = self.store.layout.states
        kept = dict(zip(states, self.store.states(slots, logits.device), strict=True))
        return TeacherOutput(logits, kept=tuple((own, kept[goal]) for own, goal in self.pairs))

    def _logits(self, slots: Ints, ids: Tensor) -> Tensor:
        """Return (B, n, 2) with 0 on padding for spans, (B, outputs) otherwise."""
        values, example, place = self.store.logits(slots)
        known = torch.from_numpy(values).to(ids.device)
        if not self.store.layout.spans:
            return known
        logits = known.new_zeros((*ids.shape, known.shape[1]))
        logits[torch.from_numpy(example), torch.from_numpy(place)] = known
        return logits


@dataclass(frozen=True)
class _Recorder:
    """A teacher model, and which part of its outputs is kept."""

    opened: Checkpoint
    cache: CacheConfig
    states: tuple[int, ...]
    bf16: bool

    def layout(self, features: FeatureSet, rows: Ints) -> Layout:
        model, lengths = self.opened.model, features.lengths[rows]
        spans = model.task.per_token
        kept = lengths
        if self.cache.tokens is not None:
            kept = np.minimum(self._candidates(features)[rows], self.cache.tokens)
        return Layout(
            rows=rows,
            answers=offsets_of(lengths if spans else np.ones_like(lengths)),
            tokens=offsets_of(kept),
            outputs=model.arch.outputs,
            spans=spans,
            states=self.states,
            hidden=model.arch.hidden,
            entries=entries(model.arch.hidden, self.cache.width),
            full_precision=self.cache.full_precision,
        )

    @torch.inference_mode()
    def outputs(self, batch: Batch) -> tuple[Tensor, Sequence[KeptState]]:
        """Return the logits of real tokens, or of inputs, and the kept part of the states."""
        model = self.opened.model
        device = model.hf.device
        batch = on_device(device, batch)
        mask = batch["attention_mask"].bool()
        kept: Sequence[KeptState] = ()
        # The precision of the training, as for a live teacher.
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            if self.states:
                trace = model.trace(batch)
                candidates = mask & (batch["input_ids"] != self.opened.tokenizer.sep_token_id)
                kept = keep_states(
                    trace,
                    self.states,
                    candidates=candidates,
                    tokens=self.cache.tokens,
                    width=self.cache.width,
                )
                logits = trace.logits
            else:
                logits = model(batch)
        return logits[mask] if model.task.per_token else logits, kept

    def _candidates(self, features: FeatureSet) -> Ints:
        """Return how many tokens of each feature may be kept."""
        allowed = features.input_ids != self.opened.tokenizer.sep_token_id
        return np.add.reduceat(allowed.astype(np.int64), features.offsets[:-1])


def cache_teacher(
    opened: Checkpoint,
    context: StageContext,
    *,
    cache: CacheConfig,
    training: TrainingConfig,
    plan: Plan,
    pairs: Pairs,
) -> CachedTeacher:
    """Store a teacher's outputs for all inputs of a training; the model may be freed then.

    A call that was killed is resumed. `pairs` are hidden states of student and teacher, none if
    only answers are followed. Raises QualaError when the disk has no room.
    """
    started = time.perf_counter()
    states = tuple(sorted({goal for _, goal in pairs}))
    recorder = _Recorder(opened, cache, states, training.precision == "bf16")
    layout = recorder.layout(plan.features, seen_features(plan, training))
    size = layout.bytes / MEBIBYTE
    context.logger.info(
        "The teacher's outputs for %d inputs take %.1f MiB on disk.", len(layout.rows), size
    )
    store = AnswerStore(context.scratch / FOLDER, layout)
    opened.model.eval().to(training_device())

    def outputs(slots: Sequence[int]) -> tuple[Tensor, Sequence[KeptState]]:
        rows = layout.rows[slots].tolist()
        return recorder.outputs(plan.features.batch(rows, pad_to=plan.pad_to))

    batches = eval_batches(plan.features.lengths[layout.rows], training.batch_size)
    fill(store, batches, outputs, context, what="the teacher's outputs", training=training)
    seconds = time.perf_counter() - started
    return CachedTeacher(store, pairs, {"cache/mebibytes": size, "cache/seconds": seconds})


def followed_states(
    cache: CacheConfig,
    pairs: Sequence[tuple[int, int]],
    *,
    student: int,
    teacher: int,
    embeddings: int = 0,
) -> Pairs:
    """Return the pairs of a student's hidden state and the cached one that it follows.

    `pairs` are layers, `student` and `teacher` the numbers of layers, `embeddings` is as in
    `hidden_pairs`. Raises QualaError for
    options that do not fit the two depths.
    """
    states = hidden_pairs(pairs, embeddings)
    if cache.top is not None:
        states = spread_states(student, top=cache.top, teacher=teacher)
    return some_states(states, depth=cache.depth, states=cache.states)


def fill(
    store: AnswerStore,
    batches: Sequence[list[int]],
    outputs: Callable[[Sequence[int]], tuple[Tensor, Sequence[KeptState]]],
    context: StageContext,
    *,
    what: str,
    training: TrainingConfig,
) -> None:
    """Write the outputs of batches of slots, but for those that are stored already."""
    done = store.done(batches)
    committed = time.monotonic()
    with context.progress(f"{context.name}: {what}", len(batches)) as progress:
        progress.advance(done)
        for number, slots in enumerate(batches[done:], start=done + 1):
            store.write(slots, *outputs(slots))
            progress.advance()
            minutes = (time.monotonic() - committed) / 60
            if number == len(batches) or minutes >= training.checkpoint_minutes:
                store.commit(batches[:number])
                committed = time.monotonic()


def seen_features(plan: Plan, training: TrainingConfig) -> Ints:
    """Return the features that the training will use, rising: all if it takes an epoch or more."""
    batches = step_batches(plan.features, training, plan.total_steps)
    if plan.total_steps >= batches.steps_per_epoch:
        return np.arange(len(plan.features))
    return np.unique(np.concatenate(list(batches)))


def offsets_of(counts: Ints) -> Ints:
    """Return where each of some lists of these lengths begins, and the end, if they are joined."""
    return np.concatenate(([0], np.cumsum(counts)))
