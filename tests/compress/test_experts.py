"""Experts: which neurons and tokens each has, and that each token passes its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import RESIZED, VOCABULARY, BuildHf, MakeBatch, survivors
from transformers import AutoTokenizer, PreTrainedModel

from quala.architecture import KEY, LayerSizes
from quala.checkpoint import load_any_model
from quala.compress.experts import ExpertsConfig, cut_experts, route_tables
from quala.compress.prune.structured import keep_units
from quala.compress.prune.views import prefix_views
from quala.compress.shrink import factorize
from quala.compress.structure import load_structured
from quala.cost import active_parameters, architecture_of, macs, parameters, size_bytes
from quala.data.task import Classes
from quala.errors import QualaError
from quala.lengths import LengthConfig, Units
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.load import save_model
from quala.models.selection import State

CONFIG = ExpertsConfig(count=3, size=0.25, shared=0.5)
DROPS = LengthConfig((20, 9, 4), 20)


def scores(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(32, generator=generator) for _ in range(3)]


def tables(config: ExpertsConfig = CONFIG, seed: int = 0) -> Any:
    counts = np.ones(VOCABULARY, np.int64)
    return route_tables(config, layers=3, seed=seed, counts=counts)


def routed(hf: PreTrainedModel, config: ExpertsConfig = CONFIG) -> PreTrainedModel:
    return cut_experts(hf, config, scores=scores(), tables=tables(config))


def test_the_first_neurons_are_shared_and_the_others_dealt_out_in_turn() -> None:
    order = [7, 3, 0, 5, 2, 6, 1, 4, 8, 9, 10, 11]
    dealt = ExpertsConfig(count=3, size=1 / 3, shared=0.5).deal(order)
    assert dealt == [[7, 3, 0, 6], [7, 3, 5, 1], [7, 3, 2, 4]]
    assert ExpertsConfig(count=1, size=0.25).deal(order) == [[7, 3, 0]]
    assert ExpertsConfig(count=4, size=0.25, shared=0).deal(order)[3] == [5, 4, 11]


def test_the_paper_has_512_of_768_neurons_in_common() -> None:
    assert ExpertsConfig(shared=0.667).neurons(3072) == (768, 512)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 0.3}, "share of the layers' 32 neurons that gives a whole number, got 0.3, wh"),
        ({"size": 0.5}, "4 experts of 16 neurons, 8 of them shared, need 40 of the layers' 32"),
        ({"count": 0}, "`count` must be at least 1 and at most 127, got 0"),
        ({"shared": 1.5}, "`shared` must be at least 0 and at most 1, got 1.5"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        ExpertsConfig(**{"shared": 0.5} | options).neurons(32)


def test_random_tables_differ_by_layer_and_seed() -> None:
    one, other = tables(), tables(seed=1)
    assert one.shape == (3, VOCABULARY)
    assert one.dtype == np.int8
    assert set(one.flat) == {0, 1, 2}
    assert (one == tables()).all()
    assert len({table.tobytes() for table in (*one, *other)}) == 6


def test_a_balanced_table_gives_the_next_token_to_the_lightest_expert() -> None:
    config = replace(CONFIG, routing="hash_balance")
    counts = np.random.default_rng(0).zipf(1.3, VOCABULARY).clip(max=500)
    counts[30:] = 0
    found = route_tables(config, layers=2, seed=0, counts=counts)
    loads, wanted = [0, 0, 0], {}
    for token in sorted(range(VOCABULARY), key=lambda one: (-counts[one], one)):
        wanted[token] = loads.index(min(loads))
        loads[wanted[token]] += counts[token] + 1
    assert found.tolist() == [[wanted[token] for token in range(VOCABULARY)]] * 2


@pytest.mark.parametrize("lengths", [None, DROPS])
@pytest.mark.parametrize("family", RESIZED)
def test_each_token_passes_the_layer_pruned_to_its_expert(
    family: str,
    lengths: LengthConfig | None,
    build_hf: BuildHf,
    make_batch: MakeBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hf, table = build_hf(family), tables()
    order = [score.argsort(descending=True).tolist() for score in scores()]
    pruned = [
        LengthAdaptiveModel(keep_units(hf, neurons=[CONFIG.deal(one)[e] for one in order]))
        for e in range(3)
    ]
    model, batch = LengthAdaptiveModel(routed(hf)), make_batch([20, 13], family=family)
    found = model(batch, lengths)

    def one_by_one(state: State, layer: int) -> State:
        fed = state.hidden.clone()
        for text, row in enumerate(state.hidden):
            for place in range(len(row)):
                at = int(survivors(state.drops)[text, place]) if state.drops else place
                if at < 0:  # a filler
                    continue
                expert = table[layer][int(batch["input_ids"][text, at])]
                alone = replace(state, hidden=row[place][None, None])
                fed[text, place] = pruned[expert].feed(alone, layer).hidden[0, 0]
        return replace(state, hidden=fed)

    monkeypatch.setattr(model, "feed", one_by_one)
    torch.testing.assert_close(found, model(batch, lengths))


def test_a_saved_model_routes_as_before(
    build_hf: BuildHf, make_batch: MakeBatch, tmp_path: Path, tiny_tokenizer_folder: Path
) -> None:
    hf = routed(build_hf("bert", "classification").float())
    model = LengthAdaptiveModel(hf, task=Classes(3), significance="cls")
    tokenizer, batch = AutoTokenizer.from_pretrained(tiny_tokenizer_folder), make_batch([20, 13])
    save_model(model, tokenizer, tmp_path, metadata={})
    loaded = load_any_model(tmp_path, task=Classes(3))
    assert torch.equal(loaded(batch), model(batch))
    assert torch.equal(loaded(batch, DROPS), model(batch, DROPS))
    for first in ("0", "1", "2"):
        part: Any = loaded.hf.get_submodule(f"bert.encoder.layer.{first}.intermediate.dense")
        assert part.table.tolist() == tables()[int(first)].tolist()
        part.table.zero_()
    assert not torch.allclose(loaded(batch), model(batch))


def test_all_parameters_are_counted_and_those_of_one_expert_work(
    build_hf: BuildHf, tmp_path: Path
) -> None:
    hf = routed(build_hf().float())
    one = LengthAdaptiveModel(routed(build_hf().float(), replace(CONFIG, count=1))).arch
    hf.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["intermediate_size"] == 8
    assert [layer["experts"] for layer in config[KEY]["layers"]] == [3, 3, 3]
    arch = architecture_of(config)
    assert parameters(arch) == sum(weight.numel() for weight in hf.parameters())
    assert active_parameters(arch) == parameters(one) == active_parameters(one) < parameters(arch)
    assert macs(arch, [20] * 3, 20) == macs(one, [20] * 3, 20)
    assert size_bytes(arch, "fp32") == 4 * parameters(arch) + 3 * VOCABULARY


def test_one_expert_is_an_ordinary_pruned_layer(build_hf: BuildHf, make_batch: MakeBatch) -> None:
    hf, config = build_hf(), replace(CONFIG, count=1)
    best = [score.argsort(descending=True)[:8].tolist() for score in scores()]
    one, other = routed(hf, config), keep_units(hf, neurons=best)
    assert not hasattr(one.config, KEY)
    batch = make_batch([20, 13])
    assert torch.equal(LengthAdaptiveModel(one)(batch), LengthAdaptiveModel(other)(batch))


def test_an_older_config_has_no_experts(build_hf: BuildHf) -> None:
    small = keep_units(build_hf(), neurons=[range(8), range(9), range(8)])
    facts = getattr(small.config, KEY)
    assert all("experts" not in layer for layer in facts["layers"])
    assert architecture_of(small.config.to_dict()).sizes[1] == LayerSizes(4, 9)


@pytest.mark.parametrize(
    "sizes", [{"experts": 1}, {"experts": 2, "ranks": (0, 0, 0, 0, 3, 0)}, {"experts": 200}]
)
def test_impossible_experts_of_a_config_are_refused(build_hf: BuildHf, sizes: Any) -> None:
    config = routed(build_hf()).config.to_dict()
    config[KEY]["layers"][0] |= {"ranks": list(sizes.pop("ranks", (0,) * 6))} | sizes
    with pytest.raises(QualaError, match=r"config.json cannot be used: .*experts"):
        architecture_of(config)


def test_what_is_not_dense_and_whole_is_refused(build_hf: BuildHf, tmp_path: Path) -> None:
    hf = build_hf().float()
    with pytest.raises(QualaError, match="that of layer 0 is factorized"):
        routed(factorize(hf, 1.5))
    once = routed(hf)
    with pytest.raises(QualaError, match="that of layer 0 is routed"):
        routed(once)
    for change in (
        lambda hf: keep_units(hf, neurons=[[0]] * 3),
        lambda hf: prefix_views(hf, (Units(2, 4),) * 3),
        lambda hf: factorize(hf, 2),
    ):
        with pytest.raises(QualaError, match="has 3 experts: narrow, prune or factorize a"):
            change(once)
    with pytest.raises(QualaError, match="cannot be pruned or factorized"):
        routed(build_hf("albert"))
    once.save_pretrained(tmp_path)
    with pytest.raises(QualaError, match="Experts are chosen by token ids"):
        load_structured(tmp_path)(input_ids=torch.ones(1, 4, dtype=torch.long))
