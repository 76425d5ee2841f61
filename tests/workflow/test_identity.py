"""Fingerprints and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from quala.workflow.identity import (
    config_identity,
    differences,
    fingerprint,
    made_of,
    revisions,
)


@dataclass(frozen=True)
class Inner:
    weights: tuple[float, ...] = (1.0, 2.0)
    verbose: bool = field(default=False, metadata={"identity": False})


@dataclass(frozen=True)
class Outer:
    inner: Inner
    folder: Path = Path("a")
    workers: int = field(default=1, metadata={"identity": False})


def test_fields_outside_the_identity_are_left_out_at_every_depth() -> None:
    found = config_identity(Outer(Inner(verbose=True), workers=3))
    assert found == {"inner": {"weights": [1.0, 2.0]}, "folder": "a"}


@dataclass(frozen=True)
class Grown:
    rate: float
    outliers: int = field(default=0, metadata={"identity": "if set"})


def test_an_option_that_came_later_counts_only_where_it_is_set() -> None:
    assert config_identity(Grown(0.1)) == {"rate": 0.1}
    assert config_identity(Grown(0.1, outliers=4)) == {"rate": 0.1, "outliers": 4}


@dataclass(frozen=True)
class Revised:
    rate: float

    @property
    def revisions(self) -> dict[str, str]:
        return {"rate": "squared"} if self.rate else {}


@dataclass(frozen=True)
class Holder:
    part: Revised | None
    rate: float = 1.0


def test_what_is_computed_otherwise_now_counts_at_every_depth() -> None:
    assert revisions(Holder(None)) == revisions(Holder(Revised(0.0))) == {}
    assert revisions(Holder(Revised(0.1))) == {"rate": "squared"}


def test_differences_name_what_means_something_else() -> None:
    old = {"version": 1, "config": {"init": "kl"}, "inputs": {}, "origins": {}}
    assert differences(old, old | {"revised": {"kl": "new"}}) == ["`kl` means something else"]


def test_a_fingerprint_does_not_depend_on_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_differences_name_version_options_and_inputs() -> None:
    old = {
        "version": 1,
        "config": {"rate": 0.1, "map": {"a": 1}},
        "inputs": {"data": "x", "teacher": "t", "gone": "g"},
        "origins": {
            "data": {"from": "data", "detail": {"path": "a"}},
            "teacher": {"from": "finetune"},
            "gone": {"from": "old"},
        },
    }
    new = {
        "version": 2,
        "config": {"rate": 0.2, "map": {"a": 1}},
        "inputs": {"data": "y", "teacher": "u"},
        "origins": {
            "data": {"from": "data", "detail": {"path": "b"}},
            "teacher": {"from": "finetune"},
        },
    }
    assert differences(old, new) == [
        "stage version 1 -> 2",
        "rate 0.1 -> 0.2",
        "data.path a -> b",
        "input `gone` removed",
        "finetune changed",
    ]


def test_a_model_is_its_weights_and_its_card(tmp_path: Path) -> None:
    for name in ("model.safetensors", "quala.json", "README.md", "origin.json"):
        (tmp_path / name).write_text("1")
    before = made_of(tmp_path)
    for name in ("README.md", "origin.json"):
        (tmp_path / name).write_text("2")
    assert made_of(tmp_path) == before
    (tmp_path / "quala.json").write_text("2")
    assert made_of(tmp_path) != before


def test_a_search_is_its_result(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    for name in ("search.json", "history.png", "study/study.journal"):
        (tmp_path / name).write_text("1")
    before = made_of(tmp_path)
    for name in ("history.png", "study/study.journal"):
        (tmp_path / name).write_text("2")
    assert made_of(tmp_path) == before
    (tmp_path / "search.json").write_text("2")
    assert made_of(tmp_path) != before
