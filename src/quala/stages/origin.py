"""What a student copied of its teacher, and so which heads it may be held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import METADATA_FILE, read_metadata
from quala.models.source import source_fingerprint

KEY = "copied"
Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Origin:
    """The teacher's layer that each layer of a student copied, and the head that each head did."""

    teacher: str
    """Fingerprint of the teacher's weights: places in another model say nothing."""
    layers: list[int]
    heads: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        """Return what quala.json keeps."""
        return {KEY: asdict(self)}


def copied_from(
    teacher: str | Path, layers: Sequence[int], heads: Sequence[Sequence[int]]
) -> Origin:
    """Return the origin of a student that copied these layers and heads of `teacher`."""
    places = [list(places) for places in heads]
    return Origin(source_fingerprint(teacher), list(layers), places)


def origin_of(student: str | Path, teacher: str | Path) -> Origin | None:
    """Read what a saved student copied of `teacher`; None where it does not say, or of another.

    Raises:
        QualaError: for a damaged record.
    """
    if not (Path(student) / METADATA_FILE).is_file():
        return None
    facts = read_metadata(student).get(KEY)
    if facts is None:
        return None
    try:
        origin = Origin(facts["teacher"], list(facts["layers"]), [list(h) for h in facts["heads"]])
    except (KeyError, TypeError) as error:
        raise QualaError(f"`{KEY}` in `{student}` is damaged: {error!r}.") from error
    return origin if origin.teacher == source_fingerprint(teacher) else None


def heads_to_follow(
    pairs: Pairs,
    student: LengthAdaptiveModel,
    teacher: LengthAdaptiveModel,
    origin: Origin | None,
) -> list[list[int]]:
    """Return for each pair of layers the teacher's heads that the student's are held against.

    Those that they copied where the layer is a copy of the other, else all of them in order.

    Raises:
        QualaError: for layers of different head counts of which one is no copy of the other.
    """
    followed = []
    for own, other in pairs:
        count, wanted = student.arch.sizes[own].heads, teacher.arch.sizes[other].heads
        if origin is not None and origin.layers[own] == other:
            followed.append(origin.heads[own])
        elif count == wanted:
            followed.append(list(range(count)))
        else:
            raise QualaError(
                f"Layer {own} of the student has {count} heads and follows layer {other} of the "
                f"teacher, which has {wanted} and was not copied into it: set `attention=0`, or "
                "leave `layer_map` to the copied layers."
            )
    return followed
