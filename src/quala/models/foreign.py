"""Models of any family that transformers loads, to read answers from and nothing else."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from quala.data.features import Batch
from quala.data.task import Task
from quala.data.tokenize import gives_token_types
from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.models.labels import is_regression
from quala.models.load import check_files, location, quiet, resolve_source

LONGEST_NAMED = 10**6
"""Above it, a tokenizer's `model_max_length` means that it names none."""
HEADS = {
    "question-answering": "AutoModelForQuestionAnswering",
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}
"""The class of transformers that a teacher of a task is loaded as."""


class ForeignModel:
    """A Hugging Face model that answers a batch in its own ids as a quala model does."""

    def __init__(self, hf: PreTrainedModel, task: Task, tokenizer: PreTrainedTokenizerBase):
        self.hf, self.task = hf.eval().requires_grad_(False), task
        known = "token_type_ids" in inspect.signature(hf.forward).parameters
        several = int(getattr(hf.config, "type_vocab_size", 0) or 0) > 1
        self.typed = known and several and gives_token_types(tokenizer)

    def eval(self) -> ForeignModel:
        """Return itself: it is in evaluation mode."""
        return self

    @torch.no_grad()
    def __call__(self, batch: Batch, lengths: LengthConfig | None = None) -> Tensor:
        """Return logits (B, n, outputs) or (B, outputs); no tokens are dropped."""
        types = {"token_type_ids": batch["segment_ids"]} if self.typed else {}
        out: Any = self.hf(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **types
        )
        if self.task.per_token and hasattr(out, "start_logits"):
            return torch.stack([out.start_logits, out.end_logits], dim=-1)
        logits: Tensor = out.logits
        return logits


def foreign_kind(source: str | Path) -> str | None:
    """Return the task that config.json names by the model's class; None if it names none."""
    config = foreign_config(source)
    for name in config.architectures or []:
        if name.endswith("ForQuestionAnswering") or name.endswith("ForQuestionAnsweringSimple"):
            return "question-answering"
        if name.endswith("ForTokenClassification"):
            return "token-classification"
        if name.endswith("ForSequenceClassification"):
            return "regression" if is_regression(config) else "classification"
    return None


def foreign_config(source: str | Path) -> PreTrainedConfig:
    """Read the config.json of any family. Raises QualaError when that is not possible."""
    place = resolve_source(source)
    if isinstance(place, Path):
        check_files(place)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(**location(place))
    except Exception as error:  # transformers raises errors of many kinds
        raise QualaError(f"Could not read a teacher from `{place}`: {_reason(error)}") from error
    return config


def load_foreign(
    source: str | Path, task: Task, tokenizer: PreTrainedTokenizerBase
) -> ForeignModel:
    """Load a teacher of any family from safetensors; no code of its own is run.

    Raises QualaError where weights or head are missing, and for a task that no teacher has.
    """
    if task.kind not in HEADS:
        raise QualaError(
            f"A teacher of another tokenizer has one of the tasks {', '.join(HEADS)}, got "
            f"{task.kind}."
        )
    place, config = resolve_source(source), foreign_config(source)
    auto: Any = getattr(transformers, HEADS[task.kind])
    try:
        with quiet():
            hf, report = auto.from_pretrained(
                **location(place),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and PyTorch raise errors of many kinds
        raise QualaError(
            f"Could not read a teacher for {task.kind} from `{place}`: {_reason(error)}"
        ) from error
    if report["missing_keys"]:
        lost = sorted(report["missing_keys"])
        raise QualaError(
            f"The teacher `{place}` was not trained for {task.kind}: {', '.join(lost[:3])} would "
            "be random."
        )
    if any(not bool(one.isfinite().all()) for one in hf.state_dict().values()):
        raise QualaError(f"The weights of the teacher `{place}` are not all finite.")
    return ForeignModel(hf, task, tokenizer)


def foreign_labels(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the labels of a classifier in the order of its outputs; none if it names none."""
    named: Any = config.id2label or {}
    names = tuple(str(named.get(number, "")) for number in range(len(named)))
    return () if names == tuple(f"LABEL_{one}" for one in range(len(names))) else names


def most_tokens(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return how many tokens a model reads at most; None where neither part names a limit."""
    base: Any = hf.base_model
    positions = getattr(hf.config, "max_position_embeddings", None)
    # RoBERTa and its like count positions from the one after the padding id.
    first = getattr(getattr(base, "embeddings", None), "padding_idx", None)
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < LONGEST_NAMED else []
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - (0 if first is None else int(first) + 1))
    return min(limits, default=None)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
