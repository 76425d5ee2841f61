"""Which layers a shallower model keeps, by name; all indices count from 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from quala.compress.distill.layer_map import uniform_layers
from quala.errors import QualaError, unknown

LayerMap = Literal["uniform", "tinybert", "xtc", "top", "bottom", "symmetric"]

# XTC's own choices (arXiv 2206.01859); for 12 to 5 they are not those of an even spread.
_XTC: Mapping[tuple[int, int], tuple[int, ...]] = MappingProxyType(
    {(12, 6): (1, 3, 5, 7, 9, 11), (12, 5): (2, 4, 6, 8, 10)}
)


def _tinybert(depth: int, kept: int) -> list[int]:
    if depth % kept:
        raise QualaError(f"`tinybert` needs a divisor of {depth} layers, got {kept}.")
    return uniform_layers(depth, kept)


def _xtc(depth: int, kept: int) -> list[int]:
    if (depth, kept) not in _XTC:
        known = ", ".join(f"{before} to {after}" for before, after in _XTC)
        raise QualaError(f"`xtc` knows {known} layers, got {depth} to {kept}.")
    return list(_XTC[depth, kept])


def _symmetric(depth: int, kept: int) -> list[int]:
    front = -(-kept // 2)
    return [*range(front), *range(depth - (kept - front), depth)]


LAYER_MAPS: Mapping[str, Callable[[int, int], list[int]]] = MappingProxyType(
    {
        "uniform": uniform_layers,
        "tinybert": _tinybert,
        "xtc": _xtc,
        "top": lambda depth, kept: list(range(depth - kept, depth)),
        "bottom": lambda depth, kept: list(range(kept)),
        "symmetric": _symmetric,
    }
)


def layers_to_keep(name: str, *, depth: int, kept: int) -> list[int]:
    """Return the layers that a model of `depth` layers keeps, for `keep_layers`.

    `uniform`: evenly spaced, ending on the last. `tinybert`: every k-th, g(m) = k m
    (arXiv 1909.10351), where `kept` divides `depth`. `xtc`: as published, 12 to 6 or 5. `top`,
    `bottom`: the layers next to the head or to the embeddings. `symmetric`: both ends, the middle
    dropped (arXiv 2004.03844).

    Raises:
        QualaError: for another name, and for depths that the map does not fit.
    """
    if name not in LAYER_MAPS:
        raise unknown("layer map", name, LAYER_MAPS)
    if not 1 <= kept <= depth:
        raise QualaError(f"`kept` must be 1 to {depth} layers, got {kept}.")
    return LAYER_MAPS[name](depth, kept)
