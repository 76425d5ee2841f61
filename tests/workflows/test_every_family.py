"""Every family for every task: trained, made int8, exported and served, at toy size.

Stages are called one after another; what the export says is what PyTorch says of the same model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pretrained import Pretrained, pretrained
from starlette.testclient import TestClient
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from toys import FAMILIES

import quala
from quala.checkpoint import load_any_model
from quala.cli import export as export_command
from quala.cost import macs, parameters, size_bytes
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import weights_file
from quala.runtime.card import Budget, Query
from quala.runtime.prediction import TextQuery
from quala.serve.app import create_app
from quala.serve.settings import Settings
from quala.stages import finetune, length_adapt, quantize
from quala.workflow import StageContext

__all__ = ["pretrained"]

pytestmark = pytest.mark.slow

TOKENS = 32
EMBEDS = {"teacher": 1.0, "hard": 0.0, "sub_hard": 0.0}
"""Options of a training of embeddings, which has no labels."""
NAMES = ("Ada", "Zoë", "Bell", "Otto")
PLACES = ("Rome", "Köln", "the north", "a house 🎵")
FILLER = ("often", "in the evening", "with a friend", "for three years", "at first")


def rows(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Return rows of toy data: who sings where."""
    draw, made = random.Random(seed), []
    for number in range(count):
        name, place = draw.choice(NAMES), draw.choice(PLACES)
        text = f"{name} sings {' '.join(draw.sample(FILLER, draw.randint(1, 3)))} in {place}."
        if task in ("squad", "null"):
            text = f"{number}. {text}"
            answers = [place] if task == "squad" or number % 2 else []
            starts = [text.index(one) for one in answers]
            made.append({
                "id": str(number), "title": str(number), "context": text,
                "question": "Where is the singer?",
                "answers": {"text": answers, "answer_start": starts},
            })  # fmt: skip
        elif task == "tags":
            words = text[:-1].split()
            tags = ["B-NAME" if word in NAMES else "O" for word in words]
            made.append({"tokens": words, "tags": tags})
        else:
            label: Any = {"classes": name, "values": len(text) / 10, "embed": number % 6}[task]
            pair = f"Somebody is in {place}."
            made.append({"sentence1": f"{number} {text}", "sentence2": pair, "label": label})
    return made


@dataclass(frozen=True)
class Kind:
    """A task: how its data are read, and what the service is asked."""

    data: str
    format: str
    path: str
    body: dict[str, Any]
    options: dict[str, Any]


