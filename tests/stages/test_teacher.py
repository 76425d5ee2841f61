"""Distillation without a teacher in the loop: the same losses, resumable, nothing left behind."""

from __future__ import annotations

import dataclasses
import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quala.checkpoint import load_with_data
from quala.compress.partial_states import keep_states, kept_loss
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.stages import distill
from quala.stages import teacher as cached_teacher
from quala.stages.distill_options import CacheConfig
from quala.stages.student import make_student
from quala.stages.teacher_cache import AnswerStore
from quala.stages.training import ProgressCallback, step_batches
from quala.workflow import StageContext

Weights = dict[str, torch.Tensor]
Figures = list[dict[str, float]]
STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
LOSSES = {"hard": 0.5, "soft": 1.0, "hidden": 1.0, "relation": 0.0}
WHOLE = CacheConfig(full_precision=True)
LITTLE = CacheConfig(depth=1, tokens=10, width=0.1)


class Killed(Exception):
    """Stands for a kill: nothing of the training handles it."""


@pytest.fixture
def run(
    configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path, recording: Any
) -> Callable[..., tuple[Weights, Figures, dict[str, float]]]:
    """Return the stage as a function: options in, weights, logged and final figures out."""

    def done(
        name: str = "d", data: DataSpec = spec, teacher: Path = tiny_checkpoint, **changes: Any
    ) -> tuple[Weights, Figures, dict[str, float]]:
        config = configure("distill", **{"max_steps": 3, **LOSSES, **STILL, **changes})
        recorder = recording()
        output, scratch = tmp_path / name / "output", tmp_path / name / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        context = StageContext("distill", output, scratch, recorder=recorder)
        final = distill.run(config, context, {"data": data, "teacher": teacher})
        return load_file(output / "model.safetensors"), recorder.figures, final

    return done


@pytest.fixture
def classifier(tmp_path: Path, tiny_tokenizer_folder: Path) -> Path:
    """A teacher of two classes."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=128, num_labels=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inputs that a teacher was asked about before the training, batch by batch."""
    inputs: list[int] = []
    original = cached_teacher._Recorder.outputs

    def counted(self: Any, batch: Any) -> Any:
        inputs.extend(batch["feature"].tolist())
        return original(self, batch)

    monkeypatch.setattr(cached_teacher._Recorder, "outputs", counted)
    return inputs


def same(first: Weights, second: Weights) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def logged(figures: Figures) -> list[float]:
    names = [f"train/{name}" for name in LOSSES]
    return [one[name] for one in figures for name in names if name in one]


@pytest.mark.parametrize("options", [{}, {"hidden": 0.0, "temperature": 2.0}])
def test_losses_are_those_with_the_teacher_in_the_loop(run: Any, options: Any) -> None:
    # Rates near 0, so that what differs in the seventh digit does not grow.
    _, live, _ = run("live", learning_rate=1e-6, **options)
    _, cached, _ = run("cached", learning_rate=1e-6, cache=WHOLE, **options)
    assert len(logged(live)) == 3 * (2 if "hidden" in options else 3)
    assert logged(cached) == pytest.approx(logged(live), rel=1e-4, abs=1e-6)


def test_states_may_come_first_and_answers_afterwards(run: Any) -> None:
    options = {"learning_rate": 1e-6, "inner_first": 0.5, "max_steps": 2}
    _, live, _ = run("live", **options)
    _, cached, _ = run("cached", cache=WHOLE, **options)
    assert "train/hidden" in cached[0]
    assert "train/soft" not in cached[0]
    assert "train/soft" in cached[1]
    assert logged(cached) == pytest.approx(logged(live), rel=1e-4, abs=1e-6)


