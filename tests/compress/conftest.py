"""Toy encoders and inputs for the compression tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import build, build_hf, make_batch
from transformers import BertConfig, BertForQuestionAnswering

__all__ = ["build", "build_hf", "make_batch"]

Inputs = dict[str, Tensor]


@pytest.fixture
def inputs() -> Inputs:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[1, 6:] = 0
    return {
        "input_ids": torch.randint(0, 50, (3, 9), generator=generator),
        "attention_mask": mask,
    }


@pytest.fixture
def bert() -> BertForQuestionAnswering:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    model = BertForQuestionAnswering(config)
    model.eval()
    return model
