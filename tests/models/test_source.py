"""Sources: folders, hub names, the offline backbone, and what identifies each."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest

from quala.errors import QualaError
from quala.models.load import OFFLINE_PACKAGE, resolve_source, source_fingerprint

needs_backbone = pytest.mark.skipif(
    importlib.util.find_spec(OFFLINE_PACKAGE) is None, reason="needs the offline backbone"
)


def test_a_folder_resolves_to_itself(tmp_path: Path) -> None:
    assert resolve_source(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["bert-base-uncased", "owner/name", "owner/name@v1"])
def test_a_hub_name_stays_a_name(name: str) -> None:
    assert resolve_source(name) == name


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "a/b/c", Path("missing")])
def test_a_missing_folder_is_refused(name: str | Path) -> None:
    with pytest.raises(QualaError, match="no model folder"):
        resolve_source(name)


def test_a_folders_fingerprint_is_its_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    assert source_fingerprint(tmp_path) == hashlib.sha256(b"weights").hexdigest()


def test_a_folder_without_weights_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="no safetensors"):
        source_fingerprint(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"), [("owner/name", "owner/name@main"), ("owner/name@v1", "owner/name@v1")]
)
def test_a_hub_names_fingerprint_carries_its_revision(name: str, expected: str) -> None:
    assert source_fingerprint(name) == expected


@needs_backbone
def test_the_offline_backbone_is_the_hubs_file() -> None:
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert source_fingerprint("offline") == digest


def test_a_missing_backbone_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QualaError, match=r"pip install \"quala\[demo\]\""):
        resolve_source("offline")