def test_half_precision_is_near_it(run: Any) -> None:
    _, live, _ = run("live", max_steps=1)
    _, cached, _ = run("cached", max_steps=1, cache=CacheConfig())
    # The student starts close to its teacher: what is compared are small differences.
    assert cached[0]["train/hidden"] == pytest.approx(live[0]["train/hidden"], rel=1e-2)
    assert cached[0]["train/soft"] == pytest.approx(live[0]["train/soft"], rel=1e-4)


def test_classes_are_taught_from_a_cache_too(
    run: Any, sentences: DataSpec, classifier: Path
) -> None:
    options = {"data": sentences, "teacher": classifier, "learning_rate": 1e-6}
    _, live, _ = run("live", **options)
    _, cached, _ = run("cached", cache=WHOLE, **options)
    assert logged(cached) == pytest.approx(logged(live), rel=1e-4, abs=1e-6)


def test_inputs_padded_to_one_length_are_cached_too(run: Any, spec: DataSpec) -> None:
    options = {"data": dataclasses.replace(spec, pad_to_max=True), "learning_rate": 1e-6}
    _, live, _ = run("live", **options)
    _, cached, _ = run("cached", cache=WHOLE, **options)
    assert logged(cached) == pytest.approx(logged(live), rel=1e-4, abs=1e-6)


def test_a_bfloat16_training_is_cached_as_it_would_hear(run: Any) -> None:
    _, live, _ = run("live", max_steps=1, precision="bf16")
    _, cached, _ = run("cached", max_steps=1, precision="bf16", cache=WHOLE)
    assert logged(cached) == pytest.approx(logged(live), rel=2e-2)


def test_the_hidden_loss_is_on_what_was_kept(
    run: Any, configure: Any, spec: DataSpec, tiny_checkpoint: Path
) -> None:
    cache = CacheConfig(tokens=4, width=0.25, depth=1, full_precision=True)
    _, figures, _ = run(max_steps=1, layers=1, cache=cache)
    opened = load_with_data(tiny_checkpoint, spec)
    features = opened.data.train.features
    config = configure("distill", max_steps=1)
    batch = features.batch(next(iter(step_batches(features, config, 1))))
    trace = opened.model.trace(batch)
    separators = batch["input_ids"] == opened.tokenizer.sep_token_id
    assert separators.any(dim=1).all()
    (kept,) = keep_states(trace, [2], candidates=trace.mask & ~separators, tokens=4, width=0.25)
    copied = {"teacher": tiny_checkpoint}
    student = make_student(configure("distill", layers=1), opened, copied).model.train()
    distill.set_dropout(student.hf, hidden=0.0, attention=0.0)
    expected = kept_loss(student.trace(batch).hidden, [(1, kept)]).item()
    assert figures[0]["train/hidden"] == pytest.approx(expected, rel=1e-4)


def test_every_input_is_spoken_of_once_and_no_more_in_training(
    run: Any, spoken: list[int], spec: DataSpec, tiny_checkpoint: Path
) -> None:
    run(cache=LITTLE, max_steps=None, epochs=3)
    train = load_with_data(tiny_checkpoint, spec).data.train.features
    assert sorted(spoken) == list(range(len(train)))


def test_a_training_of_less_than_an_epoch_caches_what_it_sees(
    run: Any, configure: Any, spoken: list[int], spec: DataSpec, tiny_checkpoint: Path
) -> None:
    run(cache=LITTLE, max_steps=1)
    train = load_with_data(tiny_checkpoint, spec).data.train.features
    (batch,) = step_batches(train, configure("distill"), 1)
    assert sorted(spoken) == sorted(batch)


