"""A published architecture with random weights: good for timing, and for nothing else."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering
from transformers import AutoModelForSequenceClassification as AutoModelForClassification

from quala.cost import Architecture, preset
from quala.data.task import Task
from quala.models.adaptive import LengthAdaptiveModel


def random_model(name: str, task: Task) -> LengthAdaptiveModel:
    """Return the preset `name` with random weights; time does not depend on them."""
    arch = preset(name)
    auto = (
        AutoModelForQuestionAnswering
        if task.kind == "question-answering"
        else AutoModelForClassification
    )
    config = AutoConfig.for_model(arch.family, num_labels=task.num_labels, **_sizes(arch))
    with torch.random.fork_rng(devices=[]):
        hf = auto.from_config(config)
    return LengthAdaptiveModel(hf.eval(), task_kind=task.kind)


def _sizes(arch: Architecture) -> dict[str, int]:
    if arch.family == "distilbert":
        return {
            "dim": arch.hidden,
            "hidden_dim": arch.intermediate,
            "n_layers": arch.layers,
            "n_heads": arch.heads,
            "vocab_size": arch.vocabulary,
            "max_position_embeddings": arch.positions,
        }
    return {
        "hidden_size": arch.hidden,
        "intermediate_size": arch.intermediate,
        "num_hidden_layers": arch.layers,
        "num_attention_heads": arch.heads,
        "vocab_size": arch.vocabulary,
        "max_position_embeddings": arch.positions,
        "type_vocab_size": arch.type_vocabulary,
    }
