"""Manifests: what counts as damage, and what does not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from quala.errors import QualaError
from quala.manifest import MANIFEST, check_folder, damage, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "sub").mkdir(parents=True)
    (made / "sub/a").write_text("one")
    (made / "b").write_text("two")
    (made / "README.md").write_text("three")
    return made


def _forged(folder: Path) -> None:
    (folder / "b").write_text("2")
    write_manifest(folder)


def _linked(folder: Path) -> None:
    (folder.parent / "outside").write_text("two")
    (folder / "b").unlink()
    (folder / "b").symlink_to(folder.parent / "outside")


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "content": (lambda one: (one / "sub/a").write_text("two"), "sub/a", "another content"),
    "size": (lambda one: (one / "b").write_text("longer"), "b", "has 6 bytes instead of 3"),
    "missing": (lambda one: (one / "b").unlink(), "b", "is missing"),
    "extra": (lambda one: (one / "c").write_text(""), "c", "was not written with it"),
    "link": (_linked, "b", "is a link out of its folder"),
    "forged": (_forged, MANIFEST, "is not the one that was written"),
    "no manifest": (lambda one: (one / MANIFEST).unlink(), MANIFEST, "is missing"),
    "not to be read": (lambda one: _folder_for_file(one / "b"), "b", "is missing"),
}


def _folder_for_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_names_the_file(folder: Path, kind: str) -> None:
    seal = write_manifest(folder)
    assert damage(folder, seal) is None
    change, name, wrong = DAMAGES[kind]
    change(folder)
    found = damage(folder, seal)
    assert found is not None
    assert found[0] == name
    assert wrong in found[1]


def test_hidden_files_do_no_damage(folder: Path) -> None:
    seal = write_manifest(folder)
    (folder / ".DS_Store").write_text("")
    (folder / ".cache").mkdir()
    (folder / ".cache/a").write_text("")
    assert damage(folder, seal) is None


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/../../outside"])
def test_a_manifest_names_files_inside_only(folder: Path, name: str) -> None:
    (folder.parent / "outside").write_text("")
    listed = {name: {"sha256": "", "size": 0}}
    (folder / MANIFEST).write_text(json.dumps(listed))
    with pytest.raises(QualaError, match="names a file outside of its folder"):
        check_folder(folder)


@pytest.mark.parametrize("text", ["[]", "{", '{"b": 3}', '{"b": {"sha256": 1, "size": 3}}'])
def test_a_damaged_manifest_is_one_sentence(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(QualaError, match=r"manifest.json` is no manifest: .* damaged"):
        check_folder(folder)


def test_people_may_edit_what_they_read(folder: Path) -> None:
    write_manifest(folder)
    (folder / "README.md").write_text("Ours.")
    (folder / "notes.txt").write_text("")
    check_folder(folder)
    (folder / "b").write_text("2")
    with pytest.raises(QualaError, match=r"b` has 1 bytes instead of 3: the folder is damaged"):
        check_folder(folder)


def test_only_some_files_are_looked_at(folder: Path) -> None:
    write_manifest(folder)
    (folder / "b").write_text("2")
    check_folder(folder, ["sub/a"])
    with pytest.raises(QualaError, match="c` is not in its manifest"):
        check_folder(folder, ["c"])


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    write_manifest(folder)
    (folder / "b").unlink()
    os.mkfifo(folder / "b")
    assert damage(folder) == ("b", "is missing")


def test_a_link_out_of_a_folder_of_others_counts_by_its_content(folder: Path) -> None:
    """As in the cache of the hub, where files are links."""
    write_manifest(folder)
    (folder / "b").rename(folder.parent / "blob")
    (folder / "b").symlink_to("../blob")
    check_folder(folder)
    (folder.parent / "blob").write_text("2")
    with pytest.raises(QualaError, match="has 1 bytes instead of 3"):
        check_folder(folder)
