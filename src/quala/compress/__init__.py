"""Compression as transformations of a float model, and the losses that train it afterwards.

`keep_layers` removes layers, `hybrid_compress` factorizes and prunes matrices; both return a
smaller copy of a Hugging Face model. `structure_of` measures the sizes of a compressed model,
`load_structured` reads one from its folder. `quala.compress.prune` removes heads, neurons and
single weights, `quala.compress.quantize` has 1- to 8-bit integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.compress.layer_maps import layers_to_keep
    from quala.compress.shrink import factorize, hybrid_compress
    from quala.compress.structure import keep_layers, load_structured, structure_of

__all__ = [
    "factorize", "hybrid_compress", "keep_layers", "layers_to_keep", "load_structured",
    "structure_of",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "quala.compress.layer_maps": ["layers_to_keep"],
        "quala.compress.shrink": ["factorize", "hybrid_compress"],
        "quala.compress.structure": ["keep_layers", "load_structured", "structure_of"],
    },
)
