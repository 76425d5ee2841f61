"""Teachers of any family: what their config.json may ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quala.errors import QualaError
from quala.models.foreign import foreign_kind


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({"architectures": ["T5ForSequenceClassification"]}, "classification"),
        ({"architectures": ["T5ForSequenceClassification"], "num_labels": 1}, "regression"),
        ({"architectures": ["T5Model"]}, None),
    ],
)
def test_the_task_is_that_of_the_class(
    facts: dict[str, object], kind: str | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", **facts}))
    assert foreign_kind(tmp_path) == kind


def test_code_from_the_hub_is_refused(tmp_path: Path) -> None:
    facts = {"model_type": "t5", "attn_implementation": "owner/kernel"}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    with pytest.raises(QualaError, match="asks for code from the hub"):
        foreign_kind(tmp_path)
