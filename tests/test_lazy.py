"""The fronts of the packages: what they list is there, and is imported on use only."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys

import pytest
from layers import listed, modules

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
