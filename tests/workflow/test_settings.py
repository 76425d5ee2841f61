"""Schemas for Hydra and back to typed objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ValidationError

from quala.errors import QualaError
from quala.workflow.settings import build, schema


@dataclass(frozen=True)
class Inner:
    kind: Literal["a", "b"]
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if not self.sizes:
            raise QualaError("`sizes` and `kind=a` go together, got no size.")
        if len(self.sizes) > 3:
            raise QualaError("There are too many.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    rate: float
    name: str | None = None
    folder: Path | None = None
    layers: list[int] | None = None
    words: dict[str, str] = field(default_factory=dict)
    inner: Inner = field(default_factory=lambda: Inner("a"))
    needed: int = MISSING


def test_a_frozen_class_gives_a_config_that_can_be_set() -> None:
    config = OmegaConf.structured(schema(Outer))
    config.inner.sizes = [3]
    config.rate = 1
    assert config.rate == 1.0


def test_what_has_no_default_is_missing() -> None:
    config = OmegaConf.structured(schema(Outer))
    assert OmegaConf.missing_keys(config) == {"rate", "needed", "inner.kind"}


def test_wrong_types_are_refused() -> None:
    config = OmegaConf.structured(schema(Outer))
    with pytest.raises(ValidationError):
        config.layers = ["x"]


def test_plain_values_become_the_typed_object() -> None:
    config = OmegaConf.structured(schema(Outer))
    values = {"rate": 0.5, "needed": 3, "layers": [1], "folder": "f"}
    config = OmegaConf.merge(config, values, {"inner": {"kind": "b", "sizes": [4, 5]}})
    found = build(Outer, OmegaConf.to_container(config))
    assert found == Outer(
        rate=0.5, needed=3, layers=[1], folder=Path("f"), inner=Inner("b", (4, 5))
    )


def test_a_key_that_was_added_is_refused() -> None:
    with pytest.raises(QualaError, match="Did you mean `sizes`"):
        build(Inner, {"kind": "a", "sizes": [1], "size": 3})


def test_a_literal_has_a_nearest_value() -> None:
    with pytest.raises(QualaError, match="Allowed: a, b"):
        build(Inner, {"kind": "c", "sizes": [1]})


@pytest.mark.parametrize(
    ("inner", "sentence"),
    [
        ({"kind": "a", "sizes": []}, "`x.inner.sizes` and `x.inner.kind=a` go together, got"),
        ({"kind": "c", "sizes": [1]}, "Unknown value of `x.inner.kind` `c`."),
        ({"kind": "a", "sizes": [1, 2, 3, 4]}, "`x.inner`: There are too many."),
    ],
)
def test_a_message_has_the_path_of_its_option(inner: dict[str, Any], sentence: str) -> None:
    config = OmegaConf.merge(
        OmegaConf.structured(schema(Outer)), {"rate": 1, "needed": 1, "inner": inner}
    )
    with pytest.raises(QualaError) as caught:
        build(Outer, OmegaConf.to_container(config), "x")
    assert str(caught.value).startswith(sentence)
