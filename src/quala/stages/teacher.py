"""What a teacher says of a batch: a model in the loop, or one whose words were stored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from quala.checkpoint import TaskCheckpoint, on_device
from quala.compress.layer_maps import hidden_pairs
from quala.compress.partial_states import (
    KeptState,
    Pairs,
    entries,
    keep_states,
    some_states,
    spread_states,
)
from quala.data.batches import eval_batches
from quala.stages.teacher_cache import MEBIBYTE, AnswerStore, Ints, Layout
from quala.stages.training import Plan, step_batches

if TYPE_CHECKING:
    from torch import Tensor

    from quala.data.features import Batch, FeatureSet
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.models.selection import Trace
    from quala.stage import StageContext
    from quala.stages.distill_options import CacheConfig
    from quala.stages.options import TrainingConfig


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """The answers of a batch, and how the teacher got there: in full, or what was kept of it."""

    logits: Tensor  # (B, n, outputs) or (B, outputs)
    trace: Trace | None = None
    kept: tuple[tuple[int, KeptState], ...] = ()
    """The number of a student's state, and what it follows."""


class Teacher(Protocol):
    """Something that a student is taught by."""

    @property
    def width(self) -> int:
        """The width of the hidden states that it teaches."""

    @property
    def figures(self) -> Mapping[str, float]:
        """What its preparation cost, for the stage's final metrics."""

    def to(self, device: torch.device) -> None:
        """Say everything on a device from now on."""

    def say(self, batch: Batch, *, traced: bool) -> Said:
        """Return the answers to a batch and, if `traced`, the states behind them."""


class LiveTeacher:
    """A frozen model that answers every batch anew. It is no module: no checkpoint holds it."""

    def __init__(self, model: LengthAdaptiveModel):
        self.model = model.eval().requires_grad_(False)
        self.figures: Mapping[str, float] = {}

    @property
    def width(self) -> int:
        return self.model.arch.hidden

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    @torch.no_grad()
    def say(self, batch: Batch, *, traced: bool) -> Said:
        if not traced:
            return Said(self.model(batch))
        trace = self.model.trace(batch)
        return Said(trace.logits, trace=trace)


FOLDER = "teacher"


class CachedTeacher:
    """A teacher's stored answers, and what is kept of its hidden states.

    `pairs` are a student's state and the teacher's state that it follows.
    """

    def __init__(self, store: AnswerStore, pairs: Pairs, figures: Mapping[str, float]):
        self.store, self.pairs, self.figures = store, pairs, figures

    @property
    def width(self) -> int:
        return self.store.layout.hidden

    def to(self, device: torch.device) -> None:
        """Do nothing: the words go where the batch is."""

    def say(self, batch: Batch, *, traced: bool) -> Said:
        slots = self.store.layout.slots(batch["feature"].cpu().numpy())
        logits = self._logits(slots, batch["input_ids"])
        if not traced:
            return Said(logits)
        states = self.store.layout.states
        kept = dict(zip(states, self.store.states(slots, logits.device), strict=True))
        return Said(logits, kept=tuple((own, kept[goal]) for own, goal in self.pairs))

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
class _Speaker:
    """A teacher model, and what is kept of what it says."""

    opened: TaskCheckpoint
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
            answers=_offsets(lengths if spans else np.ones_like(lengths)),
            tokens=_offsets(kept),
            outputs=model.arch.outputs,
            spans=spans,
            states=self.states,
            hidden=model.arch.hidden,
            entries=entries(model.arch.hidden, self.cache.width),
            full_precision=self.cache.full_precision,
        )

    @torch.inference_mode()
    def words(self, batch: Batch) -> tuple[Tensor, Sequence[KeptState]]:
        """Return the logits of real tokens, or of inputs, and what is kept of the states."""
        model = self.opened.model
        device = model.hf.device
        batch = on_device(device, batch)
        mask = batch["attention_mask"].bool()
        kept: Sequence[KeptState] = ()
        # The arithmetic of the training, as if the teacher were in its loop.
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
    opened: TaskCheckpoint,
    context: StageContext,
    *,
    cache: CacheConfig,
    training: TrainingConfig,
    plan: Plan,
    pairs: Pairs,
) -> CachedTeacher:
    """Store what a teacher says of all that a training will see; the model may go then.

    Goes on where an earlier call was killed. `pairs` are hidden states of student and teacher,
    none where only answers are taught. Raises QualaError when the disk has no room.
    """
    started = time.perf_counter()
    states = tuple(sorted({goal for _, goal in pairs}))
    speaker = _Speaker(opened, cache, states, training.precision == "bf16")
    layout = speaker.layout(plan.features, _seen(plan, training))
    size = layout.bytes / MEBIBYTE
    context.logger.info(
        "The teacher's words on %d inputs take %.1f MiB on disk.", len(layout.rows), size
    )
    store = AnswerStore(context.scratch / FOLDER, layout)
    _fill(store, speaker, context, training=training, plan=plan)
    seconds = time.perf_counter() - started
    return CachedTeacher(store, pairs, {"cache/mebibytes": size, "cache/seconds": seconds})


def taught_states(
    cache: CacheConfig, pairs: Sequence[tuple[int, int]], *, student: int, teacher: int
) -> Pairs:
    """Return the hidden states of student and teacher that belong together under a cache.

    `pairs` are layers, `student` and `teacher` the numbers of layers. Raises QualaError for
    options that do not fit the two depths.
    """
    states = hidden_pairs(pairs)
    if cache.top is not None:
        states = spread_states(student, top=cache.top, teacher=teacher)
    return some_states(states, depth=cache.depth, states=cache.states)


def _fill(
    store: AnswerStore,
    speaker: _Speaker,
    context: StageContext,
    *,
    training: TrainingConfig,
    plan: Plan,
) -> None:
    rows = store.layout.rows
    batches = eval_batches(plan.features.lengths[rows], training.batch_size)
    done = store.batches
    speaker.opened.model.eval().to(_device())
    committed = time.monotonic()
    with context.progress(f"{context.name}: the teacher's words", len(batches)) as progress:
        progress.advance(done)
        for number, slots in enumerate(batches[done:], start=done + 1):
            batch = plan.features.batch(rows[slots].tolist(), pad_to=plan.pad_to)
            store.write(slots, *speaker.words(batch))
            progress.advance()
            minutes = (time.monotonic() - committed) / 60
            if number == len(batches) or minutes >= training.checkpoint_minutes:
                store.commit(number)
                committed = time.monotonic()


def _seen(plan: Plan, training: TrainingConfig) -> Ints:
    """Return the features that the training will see, rising: all where it sees an epoch."""
    batches = step_batches(plan.features, training, plan.total_steps)
    if plan.total_steps >= batches.steps_per_epoch:
        return np.arange(len(plan.features))
    return np.unique(np.concatenate(list(batches)))


def _offsets(counts: Ints) -> Ints:
    return np.concatenate(([0], np.cumsum(counts)))


def _device() -> torch.device:
    """Return where Lightning will train."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
