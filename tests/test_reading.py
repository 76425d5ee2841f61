"""Files of others: what has no end, blows up, or is no text is one sentence with the place."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from quala import reading
from quala.errors import QualaError
from quala.reading import expanded, load_json, read_bytes, read_text


def put(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_a_text_is_read_packed_or_not(tmp_path: Path) -> None:
    text = "é\r\nb\n"
    assert read_text(put(tmp_path, "a.txt", text.encode("utf-8-sig"))) == text
    assert read_text(put(tmp_path, "a.txt.gz", gzip.compress(text.encode(), mtime=0))) == text


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n", "is empty"),
        ("a.txt", b"a\nb\xff", "line 2 is not readable as UTF-8"),
        ("a.txt", b"a\n\nb\0c", "line 3 has a NUL character"),
        ("a.txt", b"a" * 101, "more than 100 bytes, which"),
        ("a.gz", b"plain", r"cannot be read: Not a gzipped file \(b'pl'\)\."),
        (
            "a.gz",
            gzip.compress(b"text" * 9, mtime=0)[:-9],
            "cannot be read: Compressed file ended",
        ),
        ("a.gz", gzip.compress(b"text" * 30, mtime=0), "more than 100 bytes when it is unpacked"),
    ],
)
def test_what_is_no_text_is_one_sentence(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(QualaError, match=sentence):
        read_text(put(tmp_path, name, content), most=100)


def test_an_unpacked_file_is_not_far_larger_than_the_packed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PACKED", 2)
    with pytest.raises(QualaError, match="67,108,864 bytes when it is unpacked"):
        read_bytes(
            put(tmp_path, "a.gz", gzip.compress(bytes(2**26 + 1), compresslevel=1, mtime=0))
        )


def test_what_has_no_end_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(QualaError, match="it is a pipe or a device, no file"):
            read_bytes(place)
    with pytest.raises(QualaError, match="it is a folder, no file"):
        read_bytes(tmp_path)


@pytest.mark.parametrize("name", ["nosuch", "n" * 300, "a/../b\0", "loop", "loop/a", "file/a"])
def test_a_path_that_leads_nowhere_is_one_sentence(name: str, tmp_path: Path) -> None:
    put(tmp_path, "file", b"a")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(QualaError, match="cannot be read: "):
        read_bytes(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"[": ["[",\n' + "[" * 99_999, "`f`, line 12 is nested deeper than 100"),
        ('["a",\n{"a":\n' + '{"a":' * 99_999, "`f`, line 13 is nested deeper"),
        ("[1,\n" + "9" * 5000 + "]", "`f`, line 12 has a number that is too long"),
    ],
)
def test_json_that_python_cannot_hold_is_named_by_its_line(text: str, sentence: str) -> None:
    with pytest.raises(QualaError, match=sentence):
        load_json(text, "f", 11)


def test_other_json_is_as_python_reads_it() -> None:
    assert load_json("[1, NaN]", "f")[0] == 1
    with pytest.raises(json.JSONDecodeError):
        load_json("[1, ", "f")


def test_a_home_that_is_not_there_is_left_as_it_is() -> None:
    assert expanded("~nosuchuser/a") == Path("~nosuchuser/a")
    assert expanded("~/a") == Path.home() / "a"


def test_a_pipe_that_a_shell_made_is_read_where_that_is_allowed() -> None:
    read, write = os.pipe()
    try:
        os.write(write, b"text")
        os.close(write)
        with pytest.raises(QualaError, match="it is a pipe or a device, no file"):
            read_text(Path(f"/dev/fd/{read}"))
        assert read_text(Path(f"/dev/fd/{read}"), piped=True) == "text"
    finally:
        os.close(read)


def test_a_pipe_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reading, "PIPED", 3)
    read, write = os.pipe()
    try:
        os.write(write, b"text")  # and stays open
        with pytest.raises(QualaError, match="has more than 3 bytes"):
            read_text(Path(f"/dev/fd/{read}"), piped=True)
    finally:
        os.close(write)
        os.close(read)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(QualaError, match="it is a pipe or a device, no file"):
        read_text(tmp_path / "pipe", piped=True)
