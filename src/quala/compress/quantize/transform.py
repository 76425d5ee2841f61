"""How a float model becomes fake-quantized in place: swapped layers, ranges, learned parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quala.compress.quantize.config import QuantizeConfig, resolved
from quala.compress.quantize.modules import (
    ActivationQuantizer,
    Mode,
    QuantEmbedding,
    QuantLinear,
    WeightQuantizer,
)
from quala.compress.quantize.sites import site_names
from quala.errors import QualaError, unknown
from quala.models.families import family_of


def quantize(model: nn.Module, config: QuantizeConfig) -> list[str]:
    """Swap the layers of `model` in place for quantized twins in mode `off`.

    The parts that the model's family names stay float too, its heads with the default `skip`.

    Returns:
        The names of the swapped modules, in module order.

    Raises:
        QualaError: when nothing is left to quantize, the model is quantized already, or as
            `resolved` for the overrides.
    """
    if is_fake_quantized(model):
        raise QualaError("`quantize` got a model that is quantized already; give it a float one.")
    names = layers_to_round(model, config)
    modules = {name: model.get_submodule(name) for name in names}
    linears = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    bits = resolved(config.overrides, site_names(model, linears))
    for name, module in modules.items():
        if isinstance(module, nn.Linear):
            twin: nn.Module = QuantLinear.from_float(module, config, bits.get(name))
        else:
            twin = QuantEmbedding.from_float(cast("nn.Embedding", module), config)
        model.set_submodule(name, twin)
    return names


def layers_to_round(model: nn.Module, config: QuantizeConfig) -> list[str]:
    """Return the names of the layers that `quantize` swaps. Raises QualaError for none."""
    skip = config.skip
    if isinstance(model, PreTrainedModel):
        family = family_of(model)
        skip = (*skip, *family.float_parts)
        if config.skip == QuantizeConfig.skip:
            skip = (*skip, *family.head_parts)
    kinds = (nn.Linear, nn.Embedding) if config.quantize_embeddings else (nn.Linear,)
    names = [
        name
        for name, module in model.named_modules()
        if type(module) in kinds and not _matches(name, skip)
    ]
    if not names:
        raise QualaError(f"Nothing is left to quantize with `skip` {', '.join(skip)}.")
    return names


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(part, pattern) for part in name.split(".") for pattern in patterns)


def is_fake_quantized(model: nn.Module) -> bool:
    """Tell whether `quantize` swapped layers of `model` and none has become integers."""
    return any(isinstance(module, (QuantLinear, QuantEmbedding)) for module in model.modules())


def calibrate(model: nn.Module, run: Callable[[], None]) -> None:
    """Find the activation ranges of `model` from the forward passes that `run` makes.

    Earlier observations are forgotten, and the model is left in mode `fake`. No gradients are
    recorded. The caller chooses train or eval mode.

    Raises:
        QualaError: when `run` does not reach every quantized layer.
    """
    for _, quantizer in _quantizers(model):
        quantizer.forget()
    with torch.no_grad():
        set_mode(model, "off")
        find_outliers(model, run)
        set_mode(model, "observe")
        run()
    for _, quantizer in _quantizers(model):
        quantizer.finalize()
    set_mode(model, "fake")


def set_mode(model: nn.Module, mode: Mode) -> None:
    """Switch all quantizers of `model` to `off`, `observe` or `fake`.

    Raises:
        QualaError: for `fake` when some layer has no range yet.
    """
    if mode not in get_args(Mode):
        raise unknown("quantizer mode", mode, get_args(Mode))
    for name, quantizer in _quantizers(model):
        if mode == "fake" and quantizer.observations == 0:
            raise QualaError(f"`{name}` has no range; calibrate the model before mode `fake`.")
    for _, quantizer in _quantizers(model):
        quantizer.mode = mode
    for module in model.modules():
        if isinstance(module, QuantEmbedding):
            module.mode = mode


def _quantizers(model: nn.Module) -> Iterator[tuple[str, ActivationQuantizer]]:
    for name, module in model.named_modules():
        if isinstance(module, ActivationQuantizer):
            yield name, module


RANGE_RATIO = 2.0
"""Keep inputs float only where the largest is at least twice the largest of the others: then the
others gain a bit."""


def find_outliers(model: nn.Module, run: Callable[[], None]) -> None:
    """Choose the inputs of each layer that stay float, by the forward passes that `run` makes.

    They are the `outliers` inputs with the largest absolute values, if the next largest is at
    most half of the largest, else none. After LLM.int8() (arXiv 2208.07339), which has an absolute
    threshold instead. Without a layer that asks for outliers, `run` is not called.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, QuantLinear)
        and module.input_quantizer.config.outliers
        and module.weight_quantizer.spec.bits
    ]
    if not layers:
        return
    seen: dict[QuantLinear, Tensor] = {}

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, QuantLinear)
        largest = inputs[0].detach().abs().flatten(0, -2).amax(0).float()
        seen[layer] = torch.maximum(seen[layer], largest) if layer in seen else largest

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    for layer in layers:
        if layer in seen:
            layer.outliers = _largest(seen[layer], layer.input_quantizer.config.outliers)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return the places of the `count` largest values, none if the rest is about as large."""
    if count >= len(values):
        return values.new_empty(0, dtype=torch.long)
    top = values.topk(count + 1)
    worth = top.values[0] >= RANGE_RATIO * top.values[-1]
    return top.indices[:count].sort().values if worth else top.indices[:0]


@dataclass(frozen=True, slots=True, eq=False)
class LearnedStep:
    """A learned step (LSQ), the largest code of its grid, and whether it rounds activations."""

    step: nn.Parameter
    top: int
    activation: bool


def learned_steps(model: nn.Module) -> list[LearnedStep]:
    """Return the learned steps of weights, embeddings and activations, in module order."""
    found = []
    for module in model.modules():
        step = getattr(module, "step", None)
        if not isinstance(step, nn.Parameter) or not step.requires_grad:
            continue
        if isinstance(module, WeightQuantizer):
            found.append(LearnedStep(step, module.spec.top, activation=False))
        elif isinstance(module, ActivationQuantizer):
            zero = int(module.zero_point)
            top = max(zero, module.levels - zero)
            found.append(LearnedStep(step, top, activation=True))
    return found


@torch.no_grad()
def set_curvature(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Set the diagonal Hessian of loss-aware ternary weights from Adam's second moments v.

    The Hessian is taken as sqrt(v) + 1e-8 (TernaryBERT, arXiv 2009.12812). Weights without an
    `exp_avg_sq` in `optimizer` keep theirs.

    Returns:
        The number of weights that were set.
    """
    given = 0
    for module in model.modules():
        if not isinstance(module, (QuantLinear, QuantEmbedding)):
            continue
        moment = optimizer.state.get(module.weight, {}).get("exp_avg_sq")
        curvature = module.weight_quantizer.curvature
        if moment is not None and curvature is not None:
            curvature.copy_(moment.sqrt().add_(1e-8))
            given += 1
    return given
