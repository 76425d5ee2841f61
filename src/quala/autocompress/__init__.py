"""What `quala compress` decides: which recipe of the workflow fits a model, data and minutes."""

from __future__ import annotations

__all__: list[str] = []
