"""How a fake-quantized model is stored, so that a later training can continue from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.modules import ActivationQuantizer
from quala.compress.quantize.split import join_halves, split_names, split_shells
from quala.compress.quantize.transform import quantize, set_mode
from quala.errors import QualaError

LATENT_FILE = "latent.safetensors"
FORMAT = "1"
_QUANTIZERS = ("weight_quantizer", "input_quantizer", "outliers")


@dataclass(frozen=True, eq=False)
class Latent:
    """A fake-quantized model: all its tensors, and what is needed to build it around them."""

    config: QuantizeConfig
    split: tuple[str, ...]
    """Names of the layers that were split into halves."""
    tensors: dict[str, Tensor]


def save_latent(model: nn.Module, folder: str | Path) -> None:
    """Write a fake-quantized `model` into `folder`.

    Raises:
        QualaError: for a model that is not fake-quantized.
    """
    quantizers = (one for one in model.modules() if isinstance(one, ActivationQuantizer))
    first = next(quantizers, None)
    if first is None:
        raise QualaError("`save_latent` got a model that is not fake-quantized; `quantize` it.")
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    facts = {
        "format": FORMAT,
        "quantizers": json.dumps(asdict(first.config)),
        "split": json.dumps(split_names(model)),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(folder) / LATENT_FILE, metadata=facts)


def read_latent(folder: str | Path) -> Latent:
    """Read what `save_latent` wrote. Raises QualaError when it is missing or damaged."""
    file = Path(folder) / LATENT_FILE
    if not file.is_file():
        raise QualaError(f"`{folder}` has no {LATENT_FILE}.")
    try:
        with safe_open(file, framework="pt") as stored:
            facts = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        if facts.get("format") != FORMAT:
            raise QualaError(f"`{file}` must have format {FORMAT}, got {facts.get('format')}.")
        values = json.loads(facts["quantizers"])
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        config = QuantizeConfig(**values | lists)
        return Latent(config, tuple(json.loads(facts["split"])), tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise QualaError(f"`{file}` cannot be read: {error!r}.") from error


def restore_latent(model: nn.Module, latent: Latent) -> None:
    """Turn a float `model` of the same sizes, in place, into the one that `save_latent` stored.

    Every tensor is equal to the bit, with ranges and learned steps.

    Raises:
        QualaError: for a model of other sizes.
    """
    quantize(model, latent.config)
    split_shells(model, latent.split)
    _load(model, latent.tensors)
    set_mode(model, "fake")


def restore_float(model: nn.Module, latent: Latent) -> None:
    """Load the weights before rounding into a float `model` of the same sizes, in place.

    Halves of a split layer are added up. Raises QualaError for a model of other sizes.
    """
    state = {
        name: value
        for name, value in latent.tensors.items()
        if not any(part in _QUANTIZERS for part in name.split("."))
    }
    join_halves(state, latent.split)
    _load(model, state)


@torch.no_grad()
def _load(model: nn.Module, state: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise QualaError(f"The latent weights do not fit the model: {error}") from error
