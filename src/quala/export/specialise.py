"""Cut an exported graph down to what one kind of call needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx
from onnx import NodeProto, helper

from quala.export.fuse import MICROSOFT, fuse_attention, fuse_products
from quala.export.names import BIASED, CONTEXT, DROP, KEPT, OUTPUT
from quala.export.nodes import needed, reads


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
    kept, and which of them are valid. With `fuse`, for runtimes that have them, Microsoft's fused
    operators take the places of unpadded attention and of integer products with their bias.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    nodes = list(_decided(model.graph.node, shape.drops))
    layers = sorted(_layers(nodes))
    if not shape.padded:
        nodes = [_unbiased(node, layers) for node in nodes]
        if fuse:
            nodes = fuse_attention(nodes, layers, model)
    if fuse:
        nodes = fuse_products(nodes, {tensor.name for tensor in model.graph.initializer})
    dropping = layers if shape.drops is None else sorted(shape.drops)
    kept = [KEPT.format(layer, field) for layer in dropping for field in ("positions", "valid")]
    outputs = [OUTPUT, *kept]
    kinds = {"positions": onnx.TensorProto.INT64, "valid": onnx.TensorProto.BOOL}
    del small.graph.node[:]
    small.graph.node.extend(needed(nodes, outputs))
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


def _forget_constants(model: onnx.ModelProto) -> None:
    read = {name for node in model.graph.node for name in reads(node)}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
