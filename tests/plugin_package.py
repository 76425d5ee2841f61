"""Packages that add names to quala, as their guide in docs/guide shows them."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from quala import plugins

GUIDES = Path(__file__).parents[1] / "docs" / "guide"
NAMED_BLOCK = re.compile(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def files_of(guide: str) -> dict[str, str]:
    """Return the whole files that a guide shows, by name."""
    return dict(NAMED_BLOCK.findall((GUIDES / guide).read_text(encoding="utf-8")))


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str]) -> None:
    """Make modules importable, and their entry points known if there is a pyproject.toml."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    if "pyproject.toml" in files:
        project = tomllib.loads(files["pyproject.toml"])["project"]
        facts = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        facts.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n"
        (facts / "METADATA").write_text(metadata, encoding="utf-8")
        groups = [
            "\n".join([f"[{group}]", *(f"{name} = {place}" for name, place in points.items())])
            for group, points in project["entry-points"].items()
        ]
        (facts / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    for registry in vars(plugins).values():
        if isinstance(registry, plugins.Registry):
            found = {point.name: point for point in entry_points(group=registry.group)}
            monkeypatch.setitem(vars(registry), "_installed", found)
