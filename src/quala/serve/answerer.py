"""What the service needs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from quala.runtime.query import Query, Reply


class Answerer(Protocol):
    """A loaded model that answers questions."""

    @property
    def card(self) -> Mapping[str, Any]:
        """The facts of `quala.json`: name, task, format and the points of the front."""

    def answer_batch(self, queries: Sequence[Query]) -> list[Reply]:
        """Answer each query at its own budget. Raises QualaError for input that it refuses."""
