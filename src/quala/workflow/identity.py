"""Fingerprints: what makes two runs of a stage the same, and in what two of them differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from quala.manifest import MANIFEST, checksums, digest
from quala.ranges import counts


def config_identity(config: Any) -> Any:
    """Return the JSON form of a config, without the fields marked `identity: False`.

    A field marked `identity: "if set"` counts where it is not at its default, so that what was
    computed before the option existed is not computed again.
    """
    if dataclasses.is_dataclass(config):
        return {
            field.name: config_identity(getattr(config, field.name))
            for field in dataclasses.fields(config)
            if counts(field, getattr(config, field.name))
        }
    if isinstance(config, Mapping):
        return {str(key): config_identity(value) for key, value in config.items()}
    if isinstance(config, Enum):
        return config.name
    if isinstance(config, PurePath):
        return str(config)
    if isinstance(config, Sequence) and not isinstance(config, str):
        return [config_identity(value) for value in config]
    return config


def code_identity(config: Any) -> dict[str, str]:
    """Return the SHA-256 of the code that options name and that is not quala's own.

    Options say by `plugins` in their metadata where their names are found. Only the file that
    defines a name counts, not what it imports.
    """
    found = {}
    for field in dataclasses.fields(config):
        if (registry := field.metadata.get("plugins")) is not None:
            value = getattr(config, field.name) or ()
            for name in (value,) if isinstance(value, str) else value:
                if code := registry.source(name):
                    found[f"{field.name} {name}"] = code
    return found


def revisions(config: Any) -> dict[str, str]:
    """Return the `revisions` of a config and its parts: what they once computed otherwise."""
    found = dict(getattr(config, "revisions", {}))
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(part := getattr(config, field.name)):
            found |= revisions(part)
    return found


def fingerprint(identity: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `identity`."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say in which version, options and inputs two recorded identities differ."""
    found = []
    if old["version"] != new["version"]:
        found.append(f"stage version {old['version']} -> {new['version']}")
    found += changes(old["config"], new["config"])
    before, after = old.get("code", {}), new.get("code", {})
    found += [f"code of {one} changed" for one in after if before.get(one) != after[one]]
    before, after = old.get("revised", {}), new.get("revised", {})
    found += [f"`{one}` means something else" for one in after if before.get(one) != after[one]]
    for name in sorted({*old["inputs"], *new["inputs"]}):
        if old["inputs"].get(name) != new["inputs"].get(name):
            found.append(_input_change(name, old, new))
    return found


def _input_change(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = old["origins"].get(name), new["origins"].get(name)
    if before is None or after is None:
        return f"input `{name}` {'added' if before is None else 'removed'}"
    if before.get("from") != after.get("from"):
        return f"input `{name}` from {before.get('from')} -> {after.get('from')}"
    details = changes(before.get("detail", {}), after.get("detail", {}), prefix=after["from"])
    return "; ".join(details) or f"{after['from']} changed"


def changes(old: Any, new: Any, prefix: str = "") -> list[str]:
    before, after = dict(leaves(old, prefix)), dict(leaves(new, prefix))
    return [
        f"{key} {before.get(key, 'unset')} -> {after.get(key, 'unset')}"
        for key in sorted({*before, *after})
        if before.get(key, ...) != after.get(key, ...)
    ]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the scalars and lists of nested mappings with their dotted paths."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def content_hash(folder: Path) -> str:
    """Return one hash of all the files of a folder, by name and content."""
    return fingerprint({name: entry["sha256"] for name, entry in checksums(folder).items()})


ORIGIN = "origin.json"
"""In an output: what tells apart the data and the models that it is of, by input."""


def made_of(folder: Path) -> str:
    """Return one hash of a model's weights and card; of other outputs, of the files on top.

    Drawings, and what lies in folders such as a search's study, differ from time to time.
    """
    top = [path for path in sorted(folder.iterdir()) if path.is_file()]
    model = [path for path in top if path.suffix == ".safetensors" or path.name == "quala.json"]
    weights = any(path.suffix == ".safetensors" for path in model)
    other = [one for one in top if one.name not in (MANIFEST, ORIGIN) and one.suffix != ".png"]
    return fingerprint({path.name: digest(path) for path in (model if weights else other)})
