"""Which steps fit into the minutes: the amounts of each stage, their time, and the overrides."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from quala.errors import QualaError
from quala.metrics.interval import SIGNED, Sample

if TYPE_CHECKING:
    from quala.autocompress.pace import Pace, Sizes
    from quala.workflow.settings import Settings

CALIBRATE, ADAPT, WHOLE = "calibration and search", "short adaptation", "whole recipe"
FEWEST, ENOUGH = 50, 400
"""Steps of a training with fewer of which a model gets worse, and from which on a teacher and a
training of the rounded model gain more than more steps do. Guesses, not tuned."""
EPOCHS, FINETUNE_EPOCHS = 3, 2
"""No training is longer."""
ROUNDED = 5
"""One step of five trains the rounded model."""
SCORING = 0.2
"""Share of the minutes for the search, and for the measurement."""
LEAST_TEST, LEAST_SEARCH, MOST_SEARCH, MOST_SELECTION = 200, 100, 1000, 200
LEAST_LENGTHS, MOST_LENGTHS = 30, 100
CALIBRATION = 512
"""Inputs that calibrate: those of the experiment."""
# Seconds by those of a forward or a training pass that `pace` times. All are guesses. One run on a
# shared core (embeddings of MiniLM, 300 pairs of STS-B) took 54, 14, 31, 44 and 12 s for
# length_adapt, quantize, search, measure and export, where they said 72, 12, 36, 42 and 12.
SHORTENED = 0.75  # of a training pass under sampled lengths
NARROWED = 0.5  # of one under sampled lengths, widths and depths
IMPORTANCE = 32  # batches that score heads and neurons
FAKE = 2.0  # of one on fake-quantized layers
OBSERVED = 1.5  # of a pass that calibrates
SHARED = 0.35  # of a pass of the search: lengths share layers, and bad ones are stopped early
SERVED = 0.6  # of a pass of the exported models, float and int8
TIMED, ALONE = 69, 1.5  # inputs timed for each row, each alone and on one thread
WRITTEN = 12.0  # graphs that are built and written: seconds for a small model


@dataclass(frozen=True)
class Amounts:
    """How much each stage does: with 0 steps `quantize` only calibrates, and others are off."""

    train: int
    test: int
    search: int
    selection: int
    lengths: int
    """Lengths that are searched."""
    points: int = 8
    """Points of the front that are measured."""
    finetune: int = 0
    adapt: int = 0
    quantize: int = 0
    teacher: bool = False
    narrow: bool = False
    """Whether `length_adapt` trains several widths and depths too."""
    rounds: bool = True
    """Whether `quantize` runs at all."""
    batch: int = 16
    calibration: int = CALIBRATION

    @classmethod
    def of(cls, settings: Settings, sizes: Sizes, *, windows: float, bare: bool) -> Amounts:
        """Return what a configuration amounts to, for data of so many inputs an example."""
        stages, data = settings.stages, settings.data
        adapt, quantize, search = (stages[one] for one in ("length_adapt", "quantize", "search"))
        train = min(data.max_train or sizes.train, sizes.train)

        def steps(config: Any, works: bool = True) -> int:
            if not (works and config.enabled and config.given is None):
                return 0
            own: int = max(1, round(train * windows / config.batch_size * config.epochs))
            return min(own, int(config.max_steps or own))

        return cls(
            train=train,
            test=min(data.max_test or sizes.test, sizes.test),
            search=min(data.search_size, sizes.search),
            selection=min(data.selection_size, sizes.selection),
            lengths=search.max_evaluations if search.enabled else 0,
            points=stages["measure"].front_points if search.enabled else 0,
            finetune=steps(stages["finetune"], bare),
            adapt=steps(adapt),
            quantize=steps(quantize, quantize.trains),
            teacher=bool(adapt.teacher),
            narrow=adapt.elastic,
            rounds=quantize.enabled and quantize.given is None,
            batch=adapt.batch_size,
            calibration=_inputs(
                train, windows, quantize.calibration_batches * quantize.batch_size
            ),
        )

    @property
    def recipe(self) -> str:
        """The name of the recipe."""
        if not self.adapt:
            return CALIBRATE
        return WHOLE if self.quantize else ADAPT

    @property
    def fewer(self) -> str:
        """What the model is trained to work with less of."""
        return "tokens, heads, neurons and layers" if self.narrow else "tokens"

    @property
    def told(self) -> str:
        """What the recipe does."""
        done = []
        if self.adapt:
            own = ", with itself as the teacher" if self.teacher else ""
            done.append(f"trains {{}} to work with fewer {self.fewer}{own}")
        if self.rounds:
            done.append("rounds {} to int8" + (" and trains that on" if self.quantize else ""))
        if self.lengths:
            done.append("searches the lengths" + " and sizes" * self.narrow + " of {}")
        text = ", then ".join(done).replace("{}", "the model", 1).replace("{}", "it")
        text = text or "measures the model"
        return text if self.adapt or self.quantize else f"{text}; nothing is trained"


def _inputs(examples: int, windows: float, most: int) -> int:
    return min(round(examples * windows), most)


def step_seconds(
    pace: Pace, stage: str, batch: int, *, teacher: bool = False, narrow: bool = False
) -> float:
    """Return the seconds of a training step; that of a sandwich has a full pass and two others."""
    sandwich = pace.train * (1 + 2 * (NARROWED if narrow else SHORTENED))
    each = {
        "finetune": pace.train,
        "length_adapt": sandwich + pace.forward * teacher,
        "quantize": sandwich * FAKE + pace.forward,
    }
    return batch * each[stage]


def seconds(amounts: Amounts, pace: Pace) -> dict[str, float]:
    """Return the estimated seconds of each stage that runs."""
    score = pace.windows * pace.forward  # of an example
    read = pace.read + amounts.train * pace.tokenize
    chosen = 2 * amounts.selection * score  # scored at full length and at the shortest
    found = {}
    if amounts.finetune:
        found["finetune"] = read + amounts.finetune * step_seconds(
            pace, "finetune", 2 * amounts.batch
        )
    if amounts.adapt:
        step = step_seconds(
            pace, "length_adapt", amounts.batch, teacher=amounts.teacher, narrow=amounts.narrow
        )
        scored = IMPORTANCE * amounts.narrow * amounts.batch * pace.train
        found["length_adapt"] = read + scored + amounts.adapt * step + chosen
    step = step_seconds(pace, "quantize", amounts.batch, narrow=amounts.narrow)
    calibrate = amounts.calibration * pace.forward * OBSERVED
    if amounts.rounds:
        found["quantize"] = read + calibrate + amounts.quantize * step + 2 * chosen
    if amounts.lengths:
        found["search"] = pace.read + amounts.lengths * amounts.search * score * SHARED
    found["measure"] = (
        pace.read
        + WRITTEN
        + _rows(amounts) * (amounts.test * (score * SERVED) + TIMED * pace.forward * ALONE)
    )
    found["export"] = pace.read + WRITTEN
    return found


def _rows(amounts: Amounts) -> int:
    return amounts.points + 2 + bool(amounts.adapt)


def choose(
    minutes: float,
    pace: Pace,
    sizes: Sizes,
    *,
    bare: bool,
    labels: bool = True,
    narrow: bool = False,
    batch: int = 16,
) -> Amounts:
    """Return the amounts that fit into the minutes, or the least where nothing does.

    Without `labels` to learn, as for embeddings, every training has the model itself as teacher.
    With `narrow` a training is one of widths and depths too.
    Raises QualaError for a model without a head that there is no time to train.
    """
    total = 60 * minutes
    score = pace.windows * pace.forward
    search = _between(LEAST_SEARCH, SCORING * total / (LEAST_LENGTHS * score * SHARED),
                      min(sizes.search, MOST_SEARCH))  # fmt: skip
    least = Amounts(
        train=sizes.train,
        test=_between(LEAST_TEST, SCORING * total / (11 * score * SERVED), sizes.test),
        search=search,
        selection=min(sizes.selection, MOST_SELECTION),
        lengths=_between(
            LEAST_LENGTHS, SCORING * total / (max(1, search) * score * SHARED), MOST_LENGTHS
        ),
        batch=batch,
        calibration=_inputs(sizes.train, pace.windows, CALIBRATION),
    )
    # Where little is trained, little is read: text is tokenized by each stage.
    least = replace(least, train=min(sizes.train, max(least.calibration, 1000)))
    epoch = sizes.train * pace.windows / batch
    left = total - sum(seconds(least, pace).values())
    if bare:
        least, left = _with_finetune(least, left, pace, sizes, minutes)
    most = max(1, round(EPOCHS * epoch))
    found = _trained(least, left, pace, most=most, labels=labels, narrow=narrow)
    if not found.adapt:  # to score heads and neurons takes what a few steps would
        found = _trained(least, left, pace, most=most, labels=labels, narrow=False)
    used = batch * max(found.adapt, found.quantize, 2 * found.finetune) / pace.windows
    found = replace(found, train=min(sizes.train, max(found.train, math.ceil(used))))
    spare = total - sum(seconds(found, pace).values())
    if spare > 0:  # more test examples promise more
        more = round(spare / (_rows(found) * score * SERVED))
        found = replace(found, test=min(sizes.test, found.test + more))
    return found


def _between(least: int, wanted: float, most: int) -> int:
    return min(most, max(least, round(wanted)))


def _trained(
    least: Amounts, left: float, pace: Pace, *, most: int, labels: bool, narrow: bool
) -> Amounts:
    """Return the amounts with the steps of the best recipe that fits into the seconds left."""
    batch = least.batch
    plain = sum(seconds(replace(least, adapt=1, narrow=narrow), pace).values())
    left -= plain - sum(seconds(least, pace).values())  # to read and to score
    # Three stages read what is trained on.
    text = 3 * batch * pace.tokenize / pace.windows
    rounded = step_seconds(pace, "quantize", batch, narrow=narrow) / (ROUNDED - 1)
    taught = step_seconds(pace, "length_adapt", batch, teacher=True, narrow=narrow)
    steps = int(left / (taught + rounded + text))
    if steps >= min(ENOUGH, most):
        steps = min(steps, most)
        rest = max(1, steps // (ROUNDED - 1))
        return replace(least, adapt=steps, quantize=rest, teacher=True, narrow=narrow)
    alone = step_seconds(pace, "length_adapt", batch, teacher=not labels, narrow=narrow)
    steps = int(left / (alone + text))
    if steps >= min(FEWEST, most):
        return replace(least, adapt=min(steps, most), teacher=not labels, narrow=narrow)
    return least


def _with_finetune(
    least: Amounts, left: float, pace: Pace, sizes: Sizes, minutes: float
) -> tuple[Amounts, float]:
    """Give half of the seconds left to a training of the head; the rest is for the recipe."""
    batch = 2 * least.batch
    step = step_seconds(pace, "finetune", batch)
    most = max(1, round(FINETUNE_EPOCHS * sizes.train * pace.windows / batch))
    needed = min(2 * FEWEST, most)
    steps = min(most, int(left / 2 / step))
    if steps < needed:
        # Of minutes that are added, those for search and measurement train nothing.
        more = (2 * needed * step - left) / 60 / (1 - 2 * SCORING)
        raise QualaError(
            "The model has no head for this task, and there is no time to train one: about "
            f"{math.ceil(minutes + more)} minutes are enough (`--minutes`)."
        )
    return replace(least, finetune=steps), left - steps * step


def overrides(amounts: Amounts, pace: Pace, sizes: Sizes) -> list[str]:
    """Return the overrides of the workflow that these amounts are, where they differ from it."""
    words = [f"data.search_size={amounts.search}", f"data.selection_size={amounts.selection}"]
    if amounts.train < sizes.train:
        words.append(f"data.max_train={amounts.train}")
    if amounts.test < sizes.test:
        words.append(f"data.max_test={amounts.test}")
    precision = [] if pace.precision == "bf16" else [pace.precision]
    if amounts.finetune:
        words += [
            f"stage.finetune.epochs={EPOCHS}",
            f"stage.finetune.max_steps={amounts.finetune}",
        ]
        words += [f"stage.finetune.precision={one}" for one in precision]
    if not amounts.adapt:
        words.append("stage.length_adapt.enabled=false")
    else:
        words += ["stage/length_adapt=elastic"] * amounts.narrow
        words.append(f"stage.length_adapt.max_steps={amounts.adapt}")
        words += [f"stage.length_adapt.precision={one}" for one in precision]
    if amounts.teacher:
        words.append("stage.length_adapt.teacher=1.0")
    if amounts.quantize:
        words += ["stage.quantize.method=qat", f"stage.quantize.max_steps={amounts.quantize}"]
        words += [f"stage.quantize.precision={one}" for one in precision]
    return [*words, f"stage.search.max_evaluations={amounts.lengths}"]


def described(amounts: Amounts) -> dict[str, str]:
    """Return what each stage that runs does, a phrase each."""
    found = {}
    batch, test = amounts.batch, f"{amounts.test:,} test examples"
    if amounts.finetune:
        found["finetune"] = f"{amounts.finetune:,} steps of {2 * batch}: the model has no head yet"
    if amounts.adapt:
        own = ", the model itself as teacher" if amounts.teacher else ""
        found["length_adapt"] = (
            f"{amounts.adapt:,} steps of {batch} with fewer {amounts.fewer}{own}"
        )
    trained = f", then {amounts.quantize:,} steps of {batch}" if amounts.quantize else ""
    if amounts.rounds:
        found["quantize"] = f"int8, calibrated on {amounts.calibration:,} inputs{trained}"
    if amounts.lengths:
        sizes = " and sizes" * amounts.narrow
        found["search"] = (
            f"{amounts.lengths} lengths{sizes} on {amounts.search:,} examples of train"
        )
    found["measure"] = f"up to {_rows(amounts)} models and lengths on {test}, and their times"
    found["export"] = "one folder: ONNX graph, tokenizer, front"
    return found


def least_loss(examples: int, metric: str) -> float:
    """Return the loss in points that equal answers to so many examples still allow at 95 %."""
    same = Sample(np.zeros(examples), examples, lowest=-100.0 if metric in SIGNED else 0.0)
    return same.loss(same)[1]
