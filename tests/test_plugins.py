"""Names that installed packages and dotted paths bring work as quala's own do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from plugin_package import files_of, install
from toys import Build, BuildHf, MakeBatch, build, build_hf, make_batch

from quala.checkpoint import set_dropout
from quala.cli.cost import main as cost
from quala.compress.prune.structured import keep_units
from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.transform import calibrate, quantize
from quala.compress.structure import embedding_name, keep_layers
from quala.cost import parameters
from quala.errors import QualaError
from quala.graph.encoder import build_graph
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.families import family_of
from quala.plugins import FAMILIES, FORMATS, LOSSES, SIGNIFICANCE, TASKS, Registry

__all__ = ["build", "build_hf", "make_batch"]

KINDS = ("question-answering", "classification")
LENGTHS = (None, LengthConfig((24, 12, 6), 32), LengthConfig((32, 16, 16), 32))


@pytest.fixture
def data2vec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of docs/guide/add-a-family.md, installed."""
    install(tmp_path, monkeypatch, files_of("add-a-family.md"))


@pytest.fixture
def similarity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of docs/guide/add-a-significance.md, installed."""
    install(tmp_path, monkeypatch, files_of("add-a-significance.md"))


def assert_graph_agrees(model: LengthAdaptiveModel, batch: dict[str, Any], atol: float) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        build_graph(model, sequence_length=32).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    real = batch["attention_mask"].bool().numpy()
    for lengths in LENGTHS:
        kept = lengths or LengthConfig.full(layers=3, sequence_length=32)
        words = {name: values.numpy() for name, values in batch.items()}
        found = session.run(None, words | {"lengths": np.array(kept.lengths)})[0]
        expected = model(batch, lengths).detach().numpy()
        if expected.ndim == 3:
            found, expected = found[real], expected[real]
        np.testing.assert_allclose(found, expected, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("data2vec")
def test_a_family_of_a_package_works_everywhere(
    kind: str, build: Build, make_batch: MakeBatch
) -> None:
    model = build("data2vec-text", kind)
    batch = make_batch([7, 20, 32], family="data2vec-text")
    assert model.arch.longest == 32
    assert parameters(model.arch) == sum(weight.numel() for weight in model.hf.parameters())

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    published = model.hf(**inputs)
    expected = published[0] if kind == "classification" else torch.stack(tuple(published[:2]), -1)
    real = batch["attention_mask"].bool() if kind == "question-answering" else ...
    torch.testing.assert_close(model(batch)[real], expected[real])

    model(batch, LENGTHS[1]).sum().backward()
    model = model.float()
    assert_graph_agrees(model, batch, 1e-4)

    pruned = keep_units(model.hf, heads=[[0, 2], [3], [1]], neurons=[range(16), [3], range(9)])
    assert_graph_agrees(LengthAdaptiveModel(pruned, task=model.task), batch, 1e-4)
    assert len(family_of(model.hf).layers(keep_layers(model.hf, [0, 2]))) == 2
    assert embedding_name(model.hf) == "data2vec_text.embeddings.word_embeddings"

    def observe() -> None:
        model(batch)

    quantize(model.hf, QuantizeConfig())
    calibrate(model.hf, observe)
    to_integer(model.hf, inplace=True)
    assert_graph_agrees(model, batch, 5e-3)


@pytest.mark.usefixtures("data2vec")
def test_a_family_of_a_package_has_its_dropout_replaced(build_hf: BuildHf) -> None:
    hf = build_hf("data2vec-text")
    set_dropout(hf, hidden=0.3, attention=0.7)
    family = family_of(hf)
    rates = [family.block(layer).attention_dropout.p for layer in family.layers(hf)]
    assert rates == [0.7] * 3
    assert (hf.config.hidden_dropout_prob, hf.config.attention_probs_dropout_prob) == (0.3, 0.7)


@pytest.mark.usefixtures("data2vec")
def test_a_family_of_a_package_is_loaded_and_its_cost_is_known(
    build_hf: BuildHf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from quala.data.task import Classes
    from quala.models.load import load_model

    hf = build_hf("data2vec-text").float()
    hf.base_model.save_pretrained(tmp_path / "model")  # without a head
    model = load_model(tmp_path / "model", task=Classes(3), head="or_new")
    assert torch.equal(
        family_of(model.hf).embeddings(model.hf).words.weight,  # type: ignore[arg-type]
        hf.get_input_embeddings().weight,
    )
    cost(["--model", str(tmp_path / "model"), "--sequence-length", "32", "--json"])
    assert json.loads(capsys.readouterr().out)["parameters"] > 0


def test_the_cost_of_a_family_imports_no_torch() -> None:
    code = "import sys, quala.cost; assert quala.cost.preset('roberta-base').longest == 512; "
    code += "quala.cost.macs(quala.cost.preset('bert-base'), [9] * 12, 9); "
    code += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_config_cannot_name_a_module_as_its_family() -> None:
    with pytest.raises(QualaError, match=r"Unknown `model_type` `os\.getcwd`"):
        FAMILIES.find("os.getcwd")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["similarity", "quala_similarity.Similarity"])
@pytest.mark.usefixtures("similarity")
def test_a_significance_of_ones_own_ranks_as_its_graph_does(
    name: str, kind: str, build: Build, make_batch: MakeBatch
) -> None:
    SIGNIFICANCE.check(name)
    model = build(kind=kind, significance=name).float()
    assert model.significance.name == name
    batch = make_batch([7, 20, 32, 1])
    other = build(kind=kind, significance="cls").float()
    assert not torch.allclose(model(batch, LENGTHS[1]), other(batch, LENGTHS[1]))
    assert_graph_agrees(model, batch, 1e-4)


@pytest.mark.usefixtures("similarity")
def test_a_checkpoint_remembers_the_path_of_its_significance(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from quala.checkpoint import load_with_data, metadata
    from quala.data.spec import DataSpec
    from quala.models.load import read_metadata, save_model

    name = "quala_similarity.Similarity"
    spec = DataSpec(task="squad", name="demo", max_length=128, doc_stride=32)
    opened = load_with_data(tiny_checkpoint, spec, significance=name)
    save_model(opened.model, opened.tokenizer, tmp_path / "own", metadata=metadata(opened))
    assert read_metadata(tmp_path / "own")["significance"] == name
    again = load_with_data(tmp_path / "own", spec).model.significance
    assert type(again).__name__ == "Similarity"


@pytest.mark.usefixtures("similarity")
@pytest.mark.parametrize("fact", ["significance", "task"])
def test_a_file_does_not_decide_which_code_is_imported(
    tiny_checkpoint: Path, tmp_path: Path, fact: str
) -> None:
    from quala.checkpoint import load_any_model

    own = tmp_path / "own"
    shutil.copytree(tiny_checkpoint, own)
    facts = {"format": 1, fact: "quala_similarity.Similarity"}
    (own / "quala.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(QualaError, match="files import no code"):
        load_any_model(own)
    assert "quala_similarity" not in sys.modules


def test_a_significance_without_a_graph_is_not_exported(
    build: Build, make_batch: MakeBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = files_of("add-a-significance.md")["quala_similarity.py"]
    install(tmp_path, monkeypatch, {"torch_only.py": text[: text.index("    def onnx")]})
    model = build(significance="torch_only.Similarity").float()
    assert model(make_batch([20]), LENGTHS[1]).shape == (1, 20, 2)
    with pytest.raises(QualaError, match=r"method `onnx`, got `torch_only\.Similarity` without"):
        build_graph(model, sequence_length=32)


@pytest.mark.parametrize("path", ["no_such_module.Name", "quala.errors.NoSuchName"])
def test_a_path_that_leads_nowhere_is_refused(path: str, build: Build) -> None:
    with pytest.raises(QualaError, match=f"The significance `{path}` cannot be imported"):
        build(significance=path)


def test_a_path_to_something_else_is_refused(build: Build) -> None:
    with pytest.raises(QualaError, match="must be a subclass of"):
        build(significance="quala.lengths.MIN_TOKENS")


@pytest.mark.parametrize("registry", [FAMILIES, SIGNIFICANCE])
def test_the_built_in_names_are_found(registry: Registry[Any]) -> None:
    assert registry.names[: len(registry.own)] == list(registry.own)
    assert all(registry.find(name) is not None for name in registry.own)


@pytest.mark.parametrize("path", ["no_such_module.Name", "quala.errors.NoSuchName"])
def test_a_path_that_leads_nowhere_is_refused_when_it_is_composed(path: str) -> None:
    with pytest.raises(QualaError, match=f"The significance `{path}` cannot be imported"):
        SIGNIFICANCE.check(path)


@pytest.mark.parametrize("name", [".", "..", ".a", "a.", "a b.C", "1.2"])
def test_what_is_no_path_is_an_unknown_name(name: str) -> None:
    with pytest.raises(QualaError, match="Unknown significance"):
        SIGNIFICANCE.check(name)


@pytest.mark.parametrize("text", ["raise RuntimeError('boom')", "def f(:", "raise SystemError"])
def test_a_module_that_cannot_be_run_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    install(tmp_path, monkeypatch, {"cannot_be_run.py": text + "\n"})
    with pytest.raises(QualaError, match=r"`cannot_be_run\.X` cannot be imported"):
        SIGNIFICANCE.check("cannot_be_run.X")


def test_a_class_with_arguments_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["from quala.compress.losses import SoftLoss", "class Own(SoftLoss):",
             "    def __init__(self, power): pass"]  # fmt: skip
    install(tmp_path, monkeypatch, {"own_with_power.py": "\n".join(lines) + "\n"})
    with pytest.raises(QualaError, match="must be made without arguments"):
        LOSSES.find("own_with_power.Own")


@pytest.mark.parametrize("registry", [SIGNIFICANCE, TASKS, LOSSES])
def test_a_class_of_another_kind_is_not_made(registry: Registry[Any]) -> None:
    with pytest.raises(QualaError, match="must be a subclass of"):
        registry.find("tempfile.TemporaryDirectory")


@pytest.mark.parametrize("name", ["os.system", "quala.lengths.LengthConfig"])
def test_an_object_of_another_kind_is_no_format(name: str) -> None:
    with pytest.raises(QualaError, match="data task"):
        FORMATS.find(name)
