"""The ONNX graph of a length-adaptive encoder, whose lengths are inputs.

`build_graph` writes a float or integer model as a graph, node by node.
`quala.graph.specialize` makes a smaller and faster graph for fixed lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quala._lazy import lazy

if TYPE_CHECKING:
    from quala.graph.encoder import build_graph

__all__ = ["build_graph"]

__getattr__ = lazy(
    __name__,
    {
        "quala.graph.encoder": ["build_graph"],
    },
)
