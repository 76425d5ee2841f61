"""An HTTP service around a model, and its page.

`create_app` makes the ASGI application, `serve` runs it until it is stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.serve.app import create_app
    from quala.serve.server import serve

__all__ = ["create_app", "serve"]

__getattr__ = lazy(
    __name__,
    {
        "quala.serve.app": ["create_app"],
        "quala.serve.server": ["serve"],
    },
)
