"""quala: small, length-adaptive, integer transformer encoders for any latency budget.

`quala.load` opens an exported model that answers questions within a budget. Everything else is in
the packages: `quala.models` has the length-adaptive encoder, `quala.compress` distills, prunes and
quantizes it, `quala.search` finds lengths, `quala.export` writes it, `quala.workflow` runs all of
this as tracked, resumable stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.errors import QualaError
    from quala.lengths import LengthConfig
    from quala.runtime.answerer import load

__all__ = ["LengthConfig", "QualaError", "__version__", "load"]

__version__ = "0.1.0"

__getattr__ = lazy(
    __name__,
    {
        "quala.errors": ["QualaError"],
        "quala.lengths": ["LengthConfig"],
        "quala.runtime.answerer": ["load"],
    },
)
