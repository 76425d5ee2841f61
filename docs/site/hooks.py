"""What the site needs beyond mkdocs: pages of the root, links out of docs/, pages not in the nav.

The Markdown is written for readers of the repository: README.md is the first page, and pages link
to source files. Here such links are made to fit, so that no page is written twice.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LOG = logging.getLogger("mkdocs.quala")
ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
"""Pages of the root, by the name that they have on the site."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
ITEM = re.compile(r"\s*([-*+]|\d+\.) ")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add pages that the nav does not name to "How to"."""
    named = set(_paths(config.nav))
    folder = Path(config.docs_dir)
    found = [page for part in ("", "guide") for page in sorted((folder / part).glob("*.md"))]
    others = [page.relative_to(folder).as_posix() for page in found]
    (how_to,) = (one["How to"] for one in config.nav or [] if "How to" in one)
    how_to += [page for page in others if page not in named]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root."""
    for source, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links lead where the site has their targets, and indent lists as mkdocs reads them."""
    folder = Path(str(page.file.abs_src_path)).parent
    here = os.path.dirname(page.file.src_uri)

    def fitted(link: re.Match[str]) -> str:
        image, label, target, anchor = link.groups(default="")
        path = Path(os.path.normpath(folder / target))
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        if not path.exists():
            LOG.warning("%s links to %s, which does not exist.", page.file.src_uri, target)
            return link[0]
        inside = path.relative_to(ROOT).as_posix()
        place = PAGES.get(inside, inside.removeprefix("docs/"))
        there = files.get_file_from_path(place)
        if there is not None and not there.inclusion.is_excluded():
            return f"{image}[{label}]({os.path.relpath(place, here or '.')}{anchor})"
        return f"[{label}]({config.repo_url}/blob/HEAD/{inside})" if config.repo_url else label

    return _indented(_outside_of_code(text, lambda part: LINK.sub(fitted, part)))


def _paths(nav: Any) -> list[str]:
    """Return the pages that a nav names, at any depth."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [path for part in parts for path in _paths(part)]


def _outside_of_code(text: str, change: Any) -> str:
    """Change what is outside of fenced blocks."""
    parts = re.split(r"(^ *```.*?^ *```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))


def _indented(text: str) -> str:
    """Write lists as Python-Markdown wants them.

    GitHub takes a list that follows a line of text, and continues an item by two blanks. Here
    there is a blank line before a list, and four blanks continue its items.
    """
    lines: list[str] = []
    fence = in_list = False
    for line in text.split("\n"):
        item = bool(ITEM.match(line)) and not fence
        blanks = len(line) - len(line.lstrip())
        if item and not in_list and not blanks and lines and lines[-1].strip():
            lines.append("")
        if not fence and line.strip():
            in_list = item or (in_list and (blanks > 0 or bool(lines[-1].strip())))
        lines.append(("  " if in_list and blanks and line.strip() else "") + line)
        fence ^= line.lstrip().startswith("```")
    return "\n".join(lines)
