"""How a sentence encoder pools its tokens: what its folder says of it.

sentence-transformers writes the steps after the encoder into modules.json, and the pooling into
the config.json of its step. Prompts, such as E5's "query: ", are left to the texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quala.data.task_embed import Embedding
from quala.errors import QualaError
from quala.models.load import found_file, stored_facts
from quala.reading import load_json, read_text
from quala.stored import read_object

MODULES, LIMITS = "modules.json", "sentence_bert_config.json"
MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


def is_sentence_encoder(source: str | Path) -> bool:
    """Tell whether sentence-transformers wrote a checkpoint, or on the hub one with its files."""
    return found_file(source, MODULES) is not None


def pooled_as(source: str | Path, task: Embedding) -> Embedding:
    """Return the task with the pooling that a checkpoint was made with, unless it has its own.

    quala.json says it, or sentence-transformers' files; without either it is the mean,
    normalized. Raises QualaError for steps that quala does not have.
    """
    facts = stored_facts(source)
    if "pooling" not in facts and (file := found_file(source, MODULES)):
        facts = _facts(source, file)
    pooling, normalize = facts.get("pooling", "mean"), facts.get("normalize", True)
    return replace(task, pooling=task.pooling or pooling, normalize=bool(normalize))


def tokens_read(source: str | Path) -> int | None:
    """Return the tokens that sentence-transformers cuts a text to, where its files say so."""
    file = found_file(source, LIMITS)
    found = None if file is None else read_object(file).get("max_seq_length")
    return found if isinstance(found, int) and found > 0 else None


def _facts(source: str | Path, file: Path) -> dict[str, Any]:
    """Return the pooling, and whether embeddings are normalized, by sentence-transformers."""
    try:
        steps = load_json(read_text(file), file)
        # The names alone: a file decides nothing about other folders.
        kinds = {step["type"].rpartition(".")[2]: Path(step["path"]).name for step in steps}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise QualaError(f"`{file}` is damaged: {error}") from error
    foreign = kinds.keys() - {"Transformer", "Pooling", "Normalize"}
    if foreign:
        raise QualaError(
            f"`{source}` has the step `{min(foreign)}` after its encoder, which quala does not "
            "have: only encoders that are pooled, and normalized, can be compressed."
        )
    config = found_file(source, f"{kinds.get('Pooling', '')}/config.json".lstrip("/"))
    return {
        "pooling": _mode(read_object(config), config) if config and "Pooling" in kinds else "mean",
        "normalize": "Normalize" in kinds,
    }


def _mode(config: Mapping[str, Any], file: Path) -> str:
    """Return `mean` or `cls`; older files have a key for each mode, newer ones `pooling_mode`."""
    found = config.get("pooling_mode")
    if found is None:
        modes = [key for key, value in config.items() if key.startswith("pooling_") and value]
        found = MODES.get(modes[0], modes[0]) if len(modes) == 1 else ", ".join(modes)
    if found not in MODES.values():
        raise QualaError(f"The pooling in `{file}` must be mean or cls, got {found or 'none'}.")
    return str(found)
