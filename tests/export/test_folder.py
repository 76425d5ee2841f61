"""What an export carries: no secret, and nothing of the machine that it was made on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quala import redact
from quala.checkpoint import load_any_model
from quala.cli.export import main
from quala.data.spec import Windows
from quala.export.folder import ExportSettings, ladder, write_export
from quala.models.load import load_tokenizer
from quala.runtime.card import Card


def texts(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.name: file.read_bytes().decode(errors="replace") for file in files}


def test_an_export_names_no_folder_host_or_user(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "host-zq7")
    monkeypatch.setattr("socket.gethostname", lambda: "host-zq7")
    for variable in ("LOGNAME", "USER"):
        monkeypatch.setenv(variable, "user-zq7")
    out = tmp_path / "export"
    assert main([str(tiny_checkpoint), "--out", str(out), "--repeats", "1"]) == 0
    found = texts(out)
    assert {"README.md", "quala.json", "model.onnx", "MLmodel"} <= found.keys()
    place = str(tiny_checkpoint.parent)
    for name, text in found.items():
        assert place not in text, name
        assert str(Path.home()) + "/" not in text, name
        assert not re.search("/home/|/Users/|user-zq7|host-zq7", text), name


def test_an_export_has_no_secret(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redact, "_hidden", {})
    redact.hide_variable("PLANTED", "planted-Zq7")
    model, tokenizer = load_any_model(tiny_checkpoint), load_tokenizer(tiny_checkpoint)
    command = "quala run x model.y=https://u:inl1ne@h tracking.uri=planted-Zq7 a|b <i>"
    settings = ExportSettings(
        windows=Windows(max_length=64, doc_stride=16, max_question_length=16),
        name="a planted-Zq7 <b>|",
        repeats=0,
        provenance={"command": command},
    )
    card = write_export(
        model, tokenizer, tmp_path, front=ladder(model, 64)[:1], settings=settings
    )  # fmt: skip
    found = texts(tmp_path)
    assert not [name for name, text in found.items() if "planted-Zq7" in text or "inl1ne" in text]
    assert card.name == "a ${oc.env:PLANTED} <b>|"
    assert "# a ${oc.env:PLANTED} &lt;b>\\|" in found["README.md"]
    assert "https://u:***@h tracking.uri=${oc.env:PLANTED} a\\|b &lt;i>" in found["README.md"]


def test_the_front_of_an_elastic_model_has_its_sub_networks(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = load_any_model(tiny_checkpoint)
    whole = [point.lengths for point in ladder(model, 128)]
    model.hf.config.quala_elastic = ["", "1x32", "1x32,-"]
    front = ladder(model, 128)
    assert front[0].lengths.is_full
    assert [point.macs_mean for point in front] == sorted(
        (point.macs_mean for point in front), reverse=True
    )
    found = {point.units: [one.lengths for one in front if one.units == point.units]
             for point in front}  # fmt: skip
    assert found[None] == whole
    assert [len(found[name] or ()) for name in ("1x32", "1x32,-")] == [1, len(whole)]
    tokenizer = load_tokenizer(tiny_checkpoint)
    settings = ExportSettings(windows=Windows(max_length=128, doc_stride=32), repeats=0)
    card = write_export(model, tokenizer, tmp_path, front=front, settings=settings)
    assert Card.read(tmp_path).front == card.front
    text = (tmp_path / "README.md").read_text()
    assert "| Tokens per layer | Heads x neurons | F1" in text
    assert "| full | 1x32 without layer 2 |" in text
    assert "| full | - |" in text
    assert "cut out of the same graph" in text
