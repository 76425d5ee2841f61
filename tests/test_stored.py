"""JSON of others: within limits, and into types that are stated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from quala import stored
from quala.errors import QualaError
from quala.ranges import ranged
from quala.stored import read_json, read_object, read_stored, typed


@dataclass(frozen=True)
class _Inner:
    count: int = ranged(at_least=1, at_most=9)


@dataclass(frozen=True)
class _Facts:
    name: str
    kind: Literal["a", "b"] = "a"
    share: float | None = None
    sizes: tuple[int, ...] = ()
    pair: tuple[float, float] | None = None
    inner: _Inner | None = None
    times: Mapping[int, float] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({}, "the whole lacks `name`"),
    "null": ({"name": None}, "`name` must be text, got null"),
    "number": ({"name": 5}, "`name` must be text, got 5"),
    "literal": ({"name": "", "kind": "c"}, '`kind` must be one of a, b, got "c"'),
    "unhashable": ({"name": "", "kind": []}, "`kind` must be one of a, b, got a list"),
    "text": ({"name": "", "share": "0.5"}, '`share` must be a finite number, got "0.5"'),
    "true": ({"name": "", "share": True}, "`share` must be a finite number, got true"),
    "infinite": ({"name": "", "share": float("inf")}, "`share` must be a finite number below"),
    "huge": ({"name": "", "sizes": [10**99]}, r"`sizes[0]` must be a whole number below"),
    "fraction": ({"name": "", "sizes": [1, 2.0]}, "`sizes[1]` must be a whole number, got 2.0"),
    "no list": ({"name": "", "sizes": 5}, "`sizes` must be a list, got 5"),
    "short": ({"name": "", "pair": [1]}, "`pair` must be a list of 2, got a list"),
    "inner": ({"name": "", "inner": []}, "`inner` must be an object, got a list"),
    "range": ({"name": "", "inner": {"count": 10}}, "`inner.count` must be at least 1"),
    "key": ({"name": "", "times": {"x": 1}}, "`times` must be an object with whole numbers"),
    "value": ({"name": "", "times": {"1": None}}, "`times.1` must be a finite number, got null"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_named(case: str) -> None:
    value, said = WRONG[case]
    with pytest.raises(QualaError) as caught:
        typed(_Facts, value)
    assert said in str(caught.value)


def test_right_values_have_their_types() -> None:
    found = typed(
        _Facts,
        {"name": "x", "sizes": [2, 1], "pair": [1, 2.5], "inner": {"count": 3, "new": 1},
         "times": {"64": 1.5}, "others": {"a": [None]}, "of a newer version": 1},
    )  # fmt: skip
    assert found == _Facts(
        "x", sizes=(2, 1), pair=(1, 2.5), inner=_Inner(3), times={64: 1.5}, others={"a": [None]}
    )


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no valid JSON"),
    "cut": (b'{"a": [1', "no valid JSON"),
    "bytes": (b'{"a": "\xff"}', "not UTF-8 text: byte 7"),
    "nan": (b'{"a": NaN}', "NaN is no number that JSON has"),
    "infinite": (b'{"a": 1e999}', "too large"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", "no valid JSON"),
    "twice": (b'{"a": 1, "a": 2}', "the key `a` comes twice"),
    "deep": (b"[" * 100 + b"]" * 100, "nested more than 64 levels deep"),
    "deepest": (b"[" * 100_000, "nested more than 64 levels deep"),
    "list": (b"[]", "must be an object, got a list"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_sentence(tmp_path: Path, case: str) -> None:
    content, said = BAD[case]
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(QualaError, match=r"a\.json") as caught:
        read_object(tmp_path / "a.json")
    assert said in str(caught.value)


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_object(tmp_path / "a.json") == {"a": 1}


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(stored.LARGEST + 1)  # a hole, which takes no disk
    with pytest.raises(QualaError, match="has 33,554,433 bytes, more than"):
        read_json(tmp_path / "a.json")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent", "."):
        with pytest.raises(QualaError, match="There is no file"):
            read_json(tmp_path / name)


def test_damage_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"name": 5}')
    with pytest.raises(QualaError, match=r"a.json` is damaged: `name` must be text, got 5\.$"):
        read_stored(_Facts, tmp_path / "a.json")
