"""Trainings of embeddings follow a teacher; what would learn labels is refused before any work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from quala.errors import QualaError


@pytest.mark.parametrize(
    ("stage", "changes", "sentence"),
    [
        ("finetune", {}, "`enabled` must be false, got True"),
        ("length_adapt", {"teacher": 1.0}, "`hard` must be 0, got 1"),
        ("length_adapt", {"teacher": 1.0, "hard": 0.0}, "`sub_hard` must be 0, got 0.3"),
        ("quantize", {"method": "qat"}, "`hard` must be 0, got 0.5"),
        ("distill", {}, "`hard` must be 0, got 0.5"),
        ("distill", {"hard": 0.0, "width": 0.5}, "`width` must be 1, got 0.5"),
        ("quantize", {"method": "ptq"}, None),
        ("length_adapt", {"teacher": 1.0, "hard": 0.0, "sub_hard": 0.0}, None),
        ("distill", {"hard": 0.0}, None),
    ],
)
def test_labels_are_not_learned(
    stage: str, changes: dict[str, Any], sentence: str | None, configure: Any
) -> None:
    config = configure(stage, **changes)
    data = SimpleNamespace(value=SimpleNamespace(task="embed"))
    if sentence is None:
        config.check_inputs({"data": data})
    else:
        with pytest.raises(QualaError, match=sentence):
            config.check_inputs({"data": data})
    config.check_inputs({"data": SimpleNamespace(value=SimpleNamespace(task="glue"))})
