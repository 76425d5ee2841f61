"""Models: the length-adaptive encoder, its families, and where models come from."""

from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import load_model, load_tokenizer, save_model
from quala.models.selection import survivors

__all__ = ["LengthAdaptiveModel", "load_model", "load_tokenizer", "save_model", "survivors"]
