"""Every `quala` command in the documentation names verbs, flags and options that exist."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from documented import blocks, commands

from quala.cli.entry import VERBS
from quala.workflow.compose import composed
from quala.workflow.script import find_workflow, workflow_scripts

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("", "bash", "console", "sh")
OWN = ("my_", "--config-dir", "hydra.searchpath", "hydra/launcher", "{", "$", "…")
"""What a command has that needs files or packages of a reader's own."""


def shown(page: Path) -> Iterator[list[str]]:
    """Yield the words of each `quala` command in the shell blocks of a page."""
    for block in blocks(page):
        for line in commands(block.text) if block.language in SHELL else ():
            line = line.removeprefix("$ ")
            if line.startswith("quala "):
                yield shlex.split(line, comments=True)[1:]


def known_flags(verb: str) -> set[str]:
    """Return the flags of a verb, those of its own verbs too."""
    module = importlib.import_module(f"quala.cli.{VERBS[verb][0].partition(':')[0]}")
    parsers, flags = [module._parser()], set()
    for parser in parsers:
        flags |= set(parser._option_string_actions)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return flags


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_verbs_and_flags_exist(page: Path) -> None:
    for verb, *words in shown(page):
        assert verb in VERBS or verb.startswith("-"), f"{page.name}: quala {verb}"
        flags = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        if verb in VERBS and verb not in ("run", "plan", "completion"):
            assert flags <= known_flags(verb), f"{page.name}: quala {verb} {shlex.join(words)}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_compose(page: Path) -> None:
    for verb, *words in shown(page):
        own = any(part in word for word in words for part in OWN)
        if (
            verb not in ("run", "plan")
            or own
            or words[:1] not in [[w] for w in workflow_scripts()]
        ):
            continue
        # Of a sweep's values the first; `-m` and its like are not for one composition.
        overrides = [
            re.sub(r"=(?:(?:interval|range|choice)\()?([^\[{'\"(,]*),.*", r"=\1", word)
            for word in words[1:]
            if not re.match(r"--?[a-z]|hydra[./]|job$|stage\.\w+$", word)
        ]
        composed(find_workflow(words[0]), overrides)
