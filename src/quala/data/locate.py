"""Which files of a folder are which split."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from quala.data.records import SUFFIXES
from quala.errors import QualaError

_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "dev", "valid", "val"),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
}


def source_path(path: str, subset: str | None) -> Path:
    """Return the file or folder that `path` (with the sub-folder `subset`, if any) means.

    Raises QualaError, with the nearest name there is, when it does not exist.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise QualaError(f"`{place}` does not exist.{_nearest(place)}")
    if subset is not None and (place / subset).is_dir():
        return place / subset
    return place


def split_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split: `validation.parquet`, `dev-v1.1.json`, `data/train-00000.*`.

    Of several formats the first of parquet, jsonl, json, tsv, csv is taken; shards are sorted.
    An empty list means that the folder's names say nothing of the split.
    """
    files = data_files(folder)
    for alias in _ALIASES.get(split, (split,)):
        shard = re.compile(rf"{re.escape(alias)}([-_.].*)?", re.IGNORECASE)
        named = [file for file in files if shard.fullmatch(file.stem)]
        exact = [file for file in named if file.stem.lower() == alias.lower()]
        for suffix in SUFFIXES:
            found = [file for file in exact or named if file.suffix == suffix]
            if found:
                return found[:1] if exact else found
    return []


def names_splits(folder: Path) -> bool:
    """Say whether the names of the folder's files tell a usual split."""
    return any(split_files(folder, split) for split in _ALIASES)


def data_files(folder: Path) -> list[Path]:
    """Return the data files in a folder and its direct sub-folders, sorted."""
    files = (*folder.glob("*"), *folder.glob("*/*"))
    return sorted(file for file in files if file.suffix in SUFFIXES and file.is_file())


def missing_split(folder: Path, split: str) -> QualaError:
    """Return the error for a folder without the split, saying what it does hold."""
    found = ", ".join(str(file.relative_to(folder)) for file in data_files(folder)[:8])
    return QualaError(
        f"`{folder}` has no `{split}` split: expected {split}.parquet, .jsonl, .json, .tsv "
        f"or .csv, found {found or 'no data files'}."
    )


def _nearest(place: Path) -> str:
    parent = place.parent
    if not parent.is_dir():
        return f" Neither does the folder `{parent}`."
    near = difflib.get_close_matches(place.name, [item.name for item in parent.iterdir()], n=1)
    return f" Did you mean `{parent / near[0]}`?" if near else ""
