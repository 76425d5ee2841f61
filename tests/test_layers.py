"""Who may import whom, and how large the source may be."""

from __future__ import annotations

import importlib

import pytest
from layers import (
    PACKAGE,
    cycles,
    edges,
    importers,
    listed,
    modules,
    package_of,
    taken_from_own_package,
)

ORDER = [
    "durable", "redact", "errors", "ranges", "reading", "stored", "manifest", "plugins", "process",
    "lengths", "architecture", "cost", "metrics", "data", "onnx_builder", "models", "compress",
    "checkpoint", "graph", "runtime", "export", "search", "results", "report", "stage", "stages",
    "workflow", "autocompress", "compare", "serve", "cli",
]  # fmt: skip
"""A module imports from its own entry and from those before it."""
MODULES, SINGLE_IMPORTERS = 240, 66
LONGEST, ALL_LINES = 500, 51_000

NAMES = sorted(modules())
PACKAGES = [name for name in NAMES if modules()[name].is_package]


def free(name: str) -> bool:
    """Say whether a module stands outside the order: the root, `quala._version` and their like."""
    return package_of(name).startswith("_") or name == PACKAGE


def test_every_package_has_its_place() -> None:
    packages = {package_of(name) for name in NAMES if not free(name)}
    assert not packages - set(ORDER), f"not in ORDER: {sorted(packages - set(ORDER))}"


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_from_below(package: str) -> None:
    allowed = ORDER[: ORDER.index(package) + 1]
    above = [
        f"{modules()[name].place}:{line} imports {target}"
        for name in NAMES
        if package_of(name) == package
        for target, line in edges(name)
        if not free(target) and package_of(target) not in allowed
    ]
    assert not above, f"`{package}` imports from above:\n" + "\n".join(above)


def test_no_modules_import_one_another() -> None:
    found = [" <-> ".join(group) for group in cycles()]
    assert not found, "cycles:\n" + "\n".join(found)


def test_no_module_takes_a_name_from_the_front_of_its_own_package() -> None:
    found = [line for name in NAMES for line in taken_from_own_package(name)]
    assert not found, "\n".join(found)


def test_there_are_not_too_many_modules() -> None:
    assert len(NAMES) <= MODULES, f"{len(NAMES)} modules in src/quala, at most {MODULES}"


def test_few_modules_have_a_single_importer() -> None:
    single = sorted(
        f"{name} <- {next(iter(who))}"
        for name, who in importers().items()
        if len(who) == 1 and name not in PACKAGES
    )
    text = "\n".join(single)
    assert len(single) <= SINGLE_IMPORTERS, (
        f"{len(single)} modules have one importer, at most {SINGLE_IMPORTERS}:\n{text}"
    )


def test_no_file_is_too_long() -> None:
    sizes = {
        module.place: len(module.path.read_text(encoding="utf-8").splitlines())
        for module in modules().values()
    }
    long = [f"{place}: {lines} lines" for place, lines in sizes.items() if lines > LONGEST]
    assert not long, f"at most {LONGEST} lines:\n" + "\n".join(long)


def test_the_source_is_not_too_long() -> None:
    texts = (module.path.read_text(encoding="utf-8") for module in modules().values())
    lines = sum(len(text.splitlines()) for text in texts)
    assert lines <= ALL_LINES, f"src/quala has {lines} lines, at most {ALL_LINES}"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_lists_what_it_gives(name: str) -> None:
    given = listed(modules()[name])
    assert given is not None, f"{modules()[name].place} has no `__all__` that is a list literal"
    package = importlib.import_module(name)
    absent = [one for one in given if not hasattr(package, one)]
    assert not absent, f"`{name}` lists what it does not have: {absent}"
