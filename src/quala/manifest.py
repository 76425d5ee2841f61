"""The manifest of a folder: the size and SHA-256 of each file, and how a damaged one is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from quala.errors import QualaError
from quala.stored import read_stored

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class _Entry:
    sha256: str
    size: int


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path) -> dict[str, dict[str, str | int]]:
    """Return SHA-256 and size of every file under `folder` but the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": digest(path),
            "size": path.stat().st_size,
        }
        for path in files
        if path != folder / MANIFEST
    }


def write_manifest(folder: Path) -> str:
    """Write the manifest of `folder` into it and return the manifest's own SHA-256."""
    text = json.dumps(checksums(folder), indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return digest(folder / MANIFEST)


def damage(
    folder: Path, seal: str | None = None, *, only: Collection[str] | None = None
) -> tuple[str, str] | None:
    """Return the first file that is not as the manifest says, and what is wrong; None if none is.

    `seal` is the manifest's own SHA-256, where it is known. `only` names the files that are looked
    at; without it there may be no others, but hidden ones. A link out of the folder is damage
    where the seal is known; elsewhere its content counts, for the hub's cache is made of links.
    """
    manifest = folder / MANIFEST
    try:
        if not manifest.is_file():
            return MANIFEST, "is missing"
        if seal is not None and digest(manifest) != seal:
            return MANIFEST, "is not the one that was written"
        listed = read_stored(Mapping[str, _Entry], manifest)
        return next(_damages(folder, listed, only, linked=seal is None), None)
    except QualaError:
        return MANIFEST, "is no manifest"
    except OSError as error:
        name = Path(error.filename or manifest).name
        return name, f"cannot be read ({error.strerror})"


def _damages(
    folder: Path, listed: Mapping[str, _Entry], only: Collection[str] | None, *, linked: bool
) -> Iterator[tuple[str, str]]:
    root = folder.resolve()
    for name in listed:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            yield MANIFEST, f"names a file outside of its folder, `{name}`"
    for name in only or ():
        if name not in listed:
            yield name, "is not in its manifest"
    wanted = dict(listed) if only is None else {name: listed[name] for name in only}
    for name, entry in wanted.items():  # sizes first: they take no time
        path = folder / name
        if not path.is_file():
            yield name, "is missing"
        if not (linked or path.resolve().is_relative_to(root)):
            yield name, "is a link out of its folder"
        if (size := path.stat().st_size) != entry.size:
            yield name, f"has {size:,} bytes instead of {entry.size:,}"
    for path in sorted(folder.rglob("*")) if only is None else ():
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        other = path.is_symlink() or not path.is_dir()
        if other and not hidden and inside.as_posix() not in {*listed, MANIFEST}:
            yield inside.as_posix(), "was not written with it"
    for name, entry in wanted.items():
        if digest(folder / name) != entry.sha256:
            yield name, "has another content"


def check_folder(folder: Path, only: Collection[str] | None = None) -> None:
    """Raise QualaError where a folder has a manifest that its files contradict.

    Files that joined, README and LICENSE are not looked at; with `only`, none but those are. A
    folder without a manifest is one of an older version, or of another tool.
    """
    if not (folder / MANIFEST).exists():
        return
    if only is None:
        try:
            listed = read_stored(Mapping[str, _Entry], folder / MANIFEST)
        except QualaError:  # which `damage` says
            listed = {}
        only = [name for name in listed if not name.startswith(("README", "LICENSE"))]
    if found := damage(folder, only=only):
        name, wrong = found
        raise QualaError(
            f"`{folder / name}` {wrong}: the folder is damaged, so copy, download or make it "
            f"again; where the change is meant, remove its {MANIFEST}."
        )
