"""Distillation: where the student starts and what it follows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.stages import distill
from quala.stages.distill_options import CacheConfig
from quala.workflow import StageContext

Weights = dict[str, torch.Tensor]
ALL = {"hard": 0.5, "soft": 1.0, "hidden": 1.0, "attention": 1.0, "relation": 1.0}
STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0}


@pytest.fixture
def run(
    configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path, recording: Any
) -> Callable[..., tuple[Weights, list[dict[str, float]]]]:
    """Return the stage as a function: options in, the student's weights and figures out."""

    def done(
        *, model: Path | None = None, name: str = "d", **changes: Any
    ) -> tuple[Weights, list[dict[str, float]]]:
        config = configure("distill", **{"max_steps": 1, **STILL, **changes})
        recorder = recording()
        output, scratch = tmp_path / name / "output", tmp_path / name / "scratch"
        scratch.mkdir(parents=True)
        inputs = {"data": spec, "teacher": tiny_checkpoint} | ({"model": model} if model else {})
        distill.run(config, StageContext("distill", output, scratch, recorder=recorder), inputs)
        return load_file(output / "model.safetensors"), recorder.figures

    return done


@pytest.fixture
def narrow_student(tmp_path: Path, tiny_tokenizer_folder: Path) -> Path:
    """A student of half the teacher's width and one layer."""
    from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=128,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertForQuestionAnswering(config).save_pretrained(tmp_path / "narrow")
    tokenizer.save_pretrained(tmp_path / "narrow")
    return tmp_path / "narrow"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"layers": 1}, [1]),
        ({"layers": 1, "keep": [0]}, [0]),
        ({"layers": 1, "keep_map": "bottom"}, [0]),
        ({"layers": 1, "keep_map": "bottom", "keep": [1]}, [1]),
        ({"layers": None}, [0, 1]),
    ],
)
def test_the_student_starts_as_layers_of_the_teacher(
    run: Any, tiny_checkpoint: Path, options: dict[str, Any], kept: list[int]
) -> None:
    student, _ = run(learning_rate=0.0, **options)
    teacher = load_file(tiny_checkpoint / "model.safetensors")
    inside = [name for name in student if "encoder.layer." in name]
    assert len(inside) == 16 * len(kept)
    for name in student:
        there = name
        for place, layer in enumerate(kept):
            if f"encoder.layer.{place}." in name:
                there = name.replace(f"layer.{place}.", f"layer.{layer}.")
        assert torch.equal(student[name], teacher[there]), name


def test_every_loss_has_something_to_say(run: Any) -> None:
    _, figures = run(**ALL)
    losses = {name: figures[0][f"train/{name}"] for name in ALL}
    assert all(math.isfinite(loss) and loss > 0 for loss in losses.values()), losses


def test_a_cosine_is_followed_with_and_without_a_cache(run: Any) -> None:
    options = {"layers": 1, "hard": 0.0, "soft": 0.0, "relation": 0.0, "hidden": 1.0}
    ways = {
        "mse": {},
        "live": {"hidden_loss": "cosine"},
        "cached": {"hidden_loss": "cosine", "cache": CacheConfig(full_precision=True)},
    }
    found = {
        name: run(name=name, **options, **more)[1][0]["train/hidden"]
        for name, more in ways.items()
    }
    assert found["cached"] == pytest.approx(found["live"], rel=1e-4)
    assert 0 < found["live"] < 2  # of one state: the embeddings are copied
    assert found["live"] != pytest.approx(found["mse"], rel=1e-3)


def test_a_student_that_is_its_teacher_has_only_a_task_loss(run: Any) -> None:
    _, figures = run(layers=2, **ALL)
    assert figures[0]["train/hard"] > 1
    for name in ("soft", "hidden", "attention", "relation"):
        assert figures[0][f"train/{name}"] == pytest.approx(0, abs=1e-6), name


