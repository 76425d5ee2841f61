"""A narrower student: which heads and neurons stay, and what their scores are held against."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

from quala.checkpoint import load_with_data
from quala.compress.prune.config import ShrinkConfig
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import weights_file
from quala.stages import distill
from quala.stages.student import importance
from quala.workflow import StageContext

STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
SCORES = {"hard": 0.0, "soft": 0.0, "relation": 0.0, "attention": 1.0}
SIZE = 8  # of a head
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    """Random BERT of 2 layers, 4 heads and 16 neurons, whose heads differ a lot."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=16, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("teacher")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertForQuestionAnswering(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run(configure: Any, spec: DataSpec, teacher: Path, tmp_path: Path, recording: Any) -> Any:
    """Return the stage as a function: options in, its folder and first losses out."""

    def done(
        name: str = "d", *, model: Path | None = None, **changes: Any
    ) -> tuple[Path, dict[str, float]]:
        config = configure("distill", **{"max_steps": 1, "layers": None, **STILL, **changes})
        recorder = recording()
        output, scratch = tmp_path / name / "output", tmp_path / name / "scratch"
        scratch.mkdir(parents=True)
        inputs = {"data": spec, "teacher": teacher} | ({"model": model} if model else {})
        distill.run(config, StageContext("distill", output, scratch, recorder=recorder), inputs)
        return output, recorder.figures[0]

    return done


