"""What happens around the steps of a training: progress, checkpoints, selection of weights."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback
from safetensors.torch import save_file

if TYPE_CHECKING:
    from quala.stages.training import TrainingModule
    from quala.stages.training_config import TrainingConfig
    from quala.workflow import Progress, StageContext


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and move it there, so that a kill leaves none half."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        partial = f"{path}.partial"
        super().save_checkpoint(checkpoint, partial, storage_options)
        os.replace(partial, path)


class ClockCallback(Callback):
    """Count the seconds of a training over all processes that worked on it.

    What a killed process did after its last checkpoint is done again, and counts once.
    """

    def __init__(self) -> None:
        self.before, self.started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds up to now."""
        return self.before + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A checkpoint of an earlier version knows no seconds.
        self.before = float(state_dict.get("seconds", 0.0))


class ProgressCallback(Callback):
    """Move the bar with the steps and log the mean losses since the last log line."""

    def __init__(self, context: StageContext, config: TrainingConfig, progress: Progress):
        self.context, self.config, self.progress = context, config, progress
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}  # a loss may belong to some of the steps only

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.progress.advance(trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.progress.advance()
        for name, value in cast("TrainingModule", module).losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1
        step = trainer.global_step
        if step % self.config.log_every == 0:
            means = {
                f"train/{name}": total / self.counts[name] for name, total in self.sums.items()
            }
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            self.context.log_metrics({**means, "train/learning_rate": rate}, step=step)
            self.sums, self.counts = {}, {}


class CheckpointCallback(Callback):
    """Save the training every few minutes and at its end; only the newest file is kept.

    Lightning's own callback saves nothing by time under manual optimization.
    """

    def __init__(self, folder: Path, minutes: float):
        self.folder, self.seconds = folder, 60 * minutes
        self.saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        last = trainer.global_step == cast("TrainingModule", module).plan.total_steps
        if not last and time.monotonic() - self.saved < self.seconds:
            return
        target = self.folder / f"step={trainer.global_step}.ckpt"
        trainer.save_checkpoint(target)
        for other in self.folder.glob("*.ckpt"):
            if other != target:
                other.unlink()
        self.saved = time.monotonic()


class SelectionCallback(Callback):
    """Keep the weights that score best on the selection slice."""

    def __init__(self, context: StageContext, every: int, score: Callable[[], float]):
        self.context, self.every, self.score = context, every, score
        self.best_score, self.best_step = float("-inf"), 0

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]

    def weights(self, step: int) -> Path:
        """Return the file that holds the weights of a step."""
        return self.context.scratch / f"selected-{step}.safetensors"

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        training = cast("TrainingModule", module)
        step = trainer.global_step
        if step % self.every and step != training.plan.total_steps:
            return
        training.model.eval()
        score = self.score()
        training.model.train()
        self.context.log_metrics({"selection/score": score}, step=step)
        if score > self.best_score:
            save_file(training.model.hf.state_dict(), self.weights(step))
            self.best_score, self.best_step = score, step
