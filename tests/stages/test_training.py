"""The training loop: resumable to the bit, selection of weights, plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from signal import SIGINT, SIGTERM, getsignal
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.optim.optimizer import register_optimizer_step_post_hook

from quala.compress.prune.config import ShrinkConfig
from quala.compress.prune.magnitude import PrunedWeights
from quala.compress.quantize.config import QuantizeConfig
from quala.data.spec import DataSpec
from quala.errors import QualaError, Terminated, guarded
from quala.models.load import weights_file
from quala.stages import distill, finetune, length_adapt
from quala.stages.distill_options import DistillConfig
from quala.stages.options import FinetuneConfig, LengthAdaptConfig, Schedule, TrainingConfig
from quala.stages.training import (
    AtomicCheckpointIO,
    ClockCallback,
    FiniteCallback,
    Plan,
    ProgressCallback,
    TrainingModule,
    checkpoints,
    plan_training,
)
from quala.workflow import StageContext

SPEC = DataSpec(
    task="squad", name="demo", max_length=128, doc_stride=32, max_question_length=32,
    max_train=48, max_test=8, search_size=8, selection_size=8,
)  # fmt: skip
COMMON: dict[str, Any] = {
    "seed": 3,
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "gradient_clip": 1.0,
    "checkpoint_minutes": 1e-9,
}
SANDWICH: dict[str, Any] = {
    "sampler": "length_drop",
    "bound": 0.2,
    "num_sandwich": 1,
    "layer_drop": 0.2,
    "direction": "reverse",
    "temperature": 1.0,
    "hard": 1.0,
    "sub_hard": 0.0,
    "teacher": 0.0,
    "significance": "question",
    "semantics": "natural",
}
# All that a quantized training carries from step to step: curvatures, learned steps, averages.
QUANTIZED: dict[str, Any] = {
    "layers": 1,
    "keep_map": "uniform",
    "temperature": 1.0,
    **dict.fromkeys(("hard", "soft", "hidden", "attention"), 1.0),
    "relation": 0.0,
    "relation_heads": 2,
    "calibration_batches": 2,
    "clip_learning_rate": 1e-2,
    "activation_clip_learning_rate": 1e-2,
    "quantizers": QuantizeConfig(
        weight_quantizer="lat", weight_bits=2, embedding_quantizer="lsq", embedding_bits=4,
        activation_range="ema",
    ),
}  # fmt: skip
PRUNED: dict[str, Any] = {**QUANTIZED, "quantizers": None, "shrink": ShrinkConfig(4.0)}
STAGES = {
    "distill": (distill.run, DistillConfig(**COMMON, **QUANTIZED)),
    "distill_pruned": (distill.run, DistillConfig(**COMMON, **PRUNED)),
    "finetune": (finetune.run, FinetuneConfig(**COMMON)),
    "length_adapt": (length_adapt.run, LengthAdaptConfig(**COMMON, **SANDWICH)),
}


class Killed(Exception):
    """Stands for a kill: nothing of the training handles it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the training with an exception after a number of steps."""
    original = ProgressCallback.on_train_batch_end

    def end(self: ProgressCallback, trainer: Any, *rest: Any) -> None:
        original(self, trainer, *rest)
        if trainer.global_step == step:
            raise Killed

    monkeypatch.setattr(ProgressCallback, "on_train_batch_end", end)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(weights_file(folder / "output"))


def run(stage: str, checkpoint: Path, folder: Path, **changes: Any) -> dict[str, float]:
    function, config = STAGES[stage]
    given = "teacher" if stage.startswith("distill") else "model"
    inputs = {given: checkpoint, "data": SPEC}
    config = replace(config, **changes)  # type: ignore[type-var]
    return function(config, StageContext.alone(stage, folder), inputs)  # type: ignore[operator]


def run_whole_and_killed(
    stage: str,
    checkpoint: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    **changes: Any,
) -> None:
    """Run a training to its end in `whole`, and once more until it is killed in `resumed`."""
    run(stage, checkpoint, folder / "whole", **changes)
    with monkeypatch.context() as patched:
        kill_at(patched, step)
        with pytest.raises(Killed):
            run(stage, checkpoint, folder / "resumed", **changes)


@pytest.mark.parametrize("stage", sorted(STAGES))
@pytest.mark.parametrize("step", [4, 7, 11])
def test_an_interrupted_training_ends_with_the_same_weights(
    stage: str,
    step: int,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_whole_and_killed(stage, tiny_checkpoint, tmp_path, monkeypatch, step)
    assert list((tmp_path / "resumed" / "scratch").glob("*.ckpt"))
    run(stage, tiny_checkpoint, tmp_path / "resumed")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("torn", [1, 2])
@pytest.mark.parametrize("harm", ["emptied", "shortened", "zeroed"])
def test_a_training_with_torn_checkpoints_ends_with_the_same_weights(
    harm: str, torn: int, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"max_steps": 6, "selection_every": 2}
    run_whole_and_killed("finetune", tiny_checkpoint, tmp_path, monkeypatch, 5, **changes)
    files = checkpoints(tmp_path / "resumed" / "scratch")
    assert len(files) == 2
    for file in files[:torn]:
        tear(file, harm)
    run("finetune", tiny_checkpoint, tmp_path / "resumed", **changes)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("harm", ["emptied", "shortened", "zeroed"])
def test_a_training_whose_selected_weights_are_torn_selects_again(
    harm: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"max_steps": 6, "selection_every": 2}
    run_whole_and_killed("finetune", tiny_checkpoint, tmp_path, monkeypatch, 5, **changes)
    for file in (tmp_path / "resumed" / "scratch").glob("selected-*"):
        tear(file, harm)
    run("finetune", tiny_checkpoint, tmp_path / "resumed", **changes)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def tear(file: Path, harm: str) -> None:
    raw = file.read_bytes()
    middle = len(raw) // 2
    zeroed = raw[:middle] + bytes(512) + raw[middle + 512 :]
    file.write_bytes({"emptied": b"", "shortened": raw[:middle], "zeroed": zeroed}[harm])


@pytest.mark.parametrize("stage", ["finetune", "length_adapt"])
def test_an_interrupted_training_at_a_constant_rate_ends_with_the_same_weights(
    stage: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(stage, tiny_checkpoint, tmp_path / "whole", schedule="constant", epochs=1)
    with monkeypatch.context() as patched:
        kill_at(patched, 4)
        with pytest.raises(Killed):
            run(stage, tiny_checkpoint, tmp_path / "resumed", schedule="constant", epochs=1)
    run(stage, tiny_checkpoint, tmp_path / "resumed", schedule="constant", epochs=1)
    run(stage, tiny_checkpoint, tmp_path / "falling", schedule="linear", epochs=1)
    whole, resumed, falling = (
        weights(tmp_path / name) for name in ("whole", "resumed", "falling")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], falling[name]) for name in whole)


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_the_rate_follows_its_schedule(schedule: Schedule, warmup: int) -> None:
    class Toy(TrainingModule):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.plan = Plan(None, 10, None)  # type: ignore[arg-type]
            changes = {"schedule": schedule, "warmup_ratio": warmup / 10, "learning_rate": 0.5}
            self.settings = TrainingConfig(**(COMMON | changes))
            self.layer = torch.nn.Linear(2, 2)
            self.pruned = PrunedWeights({})
            self.model = SimpleNamespace(hf=self.layer)  # type: ignore[assignment]

    made = Toy().configure_optimizers()
    rates = []
    for _ in range(10):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    rising = [step / warmup for step in range(warmup)]
    falling = [(10 - step) / (10 - warmup) for step in range(warmup, 10)]
    rest = falling if schedule == "linear" else [1.0] * (10 - warmup)
    assert rates == pytest.approx([0.5 * share for share in rising + rest])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", ["finetune", "length_adapt"])
def test_gradients_are_clipped_by_the_norm_of_all(
    stage: str, precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    norms: dict[float, list[float]] = {0.01: [], 1e9: []}
    for most, seen in norms.items():

        def note(optimizer: torch.optim.Optimizer, *_: Any, seen: list[float] = seen) -> None:
            assert optimizer.defaults["fused"]
            groups = [group["params"] for group in optimizer.param_groups]
            grads = [one.grad for group in groups for one in group if one.grad is not None]
            seen.append(float(torch.nn.utils.get_total_norm(grads)))

        handle = register_optimizer_step_post_hook(note)
        try:
            changes = {"gradient_clip": most, "precision": precision, "max_steps": 2}
            run(stage, tiny_checkpoint, tmp_path / str(most), **changes)
        finally:
            handle.remove()
    assert norms[0.01] == pytest.approx([0.01, 0.01], rel=1e-3)
    assert min(norms[1e9]) > 0.1


def test_training_changes_the_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run("finetune", tiny_checkpoint, tmp_path)
    before, after = load_file(tiny_checkpoint / "model.safetensors"), weights(tmp_path)
    assert not torch.equal(before["qa_outputs.weight"], after["qa_outputs.weight"])


def test_frozen_word_embeddings_stay(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run("finetune", tiny_checkpoint, tmp_path, freeze_word_embeddings=True)
    name = "bert.embeddings.word_embeddings.weight"
    before = load_file(tiny_checkpoint / "model.safetensors")
    assert torch.equal(before[name], weights(tmp_path)[name])


def test_the_selected_weights_are_those_with_the_best_score(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    figures = run("finetune", tiny_checkpoint, tmp_path, selection_every=3)
    assert figures["selection/best"] == figures["selection/f1"]


@pytest.mark.parametrize("stage", sorted(STAGES))
@pytest.mark.parametrize("selection_every", [None, 1])
def test_a_training_that_diverges_is_an_error_that_names_step_and_rate(
    stage: str,
    selection_every: int | None,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quala.stage.check_ranges", lambda _: None)
    wild: dict[str, Any] = {"learning_rate": 1e30, "gradient_clip": None, "warmup_ratio": 0.0}
    wild |= {"selection_every": selection_every}
    step = "1" if selection_every else "2"
    sentence = rf"diverged: .* at step {step} of 14, `learning_rate` 1e\+30"
    with pytest.raises(QualaError, match=sentence):
        run(stage, tiny_checkpoint, tmp_path, **wild)
    assert not list((tmp_path / "output").iterdir())


def test_a_training_that_diverges_at_its_only_step_is_an_error(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quala.stage.check_ranges", lambda _: None)
    wild: dict[str, Any] = {"learning_rate": 1e30, "gradient_clip": None, "warmup_ratio": 0.0}
    with pytest.raises(QualaError, match="diverged: weights or outputs are not finite at step 1"):
        run("finetune", tiny_checkpoint, tmp_path, max_steps=1, **wild)
    assert not list((tmp_path / "scratch").glob("*.ckpt"))


def test_weights_of_the_last_step_are_finite(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FiniteCallback.on_train_batch_end

    def spoil(self: FiniteCallback, trainer: Any, module: Any, *rest: Any) -> None:
        if trainer.global_step == module.plan.total_steps:
            next(module.model.parameters()).data[0] = torch.nan  # what a last step may do
        original(self, trainer, module, *rest)

    monkeypatch.setattr(FiniteCallback, "on_train_batch_end", spoil)
    with pytest.raises(QualaError, match="weights or outputs are not finite at step 3 of 3"):
        run("finetune", tiny_checkpoint, tmp_path, max_steps=3)


def test_scores_that_are_no_numbers_select_nothing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "score_selection", lambda *_, **__: {"f1": float("nan")})
    with pytest.raises(QualaError, match="every score on the selection slice is NaN"):
        run("finetune", tiny_checkpoint, tmp_path, max_steps=2, selection_every=1)


def test_a_resumed_training_keeps_the_selection(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("finetune", tiny_checkpoint, tmp_path / "whole", selection_every=2)
    with monkeypatch.context() as patched:
        kill_at(patched, 7)
        with pytest.raises(Killed):
            run("finetune", tiny_checkpoint, tmp_path / "resumed", selection_every=2)
    resumed = run("finetune", tiny_checkpoint, tmp_path / "resumed", selection_every=2)
    assert whole["selection/best"] == resumed["selection/best"]
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("saved", "least"), [({"seconds": 1e6}, 1e6), ({}, 0.0)])
@pytest.mark.parametrize("step", [7, 12])  # 12 is the last: nothing is left to train
def test_a_resumed_training_counts_the_seconds_before_it(
    saved: dict[str, float],
    least: float,
    step: int,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(ClockCallback, "state_dict", lambda self: saved)
        kill_at(patched, step)
        with pytest.raises(Killed):
            run("finetune", tiny_checkpoint, tmp_path)
    seconds = run("finetune", tiny_checkpoint, tmp_path)["train/seconds"]
    assert least <= seconds < least + 1e5


@pytest.mark.parametrize(("stage", "each"), [("finetune", 1), ("length_adapt", 3)])
def test_passes_are_those_of_all_steps(
    stage: str, each: int, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward: list[int] = []
    original = torch.Tensor.backward

    def counted(self: torch.Tensor, *rest: Any, **more: Any) -> None:
        backward.append(1)
        original(self, *rest, **more)

    monkeypatch.setattr(torch.Tensor, "backward", counted)
    figures = run(stage, tiny_checkpoint, tmp_path, max_steps=2)
    assert figures["train/steps"] == 2
    assert figures["train/passes"] == len(backward) == 2 * each


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"), [(1, None, 6), (0.5, None, 3), (9, 4, 4)]
)
def test_a_plan_turns_epochs_into_steps(epochs: float, max_steps: int | None, steps: int) -> None:
    config = TrainingConfig(**(COMMON | {"epochs": epochs, "max_steps": max_steps}))

    class Features:
        def __len__(self) -> int:
            return 48

    assert plan_training(Features(), config, pad_to=None).total_steps == steps  # type: ignore[arg-type]


def test_weight_decay_spares_biases_and_norms() -> None:
    class Toy(TrainingModule):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.settings = TrainingConfig(**COMMON)
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))

    decay, rest = Toy().parameter_groups()
    assert [tuple(parameter.shape) for parameter in decay["params"]] == [(2, 3)]
    assert rest["weight_decay"] == 0
    assert len(rest["params"]) == 3


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt, 130), (Terminated, 143), (SIGTERMException, 143)]
)
def test_an_interrupted_training_ends_with_its_code_and_a_sentence(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: type[BaseException],
    code: int,
) -> None:
    def interrupt(self: FiniteCallback, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == 2:
            raise error

    before = getsignal(SIGINT), getsignal(SIGTERM)
    monkeypatch.setattr(FiniteCallback, "on_train_batch_end", interrupt)
    assert guarded(lambda: len(run("finetune", tiny_checkpoint, tmp_path))) == code
    assert "the same command goes on from here" in capsys.readouterr().err
    assert (getsignal(SIGINT), getsignal(SIGTERM)) == before
    assert not list((tmp_path / "output").iterdir())


def test_a_checkpoint_does_not_pass_through_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(2)}, tmp_path / "step=1.ckpt")
    assert torch.load(tmp_path / "step=1.ckpt")["a"].tolist() == [1.0, 1.0]
