"""What a stored teacher saves over one in the loop, and after how many epochs it has paid.

python benchmarks/cached_teacher.py --student-layers 3 --questions 256 --repeats 3 --threads 2

The offline backbone teaches some of its own layers on the embedded questions: answers and hidden
states, all of these in the loop, the published example's share (1 state, 10 tokens, a tenth of the
width) from the cache, or all with `--whole`. Every repetition trains one epoch each way, by turns;
ratios are medians over repetitions, the cost of the cache is that of storing the same epoch.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from quala.compress.distill.layer_map import layer_pairs
from quala.compress.layers.maps import layers_to_keep
from quala.compress.layers.reduce import keep_layers
from quala.data.spec import DataSpec
from quala.models.adaptive import LengthAdaptiveModel
from quala.stages.cache_config import CacheConfig
from quala.stages.cached_teacher import CachedTeacher, cache_teacher, taught_states
from quala.stages.checkpoint import Opened, open_checkpoint, set_dropout
from quala.stages.distill import DistillModule
from quala.stages.distill_config import DistillConfig
from quala.stages.teacher import LiveTeacher, Teacher
from quala.stages.training import Plan, fit, plan_training
from quala.workflow import StageContext
from quala.workflow.compose import composed, typed
from quala.workflow.resources import find_workflow


@dataclass(frozen=True)
class Setting:
    """One distillation, by a teacher of either kind."""

    opened: Opened
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
            pairs=taught_states(self.config.cache, self.pairs, **depths),
        )

    def epoch_seconds(self, teacher: Teacher) -> float:
        """Train one epoch with the stage's loop, its checkpoint at the end included."""
        student = LengthAdaptiveModel(keep_layers(self.opened.model.hf, self.kept))
        student.requires_grad_(True)  # a copy of a teacher that is frozen by now
        task = self.opened.data.task
        module = DistillModule(student, teacher, task, self.config, self.plan, pairs=self.pairs)
        with tempfile.TemporaryDirectory() as folder:
            context = StageContext.alone("benchmark", Path(folder))
            started = time.perf_counter()
            fit(module, context)
            return time.perf_counter() - started


def setting(args: argparse.Namespace) -> Setting:
    """Return the preset `hsk` on the embedded questions, the offline backbone as teacher."""
    spec = DataSpec(
        task="squad", name="demo", max_length=args.length, doc_stride=64, max_train=args.questions
    )
    opened = open_checkpoint("offline", spec)
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
    live, cached, costs = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.repeats):
            teacher = case.cached(Path(folder) / str(number))
            costs.append(teacher.figures["cache/seconds"])
            live.append(case.epoch_seconds(LiveTeacher(case.opened.model)))
            cached.append(case.epoch_seconds(teacher))
        size = teacher.figures["cache/mebibytes"]
    cost = statistics.median(costs)
    saved = statistics.median(first - second for first, second in zip(live, cached))
    ratio = statistics.median(first / second for first, second in zip(live, cached))
    lengths = case.plan.features.lengths
    print(f"{len(lengths)} inputs of {lengths.mean():.0f} tokens, {case.plan.total_steps} steps")
    print(f"epoch, teacher in the loop:   {statistics.median(live):.2f} s")
    print(f"epoch, cached teacher:        {statistics.median(cached):.2f} s")
    print(f"in the loop / cached:         {ratio:.2f}x")
    print(f"the cache, once:              {cost:.2f} s, {size:.2f} MiB")
    paid = f"after {cost / saved:.2f} epochs" if saved > 0 else "never"
    print(f"it has paid:                  {paid}")


if __name__ == "__main__":
    main()
