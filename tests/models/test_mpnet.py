"""MPNet's biases are those of the places in the text, at any distance and after any drop."""

from __future__ import annotations

import torch
from toys import Build, BuildHf

from quala.models.mpnet import MPNET


def test_the_biases_are_those_of_transformers_at_any_distance(build_hf: BuildHf) -> None:
    hf = build_hf("mpnet", max_position_embeddings=300)
    places = torch.arange(298).expand(2, -1)
    found = MPNET.bias(hf, 0, torch.empty(0), torch.empty(0), places)
    expected = hf.base_model.encoder.compute_position_bias(torch.empty(1, 298, 16))
    assert torch.equal(found, expected)
    kept = torch.tensor([[0, 7, 8, 130, 297], [1, 2, 3, 4, 200]])
    found = MPNET.bias(hf, 0, torch.empty(0), torch.empty(0), kept)
    for row, few in enumerate(kept):
        assert torch.equal(found[row], expected[0][:, few][:, :, few])


def test_without_drops_there_is_one_bias_for_all_examples(build_hf: BuildHf) -> None:
    hf = build_hf("mpnet")
    places = torch.arange(9).expand(5, -1)
    assert MPNET.bias(hf, 0, torch.empty(0), torch.empty(0), places).shape == (1, 4, 9, 9)


def test_the_table_learns(build: Build) -> None:
    model = build("mpnet").train()
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 8]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.long),
        "segment_ids": torch.tensor([[0, 0, 1, 1]]),
    }
    model(batch).square().sum().backward()
    weight = model.hf.base_model.get_parameter("encoder.relative_attention_bias.weight")
    assert weight.grad is not None
    assert bool(weight.grad.abs().sum() > 0)
