"""Files that are whole or not there, and a sentence for each disk that fails."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from quala.durable import (
    disk_trouble,
    is_whole_zip,
    located,
    read_whole,
    replacing,
    settle,
    write_whole,
)


@pytest.fixture(params=[0o002, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def bits(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_forced_to_the_disk_before_and_after_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("os.fsync", lambda _: seen.append(sorted(os.listdir(tmp_path))))
    write_whole(tmp_path / "a.json", "1")
    assert seen == [["a.json.partial"], ["a.json"]]


def test_a_failed_write_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", "1")

    def fail() -> None:
        with replacing(tmp_path / "a.json") as partial:
            partial.write_text("2")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"a\.json") as caught:
        fail()
    assert os.listdir(tmp_path) == ["a.json"]
    assert read_whole(tmp_path / "a.json") == 1
    assert disk_trouble(caught.value) == f"The disk is full: {tmp_path / 'a.json'}."


@pytest.mark.parametrize("torn", [b"", b'{"n":', bytes(9), b"\xf0\xff\x00{"])
def test_a_torn_state_file_is_replaced_by_the_one_before(
    tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a.json"
    assert read_whole(file) is None
    for number in range(3):
        write_whole(file, f'{{"n": {number}}}')
    file.write_bytes(torn)
    assert read_whole(file) == {"n": 1}
    assert "is torn" in caplog.text
    (tmp_path / "a.json.before").write_bytes(torn)
    assert read_whole(file) is None


def test_a_file_of_pytorch_is_checked_to_the_last_byte(tmp_path: Path) -> None:
    import torch

    file = tmp_path / "a.ckpt"
    torch.save({"w": torch.arange(5000.0), "step": 3}, file)
    raw = file.read_bytes()
    assert is_whole_zip(file)
    for at in range(0, len(raw) - 600, 1500):
        file.write_bytes(raw[:at])
        assert not is_whole_zip(file)
    for at in range(2000, 20_000, 3000):
        file.write_bytes(raw[:at] + bytes(512) + raw[at + 512 :])
        assert not is_whole_zip(file)


def test_files_of_a_shared_folder_have_the_bits_of_the_umask(tmp_path: Path, umask: int) -> None:
    import torch
    from safetensors.torch import save_file

    file = tmp_path / "folder" / "a.safetensors"
    file.parent.mkdir()
    with replacing(file) as partial:
        save_file({"w": torch.zeros(2)}, partial)
    assert bits(file) == 0o666 & ~umask
    file.chmod(0o600)
    program = file.with_name("run.sh")
    program.touch(0o700)
    settle(tmp_path)
    assert bits(file) == 0o666 & ~umask
    assert bits(program) & 0o700 == 0o700


class Library(Exception):
    pass


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("I/O error: No space left on device (os error 28)", "The disk is full: {full} (work)."),
        ("(sqlite3.OperationalError) database or disk is full", "The disk is full: {db} (the da"),
        ("attempt to write a readonly database", "The disk is read-only: {db} (the database)."),
        ("[enforce fail at inline_container.cc:672] . unexpected", "The disk is full: {full} (wo"),
        ("something else", None),
    ],
)
def test_a_library_may_word_it_as_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str | None
) -> None:
    full, db = tmp_path / "full", tmp_path / "db" / "mlflow.db"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        "shutil.disk_usage", lambda place: usage._replace(free=5 if place == full else 2**30)
    )
    full.mkdir()
    try:
        raise Library("a wrapper") from Library(words)
    except Library as error:
        found = disk_trouble(error, {"the database": db, "work": full})
    assert found == said if said is None else str(found).startswith(said.format(full=full, db=db))


def test_the_file_that_is_written_is_named_not_the_one_that_is_read(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "from", None, "to")
    assert disk_trouble(full) == "The disk is full: to."
    several = shutil.Error([("from", "to", "[Errno 28] No space left on device: 'from' -> 'to'")])
    assert disk_trouble(several) == "The disk is full: to."


@pytest.mark.parametrize("words", ["I/O error: No space left on device", None])
def test_the_disk_that_was_full_is_named_though_it_has_room_again(
    words: str | None, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    failed = Exception(words) if words else OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space") as caught, replacing(tmp_path / "full"):
        raise failed
    sentence = disk_trouble(caught.value, {"the fullest": other})
    assert sentence == f"The disk is full: {tmp_path / 'full'}."


def test_an_error_of_another_kind_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(KeyError), replacing(tmp_path / "file"):
        raise KeyError("a")
    with pytest.raises(FileNotFoundError, match="elsewhere"), located(tmp_path):
        (tmp_path / "elsewhere").read_text()
