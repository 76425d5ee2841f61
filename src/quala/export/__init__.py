"""Exports: a folder with the ONNX graph, the tokenizer, the measured points and a model card.

`write_export` writes it, as `ExportSettings` say. `quala.load` and MLflow read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.export.folder import ExportSettings, write_export

__all__ = ["ExportSettings", "write_export"]

__getattr__ = lazy(
    __name__,
    {
        "quala.export.folder": ["ExportSettings", "write_export"],
    },
)
