"""The training loop: plan, progress, checkpoints, resumption, selection of weights."""

from __future__ import annotations

import hashlib
import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader
from transformers import get_scheduler

from quala.compress.quantize.integer import precision_of
from quala.data.batches import BatchDataset, BatchPlan, StepBatches
from quala.data.decode import NotFinite
from quala.durable import is_whole_zip, replacing
from quala.errors import QualaError, Terminated

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from quala.checkpoint import Checkpoint
    from quala.data.features import Batch, FeatureSet
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.stage import Progress, StageContext
    from quala.stages.options import Schedule, TrainingConfig

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint so that a kill or a power cut leaves no partial file.

    Lightning would write it to memory and to the folder of temporary files before.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        with replacing(Path(path)) as partial:
            torch.save(checkpoint, partial)


class ClockCallback(Callback):
    """Count the seconds of a training over all processes that worked on it.

    Steps that a killed process took after its last checkpoint are repeated, and count once.
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
        # Checkpoints of earlier versions have no seconds.
        self.before = float(state_dict.get("seconds", 0.0))


class ProgressCallback(Callback):
    """Advance the bar with each step and log the mean losses since the last log line."""

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


class FiniteCallback(Callback):
    """Stop at the first step whose loss is not finite, and at the last if the model is not.

    Raises QualaError, before a checkpoint or a selection of that step.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        training = cast("TrainingModule", module)
        for name, loss in training.losses.items():
            if not math.isfinite(value := float(loss)):
                raise diverged(training, f"the loss `{name}` is {value}")
        if trainer.global_step < training.plan.total_steps:
            return
        training.model.eval()
        with torch.no_grad():
            logits = training.model(batch)
        training.model.train()
        if not all_finite([*training.model.parameters(), logits]):
            raise diverged(training, "weights or outputs are not finite")


def diverged(module: TrainingModule, what: str) -> QualaError:
    """Return the error of a training that cannot go on."""
    return QualaError(
        f"The training diverged: {what} at step {module.global_step} of "
        f"{module.plan.total_steps}, `learning_rate` {module.settings.learning_rate:g}; try a "
        "lower rate, or `gradient_clip`."
    )


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether every value is a finite number."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


class CheckpointCallback(Callback):
    """Save the training every few minutes and at its end; the newest two files are kept.

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
        for old in checkpoints(self.folder)[2:]:
            old.unlink()
        self.saved = time.monotonic()


class SelectionCallback(Callback):
    """Keep the weights that score best on the selection slice."""

    def __init__(self, context: StageContext, every: int, score: Callable[[], float]):
        self.context, self.every, self.score = context, every, score
        self.best_score, self.best_step, self.digest = float("-inf"), 0, ""

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_score": self.best_score,
            "best_step": self.best_step,
            "digest": self.digest,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
        self.digest = state_dict.get("digest", "")

    def holds(self, state: dict[str, Any]) -> bool:
        """Tell whether the selected weights of a checkpoint are there as they were written."""
        step, digest = state.get("best_step", 0), state.get("digest", "")
        if not step:
            return True
        file = self.weights(step)
        return file.is_file() and digest in ("", _digest(file))  # older ones have none

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
        try:
            score = self.score()
        except NotFinite as error:
            raise diverged(training, "outputs are not finite") from error
        training.model.train()
        self.context.log_metrics({"selection/score": score}, step=step)
        if score > self.best_score:
            file = self.weights(step)
            with replacing(file) as partial:
                save_file(training.model.hf.state_dict(), partial)
            self.best_score, self.best_step, self.digest = score, step, _digest(file)


# The names in Transformers; both rise linearly over the warm-up first.
_SCHEDULES: dict[Schedule, str] = {"linear": "linear", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Plan:
    """The optimizer steps of a training, and their batches."""

    features: FeatureSet
    total_steps: int
    pad_to: int | None

    def loader(self, config: TrainingConfig, start: int) -> DataLoader[Batch]:
        """Return the batches from the step `start` on, a pure function of the seed."""
        batches = step_batches(self.features, config, self.total_steps)
        dataset = BatchDataset(self.features, pad_to=self.pad_to)
        return _StatelessLoader(dataset, sampler=batches.resumed(start), batch_size=None)


class _StatelessLoader(DataLoader["Batch"]):
    """A loader that Lightning may resume: it is made for the step that training resumes at."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the trainer's step is all that a resumption needs."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the loader was made for the trainer's step."""


def step_batches(features: FeatureSet, config: TrainingConfig, total_steps: int) -> StepBatches:
    """Return the training batches, in an order that depends on the seed."""
    plan = BatchPlan(seed=config.seed, batch_size=config.batch_size, bucketed=config.bucketed)
    return StepBatches(features.lengths, plan, total_steps=total_steps)


