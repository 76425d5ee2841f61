"""AutoMPQ from end to end at toy size: bits that are found, trained at, and served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import QUESTIONS, Toy, output

pytestmark = pytest.mark.slow
WORDS = [
    "stage.distill.layers=null", "stage.bits.inputs=4", "stage.bits.choices=[0,2,4,8]",
    "stage.bits.mean_bits=3.4",
    "+stage.distill.quantizers.overrides={layers.0.ffn_in: 5, layers.1.value: 0}",
]  # fmt: skip


def test_bits_are_found_and_trained_at(
    tmp_path: Path, tiny_checkpoint: Path, migrated_database: Path, fast: None
) -> None:
    words = [*QUESTIONS, *WORDS]
    toy = Toy(tmp_path, tiny_checkpoint, migrated_database, words, workflow="autompq")
    result = toy("run")
    stages = [(one["stage"], one["status"]) for one in result["stages"]]
    names = ("finetune", "bits", "distill", "measure", "report", "export")
    assert stages == [(name, "done") for name in names]
    found = json.loads((output(result, "bits") / "bits.json").read_text())
    bits = found["bits"]
    assert len(bits) == 12
    assert (bits["layers.0.ffn_in"], bits["layers.1.value"]) == (5, 0)
    assert found["mean_bits"] <= 3.4
    stored = json.loads((output(result, "distill") / "quala.json").read_text())["quantization"]
    narrow = [width for width in bits.values() if width < 8]
    assert sorted(w for name, w in stored["bits"].items() if "encoder" in name) == sorted(narrow)
    row = json.loads((output(result, "report") / "report.json").read_text())["rows"][1]
    assert row["bits"] == f"{'/'.join(map(str, sorted(set(bits.values()))))}-8-8"
    assert row["score"] is not None
    uniform = toy("plan", "stage.bits.enabled=false")["stages"]
    assert {one["stage"]: one["status"] for one in uniform}["finetune"] == "cached"
