"""Rows of one length, which need no padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def equal_lengths(
    lengths: ArrayLike, batch_size: int, rows: Sequence[int] | None = None
) -> list[list[int]]:
    """Return `rows` (None: all) once, longest first, in batches of one length: no padding."""
    counts = np.asarray(lengths, dtype=np.int64)
    groups: dict[int, list[int]] = {}
    for row in range(len(counts)) if rows is None else rows:
        groups.setdefault(int(counts[row]), []).append(row)
    return [
        groups[count][first : first + batch_size]
        for count in sorted(groups, reverse=True)
        for first in range(0, len(groups[count]), batch_size)
    ]