def _masked_loss(
    model: LengthAdaptiveModel, task: Any, batch: Any, place: str, unit: slice, scale: float
) -> float:
    """The loss with the inputs `unit` of one linear layer multiplied by `scale`."""
    layer = model.hf.get_submodule(place)

    def scaled(module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        x = inputs[0].clone()
        x[..., unit] *= scale
        return (x,)

    handle = layer.register_forward_pre_hook(scaled)
    with torch.no_grad():
        loss = float(task.loss(model(batch), batch).double())
    handle.remove()
    return loss


def _slopes(teacher: Path, spec: DataSpec, batches: list[list[int]]) -> tuple[list[Any], ...]:
    """Sum over batches of |d loss / d mask| for each head and neuron, by central differences."""
    opened = load_with_data(teacher, spec)
    model, features, step = opened.model, opened.data.train.features, 1e-2
    model.double().eval()
    found: list[list[Any]] = []
    for place, size, count in (
        ("bert.encoder.layer.{}.attention.output.dense", SIZE, 4),
        ("bert.encoder.layer.{}.output.dense", 1, 16),
    ):
        found.append([[0.0] * count for _ in range(2)])
        for layer in range(2):
            for unit in range(count):
                part = slice(unit * size, (unit + 1) * size)
                for rows in batches:
                    batch = features.batch(rows)
                    up, down = (
                        _masked_loss(
                            model, opened.data.task, batch, place.format(layer), part, one
                        )
                        for one in (1 + step, 1 - step)
                    )
                    found[-1][layer][unit] += abs(up - down) / (2 * step)
    return tuple(found)


def test_scores_are_the_loss_of_leaving_a_unit_out(
    configure: Any, spec: DataSpec, teacher: Path
) -> None:
    from quala.stages.training import step_batches

    config = configure("distill", importance_batches=2, batch_size=3)
    opened = load_with_data(teacher, spec)
    batches = list(step_batches(opened.data.train.features, config, 2))
    scores = importance(opened, config)
    heads, neurons = _slopes(teacher, spec, batches)
    for ours, slow in ((scores.heads, heads), (scores.neurons, neurons)):
        for layer in range(2):
            torch.testing.assert_close(
                ours[layer].double(), torch.tensor(slow[layer]).double(), rtol=0.02, atol=1e-4
            )


def test_the_most_important_heads_and_neurons_stay_in_order(
    run: Any, configure: Any, spec: DataSpec, teacher: Path
) -> None:
    options = {"width": 0.5, "importance_batches": 2}
    folder, _ = run(learning_rate=0.0, **options)
    scores = importance(load_with_data(teacher, spec), configure("distill", **options))
    student, old = (load_file(weights_file(one)) for one in (folder, teacher))
    for layer in range(2):
        heads = sorted(range(4), key=lambda head: -float(scores.heads[layer][head]))[:2]
        neurons = sorted(range(16), key=lambda unit: -float(scores.neurons[layer][unit]))[:8]
        rows = [head * SIZE + row for head in heads for row in range(SIZE)]
        where = f"bert.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            for leaf in ("weight", "bias"):
                name = f"{where}.attention.self.{part}.{leaf}"
                assert torch.equal(student[name], old[name][rows])
        name = f"{where}.attention.output.dense.weight"
        assert torch.equal(student[name], old[name][:, rows])
        name = f"{where}.intermediate.dense.weight"
        assert torch.equal(student[name], old[name][neurons])
        name = f"{where}.output.dense.weight"
        assert torch.equal(student[name], old[name][:, neurons])


def test_the_layers_of_a_shallower_student_keep_their_own_scores(
    run: Any, configure: Any, spec: DataSpec, teacher: Path
) -> None:
    folder, _ = run(learning_rate=0.0, width=0.25, layers=1)
    scores = importance(load_with_data(teacher, spec), configure("distill"))
    copied = json.loads((folder / "quala.json").read_text())["copied"]
    assert copied["layers"] == [1]
    assert copied["heads"] == [[int(scores.heads[1].argmax())]]


def test_a_narrow_student_may_shrink_further(run: Any, spec: DataSpec) -> None:
    shrink = ShrinkConfig(ratio=4.0, svd_share=0.5)
    folder, figures = run(width=0.5, shrink=shrink, **SCORES)
    assert figures["train/attention"] > 0
    arch = load_with_data(folder, spec).model.arch
    assert [(size.heads, size.intermediate) for size in arch.sizes] == [(2, 8)] * 2


def test_a_narrow_student_opens_as_what_it_is(run: Any, spec: DataSpec) -> None:
    folder, _ = run(width=0.5)
    arch = load_with_data(folder, spec).model.arch
    assert [(size.heads, size.intermediate) for size in arch.sizes] == [(2, 8)] * 2
    assert arch.hidden == 32


def test_scores_are_held_against_the_heads_that_were_copied(run: Any) -> None:
    # Half the width changes what later layers read; the first layer's kept heads are the
    # teacher's own to the last bit.
    _, figures = run(width=0.5, **SCORES, keep_map="bottom", layers=1)
    assert figures["train/attention"] == pytest.approx(0, abs=1e-9)


def test_the_copied_heads_are_known_to_a_later_distillation(run: Any) -> None:
    first = {"width": 0.5, "keep_map": "bottom", "layers": 1, "learning_rate": 0.0}
    folder, _ = run("first", **first)
    _, figures = run("second", model=folder, **SCORES)
    assert figures["train/attention"] == pytest.approx(0, abs=1e-9)


def test_any_width_follows_relations(run: Any) -> None:
    _, figures = run(width=0.25, relation=1.0, relation_heads=2, hidden=1.0)
    assert figures["train/relation"] > 0


def test_heads_of_layers_that_were_not_copied_are_refused(run: Any) -> None:
    with pytest.raises(QualaError, match=r"Layer 0 .* 2 heads and follows layer 1 .* has 4"):
        run(width=0.5, **SCORES, layer_map=[1, 1])


def test_heads_of_another_teacher_are_refused(
    run: Any, configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder, _ = run("first", width=0.25)
    config = configure("distill", **STILL, **SCORES, max_steps=1)
    inputs = {"data": spec, "teacher": tiny_checkpoint, "model": folder}
    with pytest.raises(QualaError, match="1 heads and follows layer 0 of the teacher, which has"):
        distill.run(config, StageContext.alone("distill", tmp_path / "second"), inputs)


def test_a_student_of_its_own_is_not_narrowed(run: Any, tiny_checkpoint: Path) -> None:
    with pytest.raises(QualaError, match="`width` narrows layers copied from the teacher"):
        run(width=0.5, model=tiny_checkpoint)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 0.0}, "`width` must be above 0 and at most 1, got 0.0"),
        ({"width": 1.5}, "`width` must be above 0 and at most 1, got 1.5"),
        ({"importance_batches": 0}, "`importance_batches` must be above 0 and .*, got 0"),
    ],
)
def test_options_out_of_range_are_refused(
    configure: Callable[..., Any], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        configure("distill", **options)


def test_a_later_distillation_follows_the_copied_layers(run: Any) -> None:
    first, _ = run("first", layers=1, keep_map="bottom", learning_rate=0.0)
    _, figures = run("second", model=first, **(SCORES | {"attention": 0.0, "hidden": 1.0}))
    assert figures["train/hidden"] == pytest.approx(0, abs=1e-9)  # not the last layer's states
