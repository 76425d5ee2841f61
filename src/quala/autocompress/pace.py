"""How fast a model is on this machine, and how large its data are, from a few of their inputs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from quala.data.formats import format_of
from quala.data.tokenize import FastTokenizer
from quala.errors import QualaError

if TYPE_CHECKING:
    from quala.autocompress.subject import Subject
    from quala.checkpoint import Checkpoint
    from quala.data.features import Batch, FeatureSet
    from quala.data.spec import DataSpec
    from quala.models.adaptive import LengthAdaptiveModel

INPUTS, BATCH = 32, 8
"""Inputs that are timed, and how many at a time: seconds for MiniLM on one core, more with windows
of 384 tokens."""
CUT = 0.01
"""Share of the inputs that may be longer than `data.max_length`. A guess."""
MOST_TOKENS = 512
WIDTHS, DEPTHS = [1.0, 0.75, 0.5], [1.0, 0.67]
"""Those of `stage/length_adapt=elastic`."""


@dataclass(frozen=True)
class Pace:
    """Seconds on this machine, each by an example's inputs: windows of a long text count apart.

    `forward` and `train` (forward and backward, in `precision`) are for one input at full length;
    `tokenize` is for one example, which has `windows` inputs: those of a long text, or the two
    texts of a pair for embeddings. `read` opens the model and the data.
    """

    read: float
    tokenize: float
    windows: float
    forward: float
    train: float
    precision: str


@dataclass(frozen=True)
class Sizes:
    """Examples of each slice, the task that their labels make, and whether the model can narrow.

    A model that narrows works without some of its heads, neurons and layers.
    """

    train: int
    search: int
    selection: int
    test: int
    task: str = ""
    narrows: bool = False


def fitted(subject: Subject, words: Sequence[str]) -> list[str]:
    """Return the overrides that fit the windows of the data to the model and its texts.

    None where the user sets `data.max_length`. Texts have the least power of two times 128 that
    cuts at most a hundredth of them.
    """
    from quala.checkpoint import load_data
    from quala.cost import architecture_of
    from quala.models.load import read_config

    spec = subject.settings.data
    if any(word.startswith("data.max_length=") for word in words):
        return []
    most = architecture_of(read_config(subject.folder).to_dict()).longest
    length = min(spec.max_length, most)
    if subject.task == "question-answering":
        if length == spec.max_length:
            return []
        stride = min(spec.doc_stride, length // 4)
        question = min(spec.max_question_length, length // 4)
        return [
            f"data.max_length={length}",
            f"data.doc_stride={stride}",
            f"data.max_question_length={question}",
        ]
    with quiet():
        spec = replace(spec, max_length=length, doc_stride=min(spec.doc_stride, length // 4))
        tokenizer, data = load_data(subject.folder, spec)
        examples = _spread(data.train.examples, 10 * INPUTS)
        fast = FastTokenizer.of(tokenizer)
        while length < min(most, MOST_TOKENS):
            found = _features(examples, fast, replace(spec, max_length=length))
            if sum(count >= length for count in found.lengths) <= CUT * len(found):
                break
            length = min(2 * length, most, MOST_TOKENS)
    own = subject.settings.data
    words = [] if length == own.max_length else [f"data.max_length={length}"]
    if subject.task == "token-classification" and spec.doc_stride < own.doc_stride:
        words.append(f"data.doc_stride={spec.doc_stride}")
    return words


def measured(subject: Subject) -> tuple[Pace, Sizes]:
    """Read the data and time the model on a few of them.

    Raises QualaError for data and models that do not fit, as the workflow would later.
    """
    from quala.checkpoint import load_with_data
    from quala.data.task import Span

    spec, start = subject.settings.data, time.perf_counter()
    with quiet():
        opened = load_with_data(subject.folder, spec, head="or_new" if subject.bare else "own")
        data = opened.data
        parts = (data.train, data.search, data.selection, data.test)
        train, search, selection, test = (len(part.examples) for part in parts)
        # Answers keep `span`, which a narrower model would have to give up.
        plain = not data.task.headless and not isinstance(data.task, Span)
        narrows = plain and _narrows(opened.model)
        sizes = Sizes(train, search, selection, test, data.task.kind, narrows)
        read = time.perf_counter() - start
        if not train:
            raise QualaError("The data leave no example to train on or to calibrate with.")
        if not search and subject.settings.stages["search"].enabled:
            raise QualaError(
                f"The {train:,} examples to train on leave none to search with: give more, or "
                "leave the search out with `stage.search.enabled=false`."
            )
        examples = _spread(data.train.examples, INPUTS)
        start = time.perf_counter()
        features = _features(examples, FastTokenizer.of(opened.tokenizer), spec)
        tokenize = (time.perf_counter() - start) / len(examples)
    windows = len(features) / len(examples)
    return Pace(read, tokenize, windows, *_timed(opened, _batches(features))), sizes


def _narrows(model: LengthAdaptiveModel) -> bool:
    """Tell whether the widths and depths of the elastic recipe are sizes that a model can have."""
    from quala.stages.length_adapt import elastic_order

    try:
        elastic_order(model.hf, WIDTHS, DEPTHS)
    except QualaError:
        return False
    return True


def _features(examples: Any, tokenizer: FastTokenizer, spec: DataSpec) -> FeatureSet:
    return format_of(spec).features(examples, tokenizer, spec)


def _spread(examples: Sequence[Any], count: int) -> list[Any]:
    return list(examples[:: max(1, len(examples) // count)][:count])


def _batches(features: FeatureSet) -> list[Batch]:
    """Return batches of inputs of like length, as a training has them."""
    from quala.data.batches import eval_batches

    rows = _spread(range(len(features)), INPUTS)
    cut = eval_batches(features.lengths[rows], BATCH)
    return [features.batch([rows[one] for one in part]) for part in cut]


def _timed(opened: Checkpoint, batches: Sequence[Batch]) -> tuple[float, float, str]:
    """Return the seconds of an input in a forward pass, in a training pass, and the precision.

    bfloat16 is slower than float32 on processors without instructions for it.
    """
    import torch

    from quala.checkpoint import on_device
    from quala.compress.losses import soft_loss
    from quala.stages.outside_teacher import training_device

    model, count = opened.model, sum(len(batch["input_ids"]) for batch in batches)
    model.eval()
    with torch.inference_mode():
        model(batches[0])
        start = time.perf_counter()
        for batch in batches:
            model(batch)
    forward = (time.perf_counter() - start) / count
    model.hf.get_input_embeddings().requires_grad_(False)
    device = training_device()
    cast(Any, model.hf).to(device)
    model.train()
    some = batches[::2]  # training passes take three times as long
    count = sum(len(batch["input_ids"]) for batch in some)

    def seconds(precision: str) -> float:
        enabled = precision == "bf16"
        taken = 0.0
        for number, batch in enumerate([some[0], *some]):  # the first one warms up
            start = time.perf_counter()
            moved = on_device(device, batch)
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                logits, task = model(moved), model.task
                if task.headless:  # has no labels to learn
                    loss = soft_loss(task, logits, logits.detach(), moved)
                else:
                    loss = task.loss(logits, moved)
            loss.backward()
            float(loss.detach())  # waits for a GPU
            taken += (time.perf_counter() - start) if number else 0.0
        model.hf.zero_grad(set_to_none=True)
        return taken / count

    found = {precision: seconds(precision) for precision in ("bf16", "fp32")}
    best = min(found, key=lambda one: found[one])
    return forward, found[best], best


@contextmanager
def quiet() -> Iterator[None]:
    """Say nothing of the data: the workflow does."""
    logger = logging.getLogger("quala")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
