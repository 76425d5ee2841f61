"""Sub-networks of a model that share its weights: prefixes of sorted heads and neurons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from quala.compress.low_rank import AnyLinear, ends
from quala.compress.prune.structured import check_heads, check_units, units_of
from quala.compress.quantize.modules import QuantLinear
from quala.compress.structure import check_sizes, float_linear, head_size, linear_names
from quala.lengths import Layers, LengthConfig, Units, left_out
from quala.models.families import family_of

if TYPE_CHECKING:
    from quala.data.features import Batch
    from quala.models.adaptive import LengthAdaptiveModel


def run_layers(
    model: LengthAdaptiveModel,
    batch: Batch,
    layers: Layers,
    lengths: LengthConfig | None = None,
    *,
    skipped: frozenset[int] = frozenset(),
) -> Tensor:
    """Return the logits of the sub-network of these layers, on the weights of `model`.

    `skipped` are layers that are left out besides. Gradients reach the prefixes only. Raises
    QualaError as `prefix_views`.
    """
    out = left_out(layers) | skipped
    lengths = lengths.whole if lengths is not None else None
    with narrowed(model.hf, layers) as found:
        views = {f"hf.{name}": view for name, view in found.items()}
        if not views:
            return cast("Tensor", model(batch, lengths, skip_layers=out))
        options = {"skip_layers": out}
        return cast("Tensor", functional_call(model, views, (batch, lengths), options))


class StatesOf(nn.Module):
    """A model whose call returns its logits and its hidden states, at full length.

    These are (B, n, H), those of the embeddings first, of the layers that are not skipped.
    """

    def __init__(self, model: LengthAdaptiveModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, skip_layers: frozenset[int]) -> tuple[Tensor, list[Tensor]]:
        state = self.model.begin(batch)
        hidden = [state.hidden]
        for layer in range(self.model.num_layers):
            if layer not in skip_layers:
                attended = self.model.attend(state, layer, scored=False)
                state = self.model.narrow(attended, layer, None)
                hidden.append(state.hidden)
        return self.model.finish(state), hidden

    def of(self, batch: Batch, layers: Layers) -> tuple[Tensor, list[Tensor]]:
        """Return them of a sub-network."""
        out = left_out(layers)
        with narrowed(self.model.hf, layers) as views:
            named = {f"model.hf.{name}": view for name, view in views.items()}
            return cast("tuple[Tensor, list[Tensor]]", functional_call(self, named, (batch, out)))


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first outputs of each of `blocks` of a linear layer, or the first inputs, that run."""

    name: str
    linear: AnyLinear
    outputs: int | None = None
    inputs: int | None = None
    blocks: int = 1

    def views(self) -> dict[str, Tensor]:
        """Return them as views of the parameters, by name."""
        first, last = ends(self.linear)
        whole = first is last
        if self.inputs is not None:
            name = self.name if whole else f"{self.name}.down"
            return {f"{name}.weight": first.weight[:, : self.inputs]}
        name, found = self.name if whole else f"{self.name}.up", {}
        for kind in ("weight", "bias"):
            if (values := getattr(last, kind)) is not None:
                parts = [block[: self.outputs] for block in values.chunk(self.blocks)]
                found[f"{name}.{kind}"] = parts[0] if self.blocks == 1 else torch.cat(parts)
        return found

    def narrow(self, linear: QuantLinear) -> None:
        """Let a rounded layer compute no more; a view of its weight would have another grid."""
        linear.columns = self.inputs
        if self.outputs is not None:
            places = torch.arange(linear.out_features, device=linear.weight.device)
            parts = [block[: self.outputs] for block in places.chunk(self.blocks)]
            linear.rows = slice(self.outputs) if self.blocks == 1 else torch.cat(parts)


@contextmanager
def narrowed(hf: PreTrainedModel, layers: Layers) -> Iterator[dict[str, Tensor]]:
    """Give the `prefix_views` of float layers; rounded ones compute no more while it is open."""
    views: dict[str, Tensor] = {}
    rounded: list[QuantLinear] = []
    try:
        for one in _prefixes(hf, layers):
            if isinstance(one.linear, QuantLinear):
                rounded.append(one.linear)
                one.narrow(one.linear)
            else:
                views |= one.views()
        yield views
    finally:
        for linear in rounded:
            linear.rows, linear.columns = slice(None), None


def prefix_views(hf: PreTrainedModel, layers: Layers) -> dict[str, Tensor]:
    """Return views of the weights of the first heads and neurons, by parameter name.

    With these in place of its parameters (`torch.func.functional_call`) the model is that of
    `extract`, and gradients reach the prefixes only. Layers that are None have none: skip them.

    Raises:
        QualaError: for a model of integers, and as `extract`.
    """
    views: dict[str, Tensor] = {}
    for one in _prefixes(hf, layers):
        views |= one.views()
    return views


def _prefixes(hf: PreTrainedModel, layers: Layers) -> Iterator[Prefix]:
    if not layers:
        return  # most passes; reading the sizes off the model takes time
    check_units(layers, whole := units_of(hf))
    size, facts = head_size(hf), family_of(hf).facts
    for names, units, had in zip(linear_names(hf), layers, whole, strict=True):
        if units in (None, had):
            continue
        linears = {part: (name, _trained_linear(hf, name)) for part, name in names.items()}
        if units.heads < had.heads:
            check_heads(hf, [range(each.heads) for each in _counted(layers, whole)])
            rows, blocks = units.heads * size, 3 if facts.packed else 1
            for part in ("query",) if facts.packed else ("query", "key", "value"):
                yield Prefix(*linears[part], outputs=rows, blocks=blocks)
            yield Prefix(*linears["attention_out"], inputs=rows)
        if units.neurons < had.neurons:
            blocks = 2 if facts.gated else 1
            yield Prefix(*linears["ffn_in"], outputs=units.neurons, blocks=blocks)
            yield Prefix(*linears["ffn_out"], inputs=units.neurons)


def _counted(layers: Layers, whole: Sequence[Units]) -> list[Units]:
    return [units or had for units, had in zip(layers, whole, strict=True)]


def _trained_linear(hf: PreTrainedModel, name: str) -> AnyLinear:
    module = hf.get_submodule(name)
    if isinstance(module, QuantLinear):
        check_sizes(hf)
        return module
    return float_linear(hf, name)
