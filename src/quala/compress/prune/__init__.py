"""Pruning: heads and neurons are removed, or single weights are kept at zero by masks.

`taylor_importance` scores heads and neurons, `sort_width` and `extract` keep the best of them,
`keep_units` keeps any. `magnitude_masks` and `apply_masks` set the smallest weights to zero;
`HybridConfig` and `ratio_steps` say how far, together with low-rank factors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.compress.prune.config import HybridConfig, ratio_steps
    from quala.compress.prune.magnitude import apply_masks, magnitude_masks
    from quala.compress.prune.structured import (
        Importance,
        extract,
        keep_units,
        sort_width,
        taylor_importance,
    )

__all__ = [
    "HybridConfig", "Importance", "apply_masks", "extract", "keep_units", "magnitude_masks",
    "ratio_steps", "sort_width", "taylor_importance",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "quala.compress.prune.config": ["HybridConfig", "ratio_steps"],
        "quala.compress.prune.magnitude": ["apply_masks", "magnitude_masks"],
        "quala.compress.prune.structured": [
            "Importance",
            "extract",
            "keep_units",
            "sort_width",
            "taylor_importance",
        ],
    },
)