def test_the_teacher_is_gone_while_the_student_learns(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[weakref.ref[LengthAdaptiveModel]] = []
    alive: list[bool] = []

    def watched(*args: Any, **options: Any) -> Any:
        found = load_with_data(*args, **options)
        opened.append(weakref.ref(found.model))
        return found

    def step(self: Any, trainer: Any, *rest: Any) -> None:
        gc.collect()
        alive.append(opened[-1]() is not None)

    monkeypatch.setattr(distill, "load_with_data", watched)
    monkeypatch.setattr(ProgressCallback, "on_train_batch_end", step)
    run("cached", cache=LITTLE, max_steps=1)
    run("live", max_steps=1)
    assert alive == [False, True]


@pytest.mark.parametrize("batches", [1, 3])
def test_a_cache_goes_on_where_it_was_killed(
    batches: int, run: Any, spoken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"cache": LITTLE, "max_steps": 4, "checkpoint_minutes": 1e-9}
    whole, _, _ = run("whole", **options)
    every = len(spoken)
    spoken.clear()
    with monkeypatch.context() as patched:
        original = AnswerStore.commit

        def killed(self: AnswerStore, written: Any) -> None:
            original(self, written)
            if len(written) == batches:
                raise Killed

        patched.setattr(AnswerStore, "commit", killed)
        with pytest.raises(Killed):
            run("resumed", **options)
    resumed, _, _ = run("resumed", **options)
    assert len(spoken) == every
    assert same(whole, resumed)


def test_what_was_not_committed_is_said_again(
    run: Any, spoken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"cache": LITTLE, "max_steps": 4}
    whole, _, _ = run("whole", **options)
    every = len(spoken)
    spoken.clear()
    with monkeypatch.context() as patched:
        original = AnswerStore.write

        def killed(self: AnswerStore, slots: list[int], *words: Any) -> None:
            original(self, slots, *words)
            if len(spoken) > 8:
                raise Killed

        patched.setattr(AnswerStore, "write", killed)
        with pytest.raises(Killed):
            run("resumed", **options)
    resumed, _, _ = run("resumed", **options)
    assert len(spoken) == 16 + every
    assert same(whole, resumed)


@pytest.mark.parametrize("step", [2, 5])
def test_a_killed_training_ends_with_the_same_weights(
    step: int, run: Any, spoken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dropout, so that the random state of each step matters as well.
    options = {
        "cache": LITTLE, "max_steps": 6, "epochs": 2, "checkpoint_minutes": 1e-9,
        "hidden_dropout": 0.1, "attention_dropout": 0.1,
    }  # fmt: skip
    whole, _, _ = run("whole", **options)
    every = len(spoken)
    spoken.clear()
    with monkeypatch.context() as patched:
        original = ProgressCallback.on_train_batch_end

        def end(self: ProgressCallback, trainer: Any, *rest: Any) -> None:
            original(self, trainer, *rest)
            if trainer.global_step == step:
                raise Killed

        patched.setattr(ProgressCallback, "on_train_batch_end", end)
        with pytest.raises(Killed):
            run("resumed", **options)
    resumed, _, _ = run("resumed", **options)
    assert len(spoken) == every
    assert same(whole, resumed)


def test_the_size_is_said_before_and_reported_after(
    run: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.INFO, logger="quala.stages.distill"):
        _, _, final = run(cache=LITTLE)
    files = (tmp_path / "d/scratch/teacher").glob("*.npy")
    size = sum(np.load(file, mmap_mode="r").nbytes for file in files)
    assert final["cache/mebibytes"] == pytest.approx(size / 2**20)
    assert final["cache/seconds"] > 0
    assert any("MiB on disk" in record.getMessage() for record in caplog.records)


def test_a_full_disk_ends_the_stage_before_its_teacher_speaks(
    run: Any, spoken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(QualaError, match="0 free: keep less by"):
        run(cache=LITTLE)
    assert not spoken


def test_depths_that_the_models_do_not_have_are_refused(run: Any) -> None:
    with pytest.raises(QualaError, match="`depth` must be at most 2 hidden states, got 3"):
        run(cache=CacheConfig(depth=3), layers=1)
    with pytest.raises(QualaError, match="`top` must be 1 to 2 layers of the teacher, got 3"):
        run(name="e", cache=CacheConfig(top=3), layers=1)