def plan_training(features: FeatureSet, config: TrainingConfig, *, pad_to: int | None) -> Plan:
    """Convert epochs to optimizer steps, at most `max_steps`."""
    per_epoch = -(-len(features) // config.batch_size)
    steps = max(1, round(per_epoch * config.epochs))
    if config.max_steps is not None:
        steps = min(steps, config.max_steps)
    return Plan(features, steps, pad_to)


def train_batches(opened: Checkpoint, config: TrainingConfig, count: int) -> Iterator[Batch]:
    """Yield the first `count` batches of the train slice, at most those of one epoch."""
    features = opened.data.train.features
    batches = min(count, math.ceil(len(features) / config.batch_size))
    for rows in step_batches(features, config, batches):
        yield features.batch(rows, pad_to=opened.pad_to)


class TrainingModule(pl.LightningModule):
    """A model in training: AdamW, a learning rate schedule, a random state for each step.

    Subclasses define `training_step`. The random state of a step depends on the seed and the step
    alone, so a resumed training has the same batches, dropout masks and sampled lengths as one
    that was not interrupted. Raises QualaError for an integer model, which has no gradients.
    """

    def __init__(self, model: LengthAdaptiveModel, config: TrainingConfig, plan: Plan):
        super().__init__()
        precision = precision_of(model)
        if precision != "fp32":
            raise QualaError(f"Only float models can be trained further, got {precision} weights.")
        self.model = model
        self.settings = config
        self.plan = plan
        self.losses: dict[str, Tensor] = {}
        if config.freeze_word_embeddings:
            model.hf.get_input_embeddings().requires_grad_(False)

    @property
    def passes(self) -> int:
        """Forward and backward passes of one optimizer step."""
        return 1

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return AdamW's groups; biases and LayerNorms have no weight decay."""
        decay: list[Parameter] = []
        rest: list[Parameter] = []
        for parameter in self.parameters():
            if parameter.requires_grad:
                (decay if parameter.ndim > 1 else rest).append(parameter)
        weight_decay = self.settings.weight_decay
        return [
            {"params": decay, "weight_decay": weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]

    def configure_optimizers(self) -> Any:
        rate = self.settings.learning_rate
        optimizer = torch.optim.AdamW(self.parameter_groups(), lr=rate, fused=True)
        total = self.plan.total_steps
        warmup = round(self.settings.warmup_ratio * total)
        schedule = get_scheduler(
            _SCHEDULES[self.settings.schedule],
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=total,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients.

        Lightning's own clipping refuses fused optimizers, which may have gradients to unscale;
        neither float32 nor bfloat16 scales any.
        """
        if gradient_clip_val:
            clip_grad_norm_(self.parameters(), gradient_clip_val)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.plan.loader(self.settings, start=self.global_step)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(self.settings.seed * 1_000_003 + self.global_step)


def fit(
    module: TrainingModule, context: StageContext, *, score: Callable[[], float] | None = None
) -> dict[str, float]:
    """Train to the end of the plan, from the newest whole checkpoint in the scratch folder if any.

    `score` is the metric on the selection slice. With `selection_every` the weights that score
    best are in `module.model` afterwards. Returns the final training figures.
    """
    config, total = module.settings, module.plan.total_steps
    clock = ClockCallback()
    with context.progress(f"{context.name}: training", total) as progress:
        callbacks: list[Callback] = [
            FiniteCallback(),
            clock,
            ProgressCallback(context, config, progress),
        ]
        selection = None
        if score is not None and config.selection_every is not None:
            selection = SelectionCallback(context, config.selection_every, score)
            callbacks.append(selection)
        module.model.train()
        with _quiet():
            trainer = _trainer(module, context, callbacks)
            _resume(trainer, module, selection, checkpoints(context.scratch))
    if selection is not None:
        if not selection.best_step:
            raise QualaError("No step can be selected: every score on the selection slice is NaN.")
        best = load_file(selection.weights(selection.best_step))
        module.model.hf.load_state_dict(best)
    module.model.eval()
    figures = {
        "train/steps": float(total),
        "train/passes": float(total * module.passes),
        "train/seconds": clock.seconds,
    }
    return figures | ({"selection/best": selection.best_score} if selection else {})


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Lightning's notices of its set-up, and a deprecation inside it."""
    notices = logging.getLogger("pytorch_lightning")
    level = notices.level
    notices.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
            yield
    finally:
        notices.setLevel(level)


def _trainer(
    module: TrainingModule, context: StageContext, callbacks: list[Callback]
) -> pl.Trainer:
    config = module.settings
    return pl.Trainer(
        accelerator="auto",
        devices="auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_steps=module.plan.total_steps,
        max_epochs=-1,
        callbacks=[*callbacks, CheckpointCallback(context.scratch, config.checkpoint_minutes)],
        enable_checkpointing=False,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=context.scratch,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=config.gradient_clip if module.automatic_optimization else None,
    )


def _resume(
    trainer: pl.Trainer,
    module: TrainingModule,
    selection: SelectionCallback | None,
    files: Sequence[Path],
) -> None:
    """Train on from the first whole file; from one of the last step only weights are loaded."""
    checkpoint = None
    for file in files:
        saved = (
            torch.load(file, map_location="cpu", weights_only=True) if is_whole_zip(file) else {}
        )
        states = saved.get("callbacks", {})
        if saved and (not selection or selection.holds(states.get(selection.state_key, {}))):
            checkpoint = file
            break
        log.warning("The checkpoint `%s` is torn, as after a power cut: it is not used.", file)
    if checkpoint is not None and saved["global_step"] >= module.plan.total_steps:
        module.load_state_dict(saved["state_dict"])
        for callback in cast("list[Callback]", cast(Any, trainer).callbacks):
            callback.load_state_dict(states.get(callback.state_key, {}))
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException as error:
        raise Terminated from error
    except SystemExit as error:  # Lightning's answer to Ctrl-C, which it ignores from then on
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
        raise KeyboardInterrupt from error


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a training, newest first."""
    return sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
