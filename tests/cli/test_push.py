"""`quala push`: what would be uploaded, and what is refused before anything is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quala.cli import export
from quala.cli.push import main
from quala.errors import QualaError
from quala.runtime import hub


def test_a_dry_run_lists_the_files_without_a_token(
    export_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "upload", None)  # which this must not need
    assert main([str(export_folder), "me/tiny", "--dry-run", "--private"]) == 0
    out, err = capsys.readouterr()
    size = (export_folder / "model.onnx").stat().st_size
    assert f"{size:,}  model.onnx" in out
    assert "license not stated, to me/tiny, private." in out
    assert "`quala export MODEL --out DIR --license mit` makes a copy" in err
    assert main([str(export_folder), "me/tiny", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["page"], found["files"]["model.onnx"]) == (None, size)


def test_an_export_is_uploaded(
    export_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "upload", lambda *got, private: f"https://hub/{got[1]}")
    assert main([str(export_folder), "me/tiny"]) == 0
    assert "Uploaded to https://hub/me/tiny:" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a/b/c", "a b", "me/..", "-", "x/" + "n" * 97, "https://h/me/x"])
def test_a_name_that_no_repository_has_is_refused(name: str, export_folder: Path) -> None:
    with pytest.raises(QualaError, match="REPO must be OWNER/NAME on the hub"):
        main([str(export_folder), "--dry-run", "--", name])


def test_a_checkpoint_is_no_export(tiny_checkpoint: Path) -> None:
    with pytest.raises(QualaError, match="is no export"):
        main([str(tiny_checkpoint), "me/tiny", "--dry-run"])


def test_the_license_of_an_export_is_the_users(
    export_folder: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, out in ((export_folder, "copy"), (tiny_checkpoint, "built")):
        options = ["--repeats", "0"] if out == "built" else []
        argv = [str(source), "--out", str(tmp_path / out), "--license", "mit", *options]
        assert export.main(argv) == 0
        capsys.readouterr()
        assert main([str(tmp_path / out), "me/tiny", "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["license"] == "mit"
        assert "\nlicense: mit\n" in (tmp_path / out / "README.md").read_text()
