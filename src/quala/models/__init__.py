"""The length-adaptive encoder around Hugging Face layers.

`load_model` reads a checkpoint as a `LengthAdaptiveModel`, which takes a `LengthConfig` beside its
batch and drops tokens layer by layer; `save_model` writes it. A `Significance` ranks the tokens, a
`Family` says where a kind of model has its parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.models.families import Family
    from quala.models.load import load_model, load_tokenizer, save_model
    from quala.models.significance import Significance

__all__ = [
    "Family", "LengthAdaptiveModel", "Significance", "load_model", "load_tokenizer",
    "save_model",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "quala.models.adaptive": ["LengthAdaptiveModel"],
        "quala.models.families": ["Family"],
        "quala.models.load": ["load_model", "load_tokenizer", "save_model"],
        "quala.models.significance": ["Significance"],
    },
)
