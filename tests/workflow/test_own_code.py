"""Code of one's own that a configuration names: an edit of its file is another fingerprint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plugin_package import install

from quala.cli.entry import main

LOSS = """
from quala.compress.losses import DistillLoss


class Margin(DistillLoss):
    needs = "answers"

    def __call__(self, inputs):
        return (inputs.logits - inputs.teacher.logits).abs().mean()
"""
RANKING = """
from quala.models.significance import ColumnSum


class Mine(ColumnSum):
    pass
"""
STRATEGY = """
from quala.search.published import Published


class Mine(Published):
    pass
"""
FORMAT = """
from quala.data.formats import Squad


class Mine(Squad):
    pass
"""
PROJECT = """
[project]
name = "own-code"
version = "1.0"

[project.entry-points."quala.{group}"]
mine = "own_code:{name}"
"""


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    assert main(["plan", "quala_minilm", *words, "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    return {stage["stage"]: stage["fingerprint"] for stage in stages}


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize(
    ("text", "name", "group", "word", "first"),
    [
        (LOSS, "Margin", "losses", "+stage.distill.losses={{{}:0.5}}", "distill"),
        (RANKING, "Mine", "significance", "stage.length_adapt.significance={}", "length_adapt"),
        (STRATEGY, "Mine", "strategies", "stage.search.strategy={}", "search"),
        (FORMAT, "Mine", "formats", "data.task={}", "finetune"),
    ],
)
def test_an_edit_changes_its_stage_and_those_after_it(
    text: str,
    name: str,
    group: str,
    word: str,
    first: str,
    installed: bool,
    tmp_path: Path,
    template: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {"own_code.py": text}
    if installed:
        files["pyproject.toml"] = PROJECT.format(group=group, name=name)
    install(tmp_path, monkeypatch, files)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns/mlflow.db").write_bytes(template.read_bytes())
    words = [word.format("mine" if installed else f"own_code.{name}")]
    before, same = planned(capsys, *words), planned(capsys, *words)
    (tmp_path / "own_code.py").write_text(f"{text}\n\nEDITED = True\n")
    after = planned(capsys, *words)
    assert same == before
    names = list(before)
    changed = [one for one in names if after[one] != before[one]]
    assert changed == names[names.index(first) :]
