"""What the outputs of a checkpoint mean: the labels that it names, and the task of its head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedConfig

from quala.cost import architecture_of
from quala.errors import QualaError
from quala.models.load import read_config, stored_facts, unnamed


def stored_labels(source: str | Path) -> tuple[str, ...] | None:
    """Return the labels of a checkpoint's classes in the order of its outputs, if it names them.

    quala.json names them, or else the config.json of a classifier of texts or tokens, unless by
    `LABEL_0` and so on. Raises QualaError for names that are not texts or not different.
    """
    facts = stored_facts(source)
    names, outputs = facts.get("labels"), facts.get("num_labels")
    config = None if facts else read_config(source)
    if config and (is_tagger(config) or (is_classifier(config) and not is_regression(config))):
        named: Any = config.id2label
        outputs, names = len(named), [named.get(number) for number in range(len(named))]
    if names is None or names == unnamed(len(names)):
        return None
    texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not texts or len(set(names)) != outputs:
        raise QualaError(
            f"The labels of `{source}` must be another text for each output, got {names}."
        )
    return tuple(names)


def is_classifier(config: PreTrainedConfig) -> bool:
    """Tell if a model has a head for sentences, by its architecture or, if unknown, its labels."""
    known = any(hasattr(transformers, name) for name in config.architectures or [])
    names: Any = config.id2label
    named = not known and [*names.values()] != unnamed(len(names))
    return named or architecture_of(config.to_dict()).head == "sentence"


def is_tagger(config: PreTrainedConfig) -> bool:
    """Tell whether a model has a head for the classes of tokens, by its architecture."""
    return any(name.endswith("ForTokenClassification") for name in config.architectures or [])


def is_regression(config: PreTrainedConfig) -> bool:
    """Tell whether the head for sentences gives a value."""
    return config.problem_type == "regression" or config.num_labels == 1
