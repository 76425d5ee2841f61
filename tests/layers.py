"""What imports what in src/quala, read from the source; in functions and for types counts too."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
WORKFLOWS = ROOT / "workflows"
PACKAGE = "quala"


@dataclass(frozen=True)
class Import:
    """A line that imports: `names` are what it takes from `target`, none for `import target`."""

    line: int
    target: str
    names: tuple[str, ...] = ()
    eager: bool = True
    """Whether it is done as soon as the module is imported."""


@dataclass(frozen=True)
class Module:
    """A source file by its dotted name."""

    name: str
    path: Path

    @property
    def is_package(self) -> bool:
        """Whether it is an `__init__.py`."""
        return self.path.name == "__init__.py"

    @property
    def place(self) -> str:
        """The file under the root, for messages."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def only_gives_out(self) -> bool:
        """Whether it is an `__init__.py` of imports and dunder names, without code of its own."""
        return self.is_package and all(
            isinstance(node, ast.Import | ast.ImportFrom)
            or (isinstance(node, ast.If) and _waits(node))
            or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("__"))
            for node in ast.parse(self.path.read_text(encoding="utf-8")).body
        )

    def imports(self) -> Iterator[Import]:
        """Yield the imports, wherever they stand."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        late = {inner for node in ast.walk(tree) if _waits(node) for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(node.lineno, alias.name, eager=node not in late)
            elif isinstance(node, ast.ImportFrom):
                names = tuple(alias.name for alias in node.names)
                yield Import(node.lineno, self._absolute(node), names, node not in late)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".") if self.is_package else self.name.split(".")[:-1]
        base = parts[: len(parts) - node.level + 1]
        return ".".join([*base, *([node.module] if node.module else [])])


def _waits(node: ast.AST) -> bool:
    """Say whether what is inside is not run on import: functions, and imports for types."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


@cache
def modules() -> dict[str, Module]:
    """Return the modules of src/quala by name."""
    found = {}
    for path in sorted((SOURCE / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path)
    return found


def package_of(module: str) -> str:
    """Return the first part below `quala`, empty for the root itself."""
    return module.partition(".")[2].partition(".")[0]


@cache
def edges(name: str, *, eager: bool = False) -> tuple[tuple[str, int], ...]:
    """Return the modules of quala that a module imports, each with its first line.

    `from quala.a import b` is an import of `quala.a.b` where that is a module, else of `quala.a`.
    """
    found: dict[str, int] = {}
    for target, line, _ in _targets(modules()[name], eager=eager):
        if target != name:
            found.setdefault(target, line)
    return tuple(sorted(found.items()))


def _targets(module: Module, *, eager: bool = False) -> Iterator[tuple[str, int, str | None]]:
    known = modules()
    for one in module.imports():
        if one.target.partition(".")[0] != PACKAGE or (eager and not one.eager):
            continue
        if not one.names and one.target in known:
            yield one.target, one.line, None
        for name in one.names:
            whole = f"{one.target}.{name}"
            if whole in known:
                yield whole, one.line, None
            elif one.target in known:
                yield one.target, one.line, name


def taken_from_own_package(name: str) -> list[str]:
    """Say what a module takes from the `__init__` of a package that it lies in."""
    module, known = modules()[name], modules()
    if module.is_package:
        return []
    return [
        f"{module.place}:{line} imports {what or target} from `{target}`"
        for target, line, what in _targets(module)
        if target != PACKAGE and known[target].is_package and name.startswith(f"{target}.")
    ]


def cycles() -> list[list[str]]:
    """Return the groups of modules that import one another.

    Of a package's `__init__` only what it imports at once counts: one that gives names out lazily
    is not part of a cycle.
    """
    graph = {
        name: [target for target, _ in edges(name, eager=module.is_package)]
        for name, module in modules().items()
    }
    return [group for group in _components(graph) if len(group) > 1]


def _components(graph: Mapping[str, list[str]]) -> list[list[str]]:
    """Return the strongly connected components: what reaches each other."""
    reach = {name: _reached(graph, name) for name in graph}
    groups: dict[str, list[str]] = {}
    for name in sorted(graph):
        mutual = sorted(one for one in reach[name] if name in reach.get(one, ()))
        groups[min([name, *mutual])] = sorted({name, *mutual})
    return list(groups.values())


def _reached(graph: Mapping[str, list[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found


def importers() -> dict[str, set[str]]:
    """Return who imports each module of quala, in src and workflows.

    A package's `__init__` that only gives names out is no importer: it uses none of them.
    """
    found: dict[str, set[str]] = {name: set() for name in modules()}
    for name, module in modules().items():
        for target, _ in () if module.only_gives_out else edges(name):
            found[target].add(name)
    for path in sorted(WORKFLOWS.glob("*.py")):
        for target, _, _ in _targets(Module(f"workflows.{path.stem}", path)):
            found[target].add(f"workflows/{path.name}")
    return found


def listed(module: Module) -> list[str] | None:
    """Return the `__all__` of a module where it is a list literal of strings."""
    for node in ast.parse(module.path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named = [one.id for one in targets if isinstance(one, ast.Name)]
        value = getattr(node, "value", None)
        if "__all__" in named and isinstance(value, ast.List):
            items = [one.value for one in value.elts if isinstance(one, ast.Constant)]
            return [one for one in items if isinstance(one, str)]
    return None
