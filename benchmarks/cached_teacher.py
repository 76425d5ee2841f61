"""What a stored teacher saves over one in the loop, and after how many epochs it has paid.

python benchmarks/cached_teacher.py --student-layers 3 --questions 256 --repeats 3 --threads 1

The offline backbone teaches some of its own layers on the embedded questions: answers and hidden
states, all of these in the loop, the published example's share (1 state, 10 tokens, a tenth of the
width) from the cache, or all with `--whole`. Every repetition trains one epoch each way, by turns;
ratios are medians over repetitions, the cost of the cache is that of storing the same epoch. On a
machine with other work, one thread's processor time says more than the clock.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from quala.checkpoint import Checkpoint, load_with_data, set_dropout
from quala.compress.layer_maps import layer_pairs, layers_to_keep
from quala.compress.losses import LossSetup
from quala.compress.structure import keep_layers
from quala.data.spec import DataSpec
from quala.models.adaptive import LengthAdaptiveModel
from quala.stages.distill import DistillModule
from quala.stages.distill_options import CacheConfig, DistillConfig
from quala.stages.teacher import (
    CachedTeacher,
    LiveTeacher,
    Teacher,
    cache_teacher,
    followed_states,
)
from quala.stages.training import Plan, fit, plan_training
from quala.workflow import StageContext
from quala.workflow.compose import composed, typed
from quala.workflow.script import find_workflow

T = TypeVar("T")
Seconds = tuple[float, float]


@dataclass(frozen=True)
class Setting:
    """One distillation, by a teacher of either kind."""

    opened: Checkpoint
    config: DistillConfig
    plan: Plan
    kept: list[int]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The student's layers, and the teacher's that they follow."""
        depth = self.opened.model.num_layers
        return layer_pairs(self.kept, teacher=depth, student=len(self.kept))

    def cached(self, folder: Path) -> CachedTeacher:
        """Store what the teacher says of one epoch."""
        depths = {"student": len(self.kept), "teacher": self.opened.model.num_layers}
        return cache_teacher(
            self.opened,
            StageContext.alone("benchmark", folder),
            cache=self.config.cache,
            training=self.config,
            plan=self.plan,
            pairs=followed_states(self.config.cache, self.pairs, **depths),
        )

    def train(self, teacher: Teacher) -> None:
        """Train one epoch with the stage's loop, its checkpoint at the end included."""
        student = LengthAdaptiveModel(keep_layers(self.opened.model.hf, self.kept))
        student.requires_grad_(True)  # a copy of a teacher that is frozen by now
        setup = LossSetup(self.opened.data.task, self.pairs)
        module = DistillModule(student, teacher, self.config, self.plan, setup=setup)
        with tempfile.TemporaryDirectory() as folder:
            context = StageContext.alone("benchmark", Path(folder))
            fit(module, context)


def setting(args: argparse.Namespace) -> Setting:
    """Return the preset `hsk` on the embedded questions, the offline backbone as teacher."""
    spec = DataSpec(
        task="squad", name="demo", max_length=args.length, doc_stride=64, max_train=args.questions
    )
    opened = load_with_data("offline", spec, head="or_new")
    workflow = find_workflow("quala_minilm")
    preset = typed(composed(workflow, ["stage/distill=hsk"]), workflow).stages["distill"]
    config = replace(
        preset,
        epochs=1,
        max_steps=None,
        batch_size=args.batch_size,
        freeze_word_embeddings=True,
        precision=args.precision,
        checkpoint_minutes=60.0,
        cache=CacheConfig() if args.whole else preset.cache,
    )
    depth = opened.model.num_layers
    kept = layers_to_keep("uniform", depth=depth, kept=args.student_layers)
    set_dropout(opened.model.hf, hidden=0.0, attention=0.0)
    return Setting(
        opened, config, plan_training(opened.data.train.features, config, pad_to=None), kept
    )


def timed(work: Callable[[], T]) -> tuple[T, Seconds]:
    """Return what a piece of work returns, and its seconds by the wall and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    made = work()
    return made, (time.perf_counter() - wall, time.process_time() - processor)


def report(name: str, costs: list[float], live: list[float], cached: list[float]) -> None:
    """Print the medians of one clock, their ratio, and after how many epochs a cache has paid."""
    cost, looped, stored = (statistics.median(seconds) for seconds in (costs, live, cached))
    ratio = statistics.median(one / other for one, other in zip(live, cached))
    saved = statistics.median(one - other for one, other in zip(live, cached))
    paid = f"{cost / saved:.2f} epochs" if saved > 0 else "never"
    print(
        f"{name}: epoch with the teacher in the loop {looped:.2f} s, cached {stored:.2f} s, ratio "
        f"{ratio:.2f}x; the cache takes {cost:.2f} s, which pays after {paid}"
    )


def main() -> None:
    """Print both epochs' seconds, their ratio, the cache's cost and when it has paid."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--student-layers", type=int, default=3)
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--whole", action="store_true", help="store all hidden states")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(args.threads)
    case = setting(args)
    costs: list[Seconds] = []
    live: list[Seconds] = []
    cached: list[Seconds] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.repeats):
            place = Path(folder) / str(number)
            teacher, cost = timed(lambda place=place: case.cached(place))
            looped = LiveTeacher(case.opened.model)
            costs.append(cost)
            live.append(timed(lambda looped=looped: case.train(looped))[1])
            cached.append(timed(lambda teacher=teacher: case.train(teacher))[1])
    lengths = case.plan.features.lengths
    size = teacher.figures["cache/mebibytes"]
    print(f"{len(lengths)} inputs of {lengths.mean():.0f} tokens, {size:.2f} MiB on disk")
    for clock, name in enumerate(("wall clock", "processor time")):
        report(name, *([one[clock] for one in seconds] for seconds in (costs, live, cached)))


if __name__ == "__main__":
    main()
