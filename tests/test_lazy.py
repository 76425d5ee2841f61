"""The fronts of the packages: what they list is there, and is imported on use only."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from layers import listed, modules
from packaging.requirements import Requirement

from quala.errors import TRAIN

FRONTS = [name for name, module in modules().items() if module.only_gives_out]
HEAVY = {
    "fastapi", "lightning", "matplotlib", "mlflow", "onnx", "onnxruntime", "optuna", "torch",
    "transformers",
}  # fmt: skip


@pytest.mark.parametrize("name", FRONTS)
def test_a_front_gives_out_what_it_lists(name: str) -> None:
    package, module = importlib.import_module(name), modules()[name]
    typed = {
        alias.name: inner.module
        for node in ast.parse(module.path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
        for inner in node.body
        if isinstance(inner, ast.ImportFrom)
        for alias in inner.names
    }
    eager = {alias for one in module.imports() if one.eager for alias in one.names}
    given = set(listed(module) or [])
    assert given - eager - {"__version__"} == typed.keys()
    for one, source in typed.items():
        assert getattr(package, one) is getattr(importlib.import_module(str(source)), one)


def test_no_front_imports_anything_heavy() -> None:
    code = f"import sys, {', '.join(FRONTS)}; print(*({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_name_that_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match=r"`quala\.compress` has no attribute `keep_layer`"):
        importlib.import_module("quala.compress").keep_layer  # noqa: B018 - must fail


PROJECT = tomllib.loads(
    (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
)["project"]
EXTRAS = PROJECT["optional-dependencies"]


def plain(name: str) -> str:
    """Return the name of a distribution in one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(lines: Iterable[str]) -> set[str]:
    """Return the distributions that requirements install, as they are installed here."""
    found: set[str] = set()
    due = list(lines)
    while due:
        one = Requirement(due.pop())
        if (one.marker and not one.marker.evaluate({"extra": ""})) or plain(one.name) in found:
            continue
        found.add(plain(one.name))
        due += requires(one.name) or []
    return found


def imported() -> set[str]:
    """Return the packages of others that the source imports anywhere."""
    nodes = [
        node
        for file in (Path(__file__).parents[1] / "src").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    ]
    plainly = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
    froms = {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in plainly | froms}
    return roots - {*sys.stdlib_module_names, "quala", "hydra_plugins"}


def test_the_extra_for_training_is_what_serving_does_without() -> None:
    sources, light = packages_distributions(), closure(PROJECT["dependencies"])
    of_serving = {name for name in imported() if light & set(map(plain, sources.get(name, [])))}
    others = {
        plain(Requirement(line).name)
        for extra in EXTRAS.keys() - {"train", "dev"}
        for line in EXTRAS[extra]
    }
    alone = {name for name in imported() if plain(name) in others}  # openvino and its like
    assert imported() - of_serving - alone == TRAIN
    assert all("quala[train]" in EXTRAS[extra] for extra in ("demo", "dev"))


WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({sorted(TRAIN)}))\n"
"""Code after which the packages of the extra `train` cannot be imported."""


def without_train(code: str, folder: Path) -> str:
    """Return what code prints where only the packages for serving are installed."""
    words = [sys.executable, "-c", WITHOUT + code]
    own = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=own, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_serving_needs_none_of_the_packages_for_training(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,context\nWho?,Ada sings.\n", encoding="utf-8")
    code = """
from quala.cli import main
assert main(["answer", "minilm-squad", "--question", "Who?", "--context", "Ada sings."]) == 0
assert main(["predict", "minilm-squad", "--data", "rows.csv", "--out", "out.csv"]) == 0
assert main(["bench", "minilm-squad", "--data", "8"]) == 0
assert main(["cost", "--preset", "bert-base"]) == 0
import quala
from starlette.testclient import TestClient
import quala.serve.server
from quala.serve.app import create_app
from quala.serve.settings import Settings
model = quala.load("minilm-squad")
with TestClient(create_app(model, Settings())) as client:
    assert client.get("/readyz").json()["status"] == "ok"
    asked = {"question": "Who?", "context": "Ada sings."}
    assert client.post("/answer", json=asked).json()["answers"][0]["text"] == "Ada"
"""
    assert "warning: No baseline: This needs `torch`" in without_train(code, tmp_path)
    assert (tmp_path / "out.csv").exists()


def test_a_verb_that_trains_says_which_extra_is_missing(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n", encoding="utf-8")
    verbs = [
        "run quala_minilm", "run quala_minilm --help", "plan quala_minilm", "report", "store",
        "compress m --data rows.csv --out o", "teach m --data rows.csv --out o.npz",
        "bench minilm-squad --baseline bert-base",
    ]  # fmt: skip
    code = f"""
from quala.cli import main
for words in {verbs}:
    assert main(words.split()) == 2, words
"""
    told = without_train(code, tmp_path).splitlines()
    assert len(told) == len(verbs)
    for line in told:
        assert re.fullmatch(
            r"error: This needs `\w+`, which is not installed: pip install 'quala\[train\]'\.",
            line,
        )
