from __future__ import annotations

from typing import Any

import pytest

from quala.compress.loss_weights import DistillWeights
from quala.errors import QualaError


@pytest.mark.parametrize(
    "wrong",
    [{"hidden": -0.1}, {"temperature": 0.0}, {"direction": "backward"}, {"soft": 0.0}],
)
def test_wrong_weights_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(QualaError):
        DistillWeights(**wrong)
