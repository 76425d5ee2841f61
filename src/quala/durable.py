"""Files that a power cut leaves whole, and what is said when a disk is full or protected."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SENTENCES = {
    errno.ENOSPC: "The disk is full",
    errno.EDQUOT: "The disk quota is used up",
    errno.EFBIG: "A file is too large for this disk or for the limit of the shell",
    errno.EACCES: "No permission",
    errno.EPERM: "No permission",
    errno.EROFS: "The disk is read-only",
    errno.ENAMETOOLONG: "The name is too long",
    errno.ENOTDIR: "No folder",
    errno.EISDIR: "A folder is no file",
    errno.ENOTEMPTY: "The folder is not empty",
    errno.ELOOP: "The links lead in a circle",
    errno.EMFILE: "Too many files are open",
    errno.ENFILE: "Too many files are open",
    errno.EIO: "The disk has failed",
    errno.ESTALE: "The network disk is gone",
}
SIGNS = {
    "No space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "Read-only file system": errno.EROFS,
    "readonly database": errno.EROFS,
    "unable to open database file": errno.EACCES,
    "No usable temporary directory": errno.ENOSPC,
}
"""How libraries word such an error, where it is not an OSError."""
WRITER = "inline_container.cc"
"""In the words of PyTorch's writer of files, which does not say why it failed."""
NEARLY_FULL = 2**20
"""Free bytes below which a failed writer of PyTorch is laid on the disk; a guess."""


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give a name to write to; after the block its content is on disk in the place of `file`.

    A kill or a power cut leaves the old file or the new one, a failed block leaves nothing new.
    """
    partial = file.with_name(f"{file.name}.partial")
    try:
        with located(file):
            yield partial
            _settle(partial)
            partial.replace(file)
            _sync(file.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def located(place: Path) -> Iterator[None]:
    """Raise OSError with `place` for an error of the disk that names no file, as failed writes.

    It must be found out here: once what was begun is removed, the disk has room again.
    """
    try:
        yield
    except Exception as error:
        for one in chain(error):
            if (number := _number_of(one, {"": place})) is not None:
                if _file_of(one) is None and "database" not in str(one):
                    raise OSError(number, os.strerror(number), str(place)) from error
                break
        raise


def settle(folder: Path) -> None:
    """Force all files of a folder to the disk and give them the bits of the umask.

    Some libraries write by temporary files, which only their owner may read.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _settle(path)
        elif path.is_dir():
            _sync(path)
    _sync(folder)


def write_whole(file: Path, text: str) -> None:
    """Write a small state file, and keep the one before for `read_whole`."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")
        if file.exists():
            file.replace(_before(file))


def read_whole(file: Path) -> Any:
    """Return the JSON of a state file, or of the one before if it is torn; None without one."""
    for path in (file, _before(file)):
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except ValueError:
            log.warning("`%s` is torn, as after a power cut: it is not used.", path)
    return None


def is_whole_zip(file: Path) -> bool:
    """Tell whether a file of PyTorch is as it was written; PyTorch itself does not look."""
    import zipfile  # not for every command

    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, OverflowError, EOFError, ValueError):
        return False


def disk_trouble(error: BaseException, places: Mapping[str, Path] | None = None) -> str | None:
    """Return the sentence for an error that a full or protected disk is behind, else None.

    Errors that it came from count. `places` are files and folders by what they are for: where the
    error names no file, one of them or of those that every command uses is named.
    """
    own = dict(places or {})
    known = {**own, **_usual()}
    for one in chain(error):
        number = _number_of(one, known)
        if number is None:
            continue
        if file := _file_of(one):
            purpose = next((name for name, at in own.items() if file.is_relative_to(at)), None)
        elif "database" in str(one) and (found := [name for name in own if "database" in name]):
            purpose, file = found[0], own[found[0]]
        elif number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return f"{SENTENCES[number]}."
        else:
            purpose, file = min(known.items(), key=lambda item: _free(item[1]))
        return f"{SENTENCES[number]}: {file}{f' ({purpose})' if purpose else ''}."
    return None


def _number_of(error: BaseException, places: Mapping[str, Path]) -> int | None:
    if isinstance(error, OSError) and error.errno in SENTENCES:
        return error.errno
    text = str(error)
    if WRITER in text and min(map(_free, places.values())) < NEARLY_FULL:
        return errno.ENOSPC
    return next((number for sign, number in SIGNS.items() if sign in text), None)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it came from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _usual() -> dict[str, Path]:
    cache = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache")
    return {
        "temporary files, see `TMPDIR`": Path(os.environ.get("TMPDIR") or "/tmp"),
        "the cache of Hugging Face, see `HF_HOME`": Path(cache),
        "this folder": Path.cwd(),
    }


def _file_of(error: BaseException) -> Path | None:
    """Return the file that could not be written."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        return Path(error.args[0][0][1])  # of the first of several copies: from, to, why
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None


def _free(place: Path) -> int:
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def _before(file: Path) -> Path:
    return file.with_name(f"{file.name}.before")


def _settle(path: Path) -> None:
    os.umask(umask := os.umask(0))
    mode = path.stat().st_mode
    if mode | (wanted := 0o666 & ~umask) != mode:
        path.chmod(mode | wanted)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # folders on some file systems
            raise
    finally:
        os.close(descriptor)
