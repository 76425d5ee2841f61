"""Which teacher layer each student layer learns from; all indices count from 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from quala.errors import QualaError, unknown


def uniform_layers(teacher: int, student: int) -> list[int]:
    """Return the evenly spaced teacher layers that end on the last, e.g. 12 to 6: 1, 3, ..., 11.

    Raises:
        QualaError: when the student is deeper than the teacher.
    """
    if not 1 <= student <= teacher:
        raise QualaError(f"A student needs 1 to {teacher} layers to skip evenly, got {student}.")
    return [(i + 1) * teacher // student - 1 for i in range(student)]


def layer_pairs(layers: Sequence[int], *, teacher: int, student: int) -> list[tuple[int, int]]:
    """Return (student layer, teacher layer) pairs.

    Args:
        layers: one teacher layer for each student layer.
        teacher: number of teacher layers.
        student: number of student layers.

    Raises:
        QualaError: when the map does not fit the two depths.
    """
    if len(layers) != student:
        raise QualaError(f"The layer map {list(layers)} needs one entry per layer, {student}.")
    pairs = list(enumerate(layers))
    check_pairs(pairs, student=student, teacher=teacher)
    return pairs


def hidden_pairs(pairs: Sequence[tuple[int, int]], embeddings: int = 0) -> list[tuple[int, int]]:
    """Return pairs of hidden states from pairs of layers.

    State 0 joins them: the student's embeddings, which follow the teacher's state `embeddings`.
    """
    return [(0, embeddings), *((s + 1, t + 1) for s, t in pairs)]


def followed_by_embeddings(keep_map: str, pairs: Sequence[tuple[int, int]]) -> int:
    """Return the teacher's state that the embeddings follow: its own embeddings, 0.

    XTC's released code (arXiv 2206.01859) takes the one below the input of the first layer that
    is followed: 0 for 12 to 6 layers, 1 for 12 to 5.
    """
    return max(0, pairs[0][1] - 1) if keep_map == "xtc" and pairs else 0


def check_pairs(pairs: Sequence[tuple[int, int]], *, student: int, teacher: int) -> None:
    """Raise QualaError unless there are pairs and all lie below the two counts."""
    if not pairs:
        raise QualaError("The layer map is empty; give at least one pair.")
    for s, t in pairs:
        if not (0 <= s < student and 0 <= t < teacher):
            raise QualaError(
                f"The layer pair ({s}, {t}) is outside {student} student and {teacher} teacher "
                "entries."
            )


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
