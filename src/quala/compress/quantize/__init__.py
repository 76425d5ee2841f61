"""Quantization to 1 to 8 bits: layers round while training, then their weights become integers.

With a `QuantizeConfig`, `quantize` swaps the layers of a model in place, `calibrate` finds the
ranges of their inputs, `to_integer` makes integer layers for inference; `save_integer` and
`load_integer` store them. In between the model can be trained; `save_latent` keeps the weights
that are rounded, and `split_ternary` makes binary halves of ternary layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.compress.quantize.config import QuantizeConfig
    from quala.compress.quantize.files import load_integer, save_integer
    from quala.compress.quantize.integer import precision_of, to_integer
    from quala.compress.quantize.latent import read_latent, save_latent
    from quala.compress.quantize.split import split_ternary
    from quala.compress.quantize.transform import calibrate, is_fake_quantized, quantize

__all__ = [
    "QuantizeConfig", "calibrate", "is_fake_quantized", "load_integer", "precision_of",
    "quantize", "read_latent", "save_integer", "save_latent", "split_ternary", "to_integer",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "quala.compress.quantize.config": ["QuantizeConfig"],
        "quala.compress.quantize.files": ["load_integer", "save_integer"],
        "quala.compress.quantize.integer": ["precision_of", "to_integer"],
        "quala.compress.quantize.latent": ["read_latent", "save_latent"],
        "quala.compress.quantize.split": ["split_ternary"],
        "quala.compress.quantize.transform": ["calibrate", "is_fake_quantized", "quantize"],
    },
)
