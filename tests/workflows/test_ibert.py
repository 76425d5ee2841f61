"""I-BERT from end to end at toy size: the kernels are exported, their lack is told early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import QUESTIONS, Toy, output

from quala.cli.entry import main as quala
from quala.onnx_builder import needed
from quala.runtime.engine import read_graph

pytestmark = pytest.mark.slow


def test_integer_kernels_are_trained_measured_and_exported(
    tmp_path: Path, tiny_checkpoint: Path, migrated_database: Path, fast: None
) -> None:
    words = [*QUESTIONS, "stage.quantize.max_steps=2", "stage.quantize.batch_size=8"]
    toy = Toy(tmp_path, tiny_checkpoint, migrated_database, words, workflow="ibert")
    result = toy("run")
    stages = ["finetune", "quantize", "measure", "report", "export"]
    assert [(one["stage"], one["status"]) for one in result["stages"]] == [
        (stage, "done") for stage in stages
    ]
    config = json.loads((output(result, "quantize") / "config.json").read_text())
    assert config["quala_kernels"] == ["gelu", "softmax", "layernorm"]
    rows = json.loads((output(result, "report") / "report.json").read_text())["rows"]
    assert [(row["model"], row["precision"]) for row in rows] == [
        ("fine-tuned", "fp32"), ("ibert", "int8"),
    ]  # fmt: skip
    (graph,) = output(result, "export").rglob("model.onnx")
    made = read_graph(graph.parent).graph
    kinds = {node.op_type for node in needed(list(made.node), ["logits"])}
    assert not kinds & {"Gelu", "Softmax", "LayerNormalization"}


def test_a_start_model_without_the_functions_is_refused_at_planning(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads((tiny_checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(facts | {"hidden_act": "relu"}))
    words = [f"model.teacher={tmp_path}", f"tracking.folder={tmp_path / 'mlruns'}"]
    assert quala(["plan", "ibert", *words]) == 2
    told = "The kernel `gelu` needs the activation `gelu`, got relu"
    assert told in " ".join(capsys.readouterr().err.split())
    assert quala(["plan", "kdlsq", *words, "stage.distill.quantizers.kernels=[gelu]"]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert quala(["plan", "ibert", *words, "stage.quantize.quantizers.kernels=[norm]"]) == 2
    assert "kernel `norm`" in capsys.readouterr().err