@pytest.mark.parametrize(
    "options", [{}, {"cache": CacheConfig(), "attention": 0.0, "relation": 0.0}]
)
def test_embeddings_follow_the_state_of_the_map(
    run: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    place = "quala.stages.distill.followed_by_embeddings"
    monkeypatch.setattr(place, lambda keep_map, pairs: pairs[0][1] + 1)
    _, figures = run(layers=2, **{**ALL, **options})
    assert figures[0]["train/hidden"] > 1e-3  # its own embeddings would give 0


def test_without_inner_losses_nothing_is_traced(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from quala.models.adaptive import LengthAdaptiveModel

    monkeypatch.delattr(LengthAdaptiveModel, "trace")
    _, figures = run(hard=0.0, soft=1.0, relation=0.0)
    assert "train/hard" not in figures[0]
    assert figures[0]["train/soft"] > 0


@pytest.mark.parametrize(
    ("layer_map", "sentence"), [([0, 1], "one entry per layer, 1"), ([5], r"\(0, 5\) is outside")]
)
def test_a_layer_map_must_fit(run: Any, layer_map: list[int], sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        run(layers=1, layer_map=layer_map)


def test_more_layers_than_the_teacher_has_are_refused(run: Any) -> None:
    with pytest.raises(QualaError, match="1 to 2 layers"):
        run(layers=6)


def test_a_student_of_another_size_is_projected(run: Any, narrow_student: Path) -> None:
    weights, figures = run(
        model=narrow_student, layers=6, hidden=1.0, relation=1.0, relation_heads=4
    )
    assert figures[0]["train/hidden"] > 0
    assert weights["qa_outputs.weight"].shape == (2, 16)
    assert not [name for name in weights if "projection" in name]


def test_a_cached_teacher_is_projected_to_as_well(run: Any, narrow_student: Path) -> None:
    options = {"model": narrow_student, "hidden": 1.0, "relation": 0.0}
    _, live = run(name="live", **options)
    _, cached = run(name="cached", cache=CacheConfig(full_precision=True), **options)
    assert cached[0]["train/hidden"] == pytest.approx(live[0]["train/hidden"], rel=1e-5)


def test_the_projection_hangs_on_the_seed_alone(run: Any, narrow_student: Path) -> None:
    options = {"model": narrow_student, "hidden": 1.0}
    first, _ = run(name="first", **options)
    torch.rand(7)
    second, _ = run(name="second", **options)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_teacher_is_in_no_checkpoint(run: Any, tmp_path: Path) -> None:
    run(layers=1)
    (file,) = (tmp_path / "d/scratch").glob("*.ckpt")
    names = torch.load(file, weights_only=True)["state_dict"]
    assert not [name for name in names if "teacher" in name or "layer.1." in name]


def test_the_inner_terms_come_first_and_the_answers_after(run: Any) -> None:
    _, figures = run(**ALL, inner_first=0.5, max_steps=4)
    inner, answers = {"hidden", "attention", "relation"}, {"hard", "soft"}
    seen = [{name for name in ALL if f"train/{name}" in step} for step in figures]
    assert seen == [inner, inner, answers, answers]


def test_a_logged_loss_is_the_mean_of_the_steps_that_have_it(run: Any) -> None:
    options = {**ALL, "inner_first": 0.5, "max_steps": 2}
    _, each = run(name="each", log_every=1, **options)
    _, both = run(name="both", log_every=2, **options)
    for step, name in ((0, "hidden"), (1, "soft")):
        assert both[0][f"train/{name}"] == pytest.approx(each[step][f"train/{name}"])


def test_answers_alone_trace_nothing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from quala.models.adaptive import LengthAdaptiveModel

    traced = []
    trace = LengthAdaptiveModel.trace
    monkeypatch.setattr(
        LengthAdaptiveModel, "trace", lambda self, batch: traced.append(1) or trace(self, batch)
    )
    run(**ALL, inner_first=0.34, max_steps=3)
    assert len(traced) == 2  # the student and the teacher, once


@pytest.mark.parametrize(
    "options",
    [{"inner_first": 1.0}, {"inner_first": -0.1}, {"inner_first": 0.5, "hard": 0.0, "soft": 0.0},
     {"inner_first": 0.5, "relation": 0.0}],
)  # fmt: skip
def test_two_steps_need_terms_for_both(configure: Any, options: dict[str, Any]) -> None:
    with pytest.raises(QualaError, match=r"`inner_first` (must be|needs losses on)"):
        configure("distill", **options)


def test_a_distillation_of_nothing_is_refused(configure: Any) -> None:
    with pytest.raises(QualaError, match="weights are 0"):
        configure("distill", **dict.fromkeys(ALL, 0.0))
