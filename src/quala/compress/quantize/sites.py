"""What the linear weights of a model are called where each may have bits of its own."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel

from quala.compress.quantize.config import RANKING
from quala.compress.quantize.integer import IntegerLinear
from quala.compress.quantize.modules import QuantLinear
from quala.compress.structure import linear_names
from quala.errors import QualaError


def site_names(model: nn.Module, modules: Collection[str]) -> dict[str, list[str]]:
    """Return what each of the named linear layers is called, by its name in the model.

    The first is the same for all families: `layers.0.ffn_in`, with `.down` and `.up` for factors,
    and `.0` on for experts, which have the name of the whole too. The last is the name in the
    model. Layers that share their weights (ALBERT) have those of all.
    """
    found: dict[str, list[str]] = {name: [] for name in modules}
    layers = linear_names(model) if isinstance(model, PreTrainedModel) else []
    for number, parts in enumerate(layers):
        for part, place in parts.items():
            for name in found:
                if name == place or name.startswith(f"{place}."):
                    whole = f"layers.{number}.{part}"
                    own = f"{whole}{name.removeprefix(place)}"
                    found[name] += dict.fromkeys((own, whole))
    return {name: [*names, name] for name, names in found.items()}


def check_drops(model: nn.Module) -> None:
    """Raise QualaError for a model with pruned queries or keys, which cannot rank tokens."""
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (IntegerLinear, QuantLinear))
    }
    for place, names in site_names(model, linears).items():
        module = linears[place]
        spec = module.weight_quantizer.spec if isinstance(module, QuantLinear) else module
        if not spec.bits and any(name.endswith(RANKING) for name in names):
            raise QualaError(
                f"`{names[0]}` has 0 bits, so that its layer attends to all tokens alike and "
                "cannot tell which to drop; allowed are 2 to 8."
            )