TEXT = {"text": "Zoë sings in Köln 🎵, often with a friend of Otto and for three years."}
PAIR = TEXT | {"pair": "Somebody is in the north."}
ASKED = {"question": "Where is she?", "context": TEXT["text"]}
KINDS = {
    "question-answering": Kind("squad", "squad", "/answer", ASKED, {}),
    "question-answering with null": Kind(
        "null", "squad", "/answer", ASKED, {"unanswerable": "keep"}
    ),
    "classification": Kind("classes", "glue", "/predict", PAIR | {"top_k": 0}, {}),
    "regression": Kind("values", "glue", "/predict", PAIR, {}),
    "token-classification": Kind("tags", "tags", "/predict", TEXT, {}),
    "embedding": Kind("embed", "embed", "/predict", TEXT, {}),
}
CASES = [
    (family, kind)
    for family in (*FAMILIES, "camembert")
    for kind in KINDS
    if "null" not in kind or family == "roberta"  # its heads and data are those of the others
]
Data = Callable[[Kind], DataSpec]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Return a maker of data of a kind."""

    def spec(kind: Kind) -> DataSpec:
        folder = tmp_path_factory.mktemp(kind.data)
        for seed, (name, count) in enumerate((("train", 32), ("validation", 4))):
            text = "".join(f"{json.dumps(row)}\n" for row in rows(kind.data, count, seed))
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        return DataSpec(
            task=kind.format, path=str(folder), max_length=64, doc_stride=16,
            max_question_length=16, search_size=0, selection_size=4, **kind.options,
        )  # fmt: skip

    return spec


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_model_is_trained_compressed_exported_and_served(
    family: str, kind: str, pretrained: Pretrained, data: Data, configure: Any, tmp_path: Path
) -> None:
    spec, source = data(KINDS[kind]), pretrained(family)

    def run(stage: Any, name: str, model: Path, **changes: Any) -> Path:
        context = StageContext.alone(name, tmp_path / name)
        inputs = {"data": spec, "model": model, "teacher": model}
        stage.run(configure(name, **changes), context, inputs)
        return tmp_path / name / "output"

    if kind == "embedding":  # with itself as teacher
        tuned = run(length_adapt, "length_adapt", source, max_steps=2, **EMBEDS)
    else:
        tuned = run(finetune, "finetune", source, max_steps=2)
    small = run(quantize, "quantize", tuned, method="ptq")
    counted(tuned, small)
    folder = tmp_path / "export"
    assert export_command.main([str(small), "--out", str(folder), "--repeats", "0"]) == 0
    model = quala.load(folder)
    assert model.task == kind.partition(" with ")[0]
    integer = load_any_model(small)
    for keep in (None, 0.5):
        agrees(model, integer, KINDS[kind], keep)
    served(model, KINDS[kind])


REFUSED: list[tuple[str, str, str, dict[str, Any], str]] = [
    ("albert", "squad", "distill", {"width": 0.5}, "ALBERT's layers cannot be narrowed"),
    ("mpnet", "glue", "distill", {"width": 0.5}, "cannot be removed: all layers of MPNet"),
    ("modernbert", "tags", "distill", {"layers": 1}, "must keep layer 0, got layers 2"),
    ("bert", "embed", "finetune", {}, "`enabled` must be false"),
    ("bert", "embed", "distill", {"hard": 0.0, "width": 0.5}, "`width` must be 1, got 0.5"),
    ("bert", "embed", "length_adapt", EMBEDS | {"significance": "span"}, "by the span head"),
    ("bert", "embed", "length_adapt", EMBEDS | {"widths": [1.0, 0.5]}, "`widths` must be .1.0"),
    ("roberta", "glue", "length_adapt", {"significance": "span"}, "only question answering has"),
    ("electra", "tags", "length_adapt", {"significance": "span"}, "got `data.task=tags`"),
    ("mpnet", "glue", "length_adapt", {"widths": [1.0, 0.5]}, "cannot be removed: all layers of"),
    ("albert", "glue", "length_adapt", {"depths": [1.0, 0.5]}, "cannot be factorized or cut"),
    ("bert", "glue", "length_adapt", {"depths": [1.0, 0.9, 0.3]}, "give the same sizes"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "task", "stage", "options", "sentence"), REFUSED)
def test_what_cannot_be_is_refused_before_any_stage(
    family: str,
    task: str,
    stage: str,
    options: dict[str, Any],
    sentence: str,
    pretrained: Pretrained,
    configure: Any,
) -> None:
    place = SimpleNamespace(name="model.teacher", value=str(pretrained(family)))
    data = SimpleNamespace(value=SimpleNamespace(task=task))
    key = "model" if stage == "length_adapt" else "teacher"
    with pytest.raises(QualaError, match=sentence):
        configure(stage, **options).check_inputs({"data": data, key: place})


def counted(tuned: Path, small: Path) -> None:
    """Compare the closed forms with the weights and products of a float and an int8 model."""
    model = load_any_model(tuned)
    arch, facts, head = model.arch, model.family.facts, model.arch.head
    assert parameters(arch) == sum(one.numel() for one in model.hf.parameters())
    batch: Any = {"input_ids": torch.full((1, TOKENS), 7)}
    batch |= {"attention_mask": torch.ones_like(batch["input_ids"])}
    batch |= {"segment_ids": torch.zeros_like(batch["input_ids"])}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch)
    layers = arch.layers
    pointwise = TOKENS * (arch.embedding + facts.products_per_token + 2 * arch.hidden * layers)
    if facts.head_layer:  # its norm
        pointwise += arch.hidden * {"span": TOKENS, "sentence": 1, "none": 0}[head]
    products = macs(arch, (TOKENS,) * layers, TOKENS) - pointwise
    if arch.relative is not None:  # of distances, which are constants
        products += 2 * arch.relative.rows * arch.hidden**2 * layers
    assert counter.get_total_flops() == 2 * products
    content = weights_file(small).read_bytes()
    held = len(content) - 8 - int.from_bytes(content[:8], "little")  # without names and shapes
    # Ranges of inputs come on top, and columns that stay float.
    assert 1 < held / size_bytes(arch, "int8") < 1.1


def agrees(model: Any, integer: LengthAdaptiveModel, kind: Kind, keep: float | None) -> None:
    """Compare what the export computes in a batch of two lengths with the integer model."""
    budget = Budget(keep=keep)
    asked: list[Any] = []
    for text in ("Ada sings.", TEXT["text"]):
        if kind.path == "/answer":
            asked.append(Query(question="Who?", context=text, budget=budget))
        else:
            asked.append(TextQuery(text=text, pair=kind.body.get("pair"), budget=budget))
    works = model.prepare(asked)
    inputs = works[0].features.arrays([0, 1])
    lengths = works[0].group
    assert any(lengths.drops) == (keep is not None)
    found = model.engine.logits(inputs, lengths)
    batch: Any = {name: torch.from_numpy(values) for name, values in inputs.items()}
    with torch.inference_mode():
        expected = integer(batch, lengths).numpy()
    real = inputs["attention_mask"].astype(bool) if found.ndim == 3 else ...
    np.testing.assert_allclose(found[real], expected[real], atol=5e-2)  # steps of int8


def served(model: Any, kind: Kind) -> None:
    """Compare what the service says with what the model says, at half of the tokens."""
    with TestClient(create_app(model, Settings())) as client:
        response = client.post(kind.path, json=kind.body | {"keep": 0.5, "survivors": True})
    assert response.status_code == 200, response.text
    reply = response.json()
    assert len(reply["layers"]) == len(reply["lengths"]) == 3
    assert reply["layers"][-1]["kept"] < reply["layers"][0]["tokens"]
    ask = model.answer if kind.path == "/answer" else model.predict
    own = ask(**kind.body, keep=0.5)
    for name in ("label", "value", "no_answer"):
        if name in reply and reply[name] is not None:
            assert reply[name] == pytest.approx(getattr(own, name), abs=1e-5)
    if kind.data in ("squad", "null"):
        assert [one["text"] for one in reply["answers"]] == [one.text for one in own.answers]
        assert (reply["no_answer"] is None) == (kind.data == "squad")
    if kind.data == "classes":
        assert reply["label"] in NAMES
        assert len(reply["scores"]) == len({*NAMES})
    if kind.data == "embed":
        assert reply["embedding"] == pytest.approx(own.embedding, abs=1e-5)
