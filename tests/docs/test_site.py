"""The site is built without a warning, and has every page; the files for a public host."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import quala

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("index.html")}
    for page in [*DOCS.glob("*.md"), *DOCS.glob("guide/*.md"), *DOCS.glob("tutorial/*.md")]:
        place = page.relative_to(DOCS).with_suffix("").as_posix()
        assert f"{place}/index.html" in pages
        assert place in (tmp_path / "index.html").read_text("utf-8")  # the nav names it
    assert "quala makes a fine-tuned" in (tmp_path / "index.html").read_text("utf-8")
    for name in ("load", "LengthConfig", "QualaError"):
        assert f'id="quala.{name}"' in (tmp_path / "reference" / "index.html").read_text("utf-8")
    text = (tmp_path / "guide" / "use-your-model" / "index.html").read_text("utf-8")
    assert "src/quala/" not in "".join(re.findall(r'href="[^"]*"', text))


def test_lists_are_written_as_the_site_reads_them(hooks: Any) -> None:
    text = "Some:\n- one\n  goes on\n- two\n\n```\n- code\n  stays\n```\nEnd.\n  blanks"
    found = hooks._indented(text).split("\n")
    assert found[:5] == ["Some:", "", "- one", "    goes on", "- two"]
    assert found[6:] == ["```", "- code", "  stays", "```", "End.", "  blanks"]


def test_only_text_outside_of_code_changes(hooks: Any) -> None:
    text = "a\n```\na\n```\na"
    assert hooks._outside_of_code(text, str.upper) == "A\n```\na\n```\nA"


def test_the_citation_names_this_version() -> None:
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert facts["cff-version"] == "1.2.0"
    assert facts["version"] == quala.__version__
    assert {"message", "title", "authors", "license"} <= facts.keys()


def test_a_public_host_runs_what_is_run_here() -> None:
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    (job,) = flow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    tried = job["strategy"]["matrix"]["python"]
    wanted = re.search(r'requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert wanted is not None
    major, minor = tried[-1].split(".")
    assert wanted[1] == f">={tried[0]},<{major}.{int(minor) + 1}"


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")))
def test_an_issue_form_can_be_filled_in(form: Path) -> None:
    facts = yaml.safe_load(form.read_text("utf-8"))
    assert {"name", "description", "body"} <= facts.keys()
    for part in facts["body"]:
        assert part["type"] in ("markdown", "textarea", "input")
        assert part["type"] == "markdown" or {"id", "attributes"} <= part.keys()
