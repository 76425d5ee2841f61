"""What the nodes of an ONNX graph read, and which of them are needed."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto


def needed(nodes: list[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Return the nodes that the outputs hang on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        wanted.update(reads(node))
    return kept[::-1]


def reads(node: NodeProto) -> Iterable[str]:
    """Yield the names that a node and the graphs inside it read."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from reads(inner)
