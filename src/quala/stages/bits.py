"""The bits stage: how many bits each linear weight gets, within a budget."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import save
from torch import nn

from quala.checkpoint import load_with_data
from quala.compress.quantize.config import RANKING, QuantizeConfig, resolved
from quala.compress.quantize.files import packed_bytes, packed_state
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.modules import ActivationQuantizer
from quala.compress.quantize.sites import site_names
from quala.compress.quantize.transform import layers_to_round, quantize
from quala.durable import read_whole, write_whole
from quala.errors import QualaError
from quala.search.bits import RESULT, BitsResult, Sensitivity, allocate
from quala.search.evaluate import cut_chunks

if TYPE_CHECKING:
    from quala.stage import StageContext
    from quala.stages.distill_options import BitsConfig

TABLE = "table.json"
MEBI = 2**20
HEADER = 16
"""Bytes of a file's header that the bits of one weight may add: digits of shapes and offsets."""


@dataclass(frozen=True)
class Site:
    """One linear weight, and the bits that it may get."""

    name: str
    module: str
    weights: int
    layer: int | None
    """The layer that reads it first, None for a weight outside the layers."""
    choices: Sequence[int]

    @property
    def costs(self) -> list[int]:
        """The bytes of its codes for each choice; its scales are as many whatever the bits."""
        return [packed_bytes(self.weights, bits) for bits in self.choices]


def run(config: BitsConfig, context: StageContext, inputs: Mapping[str, Any]) -> dict[str, float]:
    """Find the bits of the linear weights of `model`; the output is bits.json."""
    opened, quantizers = load_with_data(inputs["model"], inputs["data"]), config.quantizers
    assert quantizers is not None  # `check_inputs`
    sites = sites_of(opened.model.hf, quantizers, config.choices)
    costs, budget = [one.costs for one in sites], budget_of(config, opened.model.hf, sites)
    chunks = cut_chunks(
        opened.data.search, examples=config.inputs, batch_size=config.batch_size,
        seed=config.seed, pad_to=opened.pad_to,
    )  # fmt: skip
    sensitivity = Sensitivity(opened.model, chunks[0].batches, quantizers)
    table = _table(sensitivity, sites, context)
    losses = [[table[one.name][str(bits)] for bits in one.choices] for one in sites]
    found = {"searched": allocate(losses, costs, budget)}
    told = sum(row[pick] for row, pick in zip(losses, found["searched"], strict=True))
    for bits in config.choices:
        same = [list(one.choices).index(bits) if bits in one.choices else 0 for one in sites]
        if bits and sum(row[pick] for row, pick in zip(costs, same, strict=True)) <= budget:
            found[f"uniform {bits}"] = same
    widths = {
        name: [one.choices[pick] for one, pick in zip(sites, picks, strict=True)]
        for name, picks in found.items()
    }
    modules = [one.module for one in sites]
    divergence = {
        name: sensitivity.divergence(dict(zip(modules, chosen, strict=True)))
        for name, chosen in widths.items()
    }
    origin = min(divergence, key=lambda name: divergence[name])
    mean = float(np.average(widths[origin], weights=[one.weights for one in sites]))
    chosen = dict(zip((one.name for one in sites), widths[origin], strict=True))
    result = BitsResult(chosen, mean, origin, divergence | {"table": told}, table)
    text = json.dumps(asdict(result), indent=1)
    (context.output / RESULT).write_text(f"{text}\n", encoding="utf-8")
    return {"bits/mean": mean, "bits/divergence": divergence[origin]}


def sites_of(hf: nn.Module, quantizers: QuantizeConfig, choices: Sequence[int]) -> list[Site]:
    """Return the weights that get bits, in the order of the layers that read them.

    Those that `overrides` names have one choice. Queries and keys are never pruned: a layer
    without them attends to all tokens alike, and could not rank them.
    """
    modules = {name: hf.get_submodule(name) for name in layers_to_round(hf, quantizers)}
    linears = {name: one for name, one in modules.items() if isinstance(one, nn.Linear)}
    names = site_names(hf, linears)
    fixed = resolved(quantizers.overrides, names)
    sites = []
    for module, linear in linears.items():
        quantizers.weights.groups(linear.weight.detach())  # refuses groups that do not fit
        name = names[module][0]
        ranks = any(one.endswith(RANKING) for one in names[module])
        own = [bits for bits in choices if bits or not ranks]
        own = [fixed[module]] if module in fixed else own
        layer = int(name.split(".")[1]) if len(names[module]) > 1 else None
        sites.append(Site(name, module, linear.weight.numel(), layer, own))
    return sorted(sites, key=lambda one: -1 if one.layer is None else one.layer)


def budget_of(config: BitsConfig, hf: nn.Module, sites: Sequence[Site]) -> int:
    """Return the bytes that are left for the codes of the sites.

    Raises:
        QualaError: where nothing fits the budget, and where everything at its most bits does.
    """
    option, given, unit, others = (
        "mean_bits",
        config.mean_bits,
        sum(s.weights for s in sites) / 8,
        0,
    )
    if given is None and config.quantizers is not None:
        option, given, unit = "mebibytes", config.mebibytes, MEBI
        bits = config.quantizers.weight_bits
        others = file_bytes(hf, config.quantizers) + HEADER * len(sites)
        others -= sum(packed_bytes(site.weights, bits) for site in sites)
    low, high = ((sum(end(site.costs) for site in sites) + others) / unit for end in (min, max))
    if given is None or not low <= given <= high:
        raise QualaError(
            f"`stage.bits.{option}` must be {low:.4g} to {high:.4g} with these `choices`, got "
            f"{given}."
        )
    return int(given * unit) - others


def file_bytes(hf: nn.Module, quantizers: QuantizeConfig) -> int:
    """Return the bytes of the file of a model with `weight_bits` everywhere."""
    model = copy.deepcopy(hf)
    quantize(model, replace(quantizers, overrides={}))
    for module in model.modules():
        if isinstance(module, ActivationQuantizer):
            module.observations.fill_(1)  # sizes need no ranges
    return len(save(packed_state(to_integer(model, inplace=True))))


def _table(
    sensitivity: Sensitivity, sites: Sequence[Site], context: StageContext
) -> dict[str, dict[str, float]]:
    """Return the divergence of each site at each width; a resumed stage keeps what it has."""
    file = context.scratch / TABLE
    table: dict[str, dict[str, float]] = read_whole(file) or {}
    with context.progress("bits: weights", len(sites)) as progress:
        for site in sites:
            if site.name not in table:
                table[site.name] = {
                    str(bits): sensitivity.divergence({site.module: bits}, site.layer)
                    for bits in site.choices
                }
                write_whole(file, json.dumps(table))
            progress.advance()
    return table
