"""Toy models of every family, and batches for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from quala.data.task import Classes, Span, Task, Value
from quala.data.task_embed import Embedding
from quala.data.task_tags import Tags
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel
from quala.models.selection import Drop, restore
from quala.plugins import FAMILIES as KNOWN

FAMILIES = (
    "bert", "roberta", "xlm-roberta", "electra", "distilbert", "mpnet", "modernbert", "deberta-v2",
    "albert",
)  # fmt: skip
RESIZED = tuple(name for name in FAMILIES if name != "albert")
"""Those whose layers may have sizes of their own."""
TASKS: dict[str, Task] = {
    task.kind: task for task in (Span(), Classes(3), Value(), Tags(4), Embedding())
}
PAD = {"roberta": 1, "xlm-roberta": 1, "data2vec-text": 1, "camembert": 1, "mpnet": 1}
VOCABULARY = 50


def removable(family: str, heads: Any) -> Any:
    """Return the heads to keep; None, which keeps all, where the family can remove none."""
    return None if KNOWN.find(family).fixed_heads else heads


def config_of(family: str, **extra: Any) -> Any:
    """Return the config of a toy model of a family."""
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "type_vocab_size": 1 if PAD.get(family) else 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if family == "distilbert":
        sizes = {"dim": 16, "hidden_dim": 32, "n_layers": 3, "n_heads": 4}
        sizes |= {"dropout": 0.0, "attention_dropout": 0.0, "qa_dropout": 0.0}
        sizes |= {"seq_classif_dropout": 0.0}
    if family == "modernbert":  # the second and third layer see four tokens to each side
        sizes = {name: sizes[name] for name in list(sizes)[:4]} | {"local_attention": 8}
        sizes |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    if family in ("electra", "albert"):
        sizes["embedding_size"] = 8
    if family == "albert":
        sizes["classifier_dropout_prob"] = 0.0
    if family == "deberta-v2":  # as v3; the buckets are logarithmic beyond a distance of 4
        sizes |= {"type_vocab_size": 0, "position_biased_input": False}
        sizes |= {"relative_attention": True, "position_buckets": 8, "share_att_key": True}
        sizes |= {"pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
    sizes |= {"vocab_size": VOCABULARY, "pad_token_id": PAD.get(family, 0)}
    sizes["initializer_range"] = 0.4  # far from uniform attention, so that scores do not tie
    return AutoConfig.for_model(family, **{"max_position_embeddings": 34} | sizes | extra)


BuildHf = Callable[..., PreTrainedModel]
Build = Callable[..., LengthAdaptiveModel]
MakeBatch = Callable[..., dict[str, Tensor]]


@pytest.fixture
def build_hf() -> BuildHf:
    """Return a maker of toy Hugging Face models in float64, in evaluation mode."""

    def make(family: str = "bert", kind: str = "question-answering", **extra: Any) -> Any:
        auto: Any = getattr(transformers, TASKS[kind].auto_class)
        labels = TASKS[kind].num_labels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            hf = auto.from_config(config_of(family, num_labels=labels, **extra))
        return hf.double().eval()

    return make


@pytest.fixture
def build(build_hf: BuildHf) -> Build:
    """Return a maker of toy length-adaptive models."""

    def make(
        family: str = "bert", kind: Any = "question-answering", **options: Any
    ) -> LengthAdaptiveModel:
        names = ("significance", "semantics")
        own = {name: options.pop(name) for name in names if name in options}
        return LengthAdaptiveModel(build_hf(family, kind, **options), task=TASKS[kind], **own)

    return make


@pytest.fixture
def make_batch() -> MakeBatch:
    """Return a maker of batches: `tokens[b]` real tokens, the first four of them the question."""

    def make(
        tokens: Sequence[int], *, pad_to: int | None = None, family: str = "bert", seed: int = 0
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        width = pad_to or max(tokens)
        real = torch.arange(width) < torch.tensor(tokens).unsqueeze(1)  # (B, n)
        shape = (len(tokens), width)
        ids = torch.randint(5, VOCABULARY, shape, generator=generator)
        context = (torch.arange(width) >= 4) & real
        return {
            "input_ids": ids.masked_fill(~real, PAD.get(family, 0)),
            "attention_mask": real.long(),
            "segment_ids": context.long(),
        }

    return make


def restored_hidden(
    model: LengthAdaptiveModel, batch: dict[str, Tensor], lengths: LengthConfig
) -> Tensor:
    """Return hidden states (B, n, H), those of a dropped token from its last complete layer."""
    state, drops = model.begin(batch), []
    for layer, keep in enumerate(model.keep_counts(batch, lengths)):
        attended = model.attend(state, layer, keep is not None)
        state = model.narrow(attended, layer, keep)
        if len(state.drops) > len(drops):
            drops.append(replace(state.drops[-1], values=attended.inputs))
    return restore(state.hidden, drops)


def survivors(drops: Sequence[Drop]) -> Tensor:
    """Return the input positions (B, m) of the tokens left after `drops`, -1 in fillers."""
    positions = drops[0].index
    for drop in drops[1:]:
        positions = positions.gather(1, drop.index)
    last = drops[-1].valid
    return positions if last is None else positions.masked_fill(~last, -1)
