"""Where data lie: the file or folder at a path, and the files of a split."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from quala.data.files import SUFFIXES, name_of
from quala.data.spec import plain_name
from quala.errors import QualaError, unknown
from quala.reading import expanded

_ALIASES = (("train", "training"), ("validation", "dev", "valid", "val"))
_METADATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
_SHARD = re.compile(r"(.+?)[-_.](\d{5,})-of-(\d{5,})(?:-[0-9a-f]+)?|(.+?)[-_.](\d{5})")


def source_path(path: str, subset: str | None, known: Collection[str] | None) -> Path:
    """Return the file or folder at `path` or, with a subset, its sub-folder of that name.

    A file, or a folder with data files of its own, is returned where the subset is `known` (None:
    any is) and no name in the path contradicts it. Raises QualaError in all other cases, and for
    a path that does not exist, with the nearest names.
    """
    place = expanded(path)
    if not place.exists():
        if place.is_symlink():
            raise QualaError(f"`{place}` is a link that leads nowhere.")
        raise QualaError(f"`{place}` does not exist.{_nearest(place)}")
    if not place.is_file() and not place.is_dir():
        raise QualaError(f"`{place}` is a pipe or a device, neither a file nor a folder.")
    if not subset:
        return place
    folders = _folders(place)
    same = [folder for folder in folders if plain_name(folder.name) == plain_name(subset)]
    if len(same) > 1:
        both = " and ".join(f"`{folder.name}`" for folder in same)
        raise QualaError(f"`{place}` has {both} for the subset `{subset}`: name one as `path`.")
    if same:
        return same[0]
    flat = place.is_file() or bool(data_files(_own_folder(place)))
    names = [folder.name for folder in folders]
    if not flat or (known is not None and subset not in known):
        meant = [*names, *(known or ())] if flat else names
        raise unknown(f"`subset` of `{place}`", subset, meant)
    at = place.absolute()
    for name in [name_of(at)[0], at.parent.name, *names] if at.is_file() else [at.name, *names]:
        if plain_name(name) in (known or ()) and plain_name(name) != subset:
            raise QualaError(
                f"`{place}` is of the subset `{plain_name(name)}` by its name or its folders, "
                f"but `subset`, which chooses the metric, is `{subset}`."
            )
    return place


def split_files(
    folder: Path, split: str, *, option: str = "test_split", more: Sequence[str] = ()
) -> list[Path]:
    """Return the files of a split: `dev-v1.1.json`, `train-00000-of-00002.parquet` and the next.

    They lie in the folder itself or, where it has no data files, in its sub-folder `data`. A file
    may also be named in full. Shards are sorted. `more` are suffixes of this format's own. Raises
    QualaError, with what is there and the `option` that names the split, when no file, several
    files, or not all shards are there.
    """
    own = _own_folder(folder, more)
    if name_of(own / split)[1] in (*SUFFIXES, *more) and (own / split).is_file():
        return [own / split]
    groups: dict[tuple[str, str, bool], list[tuple[int, int, Path]]] = {}
    for file in data_files(own, more):
        stem, _ = name_of(file)
        shard = _SHARD.fullmatch(stem)
        name, number, total = stem, 0, 0
        if shard:
            name = shard[1] or shard[4]
            number, total = int(shard[2] or shard[5]), int(shard[3] or 0)
        ending = "".join(file.suffixes[-2:] if file.suffix == ".gz" else file.suffixes[-1:])
        groups.setdefault((name, ending, bool(shard)), []).append((number, total, file))
    aliases = _aliases(split.lower())
    for fits in (
        lambda name: name == split.lower(),
        lambda name: name in aliases,
        lambda name: any(re.match(rf"{re.escape(alias)}[-_.]", name) for alias in aliases),
    ):
        found = [key for key in groups if fits(key[0].lower())]
        if len(found) > 1:
            names = [key[0] if key[2] else groups[key][0][2].name for key in found]
            raise QualaError(
                f"`{own}` has several candidates for the split `{split}`: {', '.join(names)}; "
                f"choose one by its name, for example `{option}={names[0]}`."
            )
        if found:
            return _all_shards(groups[found[0]], folder=own, sharded=found[0][2])
    raise _missing_split(folder, split)


def _all_shards(
    shards: Sequence[tuple[int, int, Path]], *, folder: Path, sharded: bool
) -> list[Path]:
    """Return the files in order; raise QualaError unless each shard is there, once."""
    numbers = sorted(number for number, _, _ in shards)
    totals = {total for _, total, _ in shards}
    first = min(numbers[0], 1)
    count = max(totals) or len(shards)
    if sharded and (len(totals) > 1 or numbers != list(range(first, first + count))):
        names = ", ".join(file.name for _, _, file in sorted(shards)[:8])
        raise QualaError(f"`{folder}` must have every shard of a split once, it has {names}.")
    return [file for _, _, file in sorted(shards)]


def _aliases(split: str) -> tuple[str, ...]:
    head = re.split("[-_.]", split)[0]
    names = next((group for group in _ALIASES if head in group), (head,))
    return tuple(name + split[len(head) :] for name in names)


def _visible(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if not item.name.startswith("."))


def _folders(place: Path) -> list[Path]:
    return [item for item in _visible(place) if item.is_dir()] if place.is_dir() else []


def _own_folder(folder: Path, more: Sequence[str] = ()) -> Path:
    """Return the folder or, where only its sub-folder `data` has data files, that one."""
    if data_files(folder, more):
        return folder
    filled = [item for item in _folders(folder) if data_files(item, more)]
    return filled[0] if [item.name for item in filled] == ["data"] else folder


def data_files(folder: Path, more: Sequence[str] = ()) -> list[Path]:
    """Return the data files of a folder, sorted, without hidden ones and those of sub-folders."""
    known = (*SUFFIXES, *more)
    files = [file for file in _visible(folder) if name_of(file)[1] in known and file.is_file()]
    return [file for file in files if file.name not in _METADATA]


def _missing_split(folder: Path, split: str) -> QualaError:
    own = data_files(_own_folder(folder))
    nested = [file for item in _folders(folder) for file in data_files(item)]
    found = ", ".join(str(file.relative_to(folder)) for file in (own or nested)[:8])
    hint = f"found {found or 'no data files'}"
    if own:
        hint += "; `data.train_split` and `data.test_split` take the name of a file"
    elif nested:
        hint += "; sub-folders are not searched, `path` or `subset` names one"
    return QualaError(
        f"`{folder}` has no `{split}` split: expected {split}.parquet, .jsonl, .json, .tsv "
        f"or .csv, {hint}."
    )


def _nearest(place: Path) -> str:
    parent = place.parent
    if not parent.is_dir():
        return f" Neither does the folder `{parent}`."
    near = difflib.get_close_matches(place.name, [item.name for item in parent.iterdir()], n=1)
    return f" Did you mean `{parent / near[0]}`?" if near else ""
