"""Checksums of folders: what an output held when it was finished, and whether it still does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from quala.workflow.identity import fingerprint

MANIFEST = "manifest.json"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(folder: Path) -> dict[str, dict[str, str | int]]:
    """Return checksum and size of every file under `folder`, the manifest itself left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": digest(path),
            "size": path.stat().st_size,
        }
        for path in files
        if path != folder / MANIFEST
    }


def content_hash(folder: Path) -> str:
    """Return one hash of all the files of a folder, by name and content."""
    return fingerprint({name: entry["sha256"] for name, entry in describe(folder).items()})


def write(folder: Path) -> str:
    """Write the manifest of `folder` into it and return the manifest's own SHA-256."""
    text = json.dumps(describe(folder), indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return digest(folder / MANIFEST)


def damage(folder: Path, expected: str) -> str | None:
    """Name the first file that is not what it was when `expected` was taken, None if all are."""
    manifest = folder / MANIFEST
    if not manifest.is_file() or digest(manifest) != expected:
        return MANIFEST
    for name, entry in json.loads(manifest.read_text(encoding="utf-8")).items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["size"]:
            return str(name)
        if digest(path) != entry["sha256"]:
            return str(name)
    return None
