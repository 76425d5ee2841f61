"""Sub-networks of a model that share its weights: prefixes of sorted heads and neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from quala.compress.low_rank import AnyLinear, ends
from quala.compress.prune.structured import check_heads, check_units, units_of
from quala.compress.quantize.modules import QuantLinear
from quala.compress.structure import check_sizes, float_linear, head_size, linear_names
from quala.lengths import Layers, LengthConfig, Units
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
    out = frozenset(layer for layer, units in enumerate(layers) if units is None) | skipped
    views = {f"hf.{name}": view for name, view in prefix_views(model.hf, layers).items()}
    lengths = lengths.whole if lengths is not None else None
    if not views:
        found: Tensor = model(batch, lengths, skip_layers=out)
        return found
    return cast("Tensor", functional_call(model, views, (batch, lengths), {"skip_layers": out}))


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
        out = frozenset(layer for layer, units in enumerate(layers) if units is None)
        views = prefix_views(self.model.hf, layers)
        named = {f"model.hf.{name}": view for name, view in views.items()}
        return cast("tuple[Tensor, list[Tensor]]", functional_call(self, named, (batch, out)))


def prefix_views(hf: PreTrainedModel, layers: Layers) -> dict[str, Tensor]:
    """Return views of the weights of the first heads and neurons, by parameter name.

    With these in place of its parameters (`torch.func.functional_call`) the model is that of
    `extract`, and gradients reach the prefixes only. Layers that are None have none: skip them.

    Raises:
        QualaError: for a model of integers, and as `extract`.
    """
    check_units(layers, whole := units_of(hf))
    views: dict[str, Tensor] = {}
    size, facts = head_size(hf), family_of(hf).facts
    for names, units, had in zip(linear_names(hf), layers, whole, strict=bool(layers)):
        if units in (None, had):
            continue
        linears = {part: (name, _trained_linear(hf, name)) for part, name in names.items()}
        if units.heads < had.heads:
            check_heads(hf, [range(each.heads) for each in _counted(layers, whole)])
            rows = units.heads * size
            for part in ("query",) if facts.packed else ("query", "key", "value"):
                views |= _first_outputs(*linears[part], rows, blocks=3 if facts.packed else 1)
            views |= _first_inputs(*linears["attention_out"], rows)
        if units.neurons < had.neurons:
            blocks = 2 if facts.gated else 1
            views |= _first_outputs(*linears["ffn_in"], units.neurons, blocks=blocks)
            views |= _first_inputs(*linears["ffn_out"], units.neurons)
    return views


def _counted(layers: Layers, whole: Sequence[Units]) -> list[Units]:
    return [units or had for units, had in zip(layers, whole, strict=True)]


def _first_outputs(name: str, linear: AnyLinear, rows: int, *, blocks: int) -> dict[str, Tensor]:
    _, last = ends(linear)
    name = name if last is linear else f"{name}.up"
    views = {}
    for kind in ("weight", "bias"):
        whole = getattr(last, kind)
        if whole is not None:
            parts = [block[:rows] for block in whole.chunk(blocks)]
            views[f"{name}.{kind}"] = parts[0] if blocks == 1 else torch.cat(parts)
    return views


def _first_inputs(name: str, linear: AnyLinear, columns: int) -> dict[str, Tensor]:
    first, _ = ends(linear)
    name = name if first is linear else f"{name}.down"
    return {f"{name}.weight": first.weight[:, :columns]}


def _trained_linear(hf: PreTrainedModel, name: str) -> AnyLinear:
    module = hf.get_submodule(name)
    if isinstance(module, QuantLinear):
        check_sizes(hf)
        return module
    return float_linear(hf, name)
