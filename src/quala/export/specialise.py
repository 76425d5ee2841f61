"""Cut an exported graph down to what one kind of call needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx
from onnx import NodeProto, helper, numpy_helper

from quala.export.names import BIASED, CONTEXT, DROP, KEPT, KEY, OUTPUT, QUERY, VALUE

MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of call: which layers drop, and whether rows are padded.

    `drops` None leaves the decision to the graph. `padded` False is right only for batches in
    which all tokens are real.
    """

    drops: frozenset[int] | None = None
    padded: bool = True


def specialise(model: onnx.ModelProto, shape: Shape, *, fuse: bool = False) -> onnx.ModelProto:
    """Return a copy of `model` for calls of one shape.

    The copy returns, beside the logits, the places (B, m) of the tokens that each dropping layer
    kept, and which of them are valid. With `fuse`, for runtimes that
    have it, Microsoft's fused attention takes the place of unpadded attention.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    nodes = list(_decided(model.graph.node, shape.drops))
    layers = sorted(_layers(nodes))
    if not shape.padded:
        nodes = [_unbiased(node, layers) for node in nodes]
        if fuse:
            nodes = _fused(nodes, layers, model)
    dropping = layers if shape.drops is None else sorted(shape.drops)
    kept = [KEPT.format(layer, field) for layer in dropping for field in ("positions", "valid")]
    outputs = [OUTPUT, *kept]
    kinds = {"positions": onnx.TensorProto.INT64, "valid": onnx.TensorProto.BOOL}
    del small.graph.node[:]
    small.graph.node.extend(_needed(nodes, outputs))
    for name in kept:
        kind = kinds[name.rpartition("_")[2]]
        small.graph.output.append(helper.make_tensor_value_info(name, kind, ["batch", name]))
    if fuse:
        small.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    _forget_constants(small)
    return small


def _layers(nodes: Iterable[NodeProto]) -> set[int]:
    pattern = re.compile(CONTEXT.format(r"(\d+)"))
    return {int(found[1]) for node in nodes if (found := pattern.fullmatch(node.name))}


def _decided(nodes: Iterable[NodeProto], drops: Collection[int] | None) -> Iterable[NodeProto]:
    """Yield the nodes with each `If` replaced by the branch that is known to be taken."""
    pattern = re.compile(DROP.format(r"(\d+)"))
    for node in nodes:
        found = pattern.fullmatch(node.name)
        if drops is None or not found:
            yield node
            continue
        wanted = "then_branch" if int(found[1]) in drops else "else_branch"
        branch = next(item.g for item in node.attribute if item.name == wanted)
        yield from branch.node
        for inner, outer in zip(branch.output, node.output, strict=True):
            yield helper.make_node("Identity", [inner.name], [outer])


def _unbiased(node: NodeProto, layers: Iterable[int]) -> NodeProto:
    if node.name in {BIASED.format(layer) for layer in layers}:
        return helper.make_node("Identity", [node.input[0]], list(node.output))
    return node


def _fused(
    nodes: list[NodeProto], layers: Iterable[int], model: onnx.ModelProto
) -> list[NodeProto]:
    named = {node.name: node for node in nodes}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    joined = {CONTEXT.format(layer): layer for layer in layers}
    result = []
    for node in nodes:
        layer = joined.get(node.name)
        if layer is None:
            result.append(node)
            continue
        split = numpy_helper.to_array(constants[named[QUERY.format(layer)].input[1]])
        rows = [named[part.format(layer)].input[0] for part in (QUERY, KEY, VALUE)]
        fused = helper.make_node(
            "MultiHeadAttention",
            rows,
            list(node.output),
            domain=MICROSOFT,
            num_heads=int(split[2]),  # (0, 0, heads, d)
            scale=1.0,  # the query carries it
        )
        result.append(fused)
    return result


def _needed(nodes: list[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Return the nodes that the outputs hang on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        wanted.update(_reads(node))
    return kept[::-1]


def _reads(node: NodeProto) -> Iterable[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)


def _forget_constants(model: onnx.ModelProto) -> None:
    read = {name for node in model.graph.node for name in _reads(node)}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
