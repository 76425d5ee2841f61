"""Smaller and faster copies of a graph: without what a call does not use, and fused."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import onnx
from onnx import NodeProto, helper, numpy_helper

from quala.onnx_builder import (
    BEYOND,
    BIASED,
    CONTEXT,
    DROP,
    KEPT,
    KEY,
    OUTPUT,
    QUERY,
    VALUE,
    needed,
    reads,
)

MICROSOFT = "com.microsoft"


def fuse_attention(
    nodes: list[NodeProto], layers: Iterable[int], model: onnx.ModelProto
) -> list[NodeProto]:
    """Return `nodes` with each layer's unpadded attention as one node, where its name says so."""
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


def fuse_products(nodes: Sequence[NodeProto], constants: Set[str]) -> list[NodeProto]:
    """Return `nodes` with each integer linear layer's product and bias as one node.

    The nodes that it replaces stay; nothing reads them any more. `constants` names the
    initializers.
    """
    makers = {name: node for node in nodes for name in node.output}
    return [_integer_product(node, makers, constants) or node for node in nodes]


def _integer_product(
    add: NodeProto, makers: Mapping[str, NodeProto], constants: Set[str]
) -> NodeProto | None:
    """Return dequantized(x) dequantized(w) + bias as one node, None where `add` is not that."""
    if add.op_type != "Add" or add.input[1] not in constants:
        return None
    product = makers.get(add.input[0])
    if product is None or product.op_type != "MatMul":
        return None
    x, w = (makers.get(name) for name in product.input)
    if x is None or w is None or not x.op_type == w.op_type == "DequantizeLinear":
        return None
    inputs = [value for pair in zip(x.input, w.input, strict=True) for value in pair]
    return helper.make_node(
        "MatMulIntegerToFloat", [*inputs, add.input[1]], list(add.output), domain=MICROSOFT
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of call: which layers drop, and whether rows are padded.

    `drops` None leaves the decision to the graph. `padded` may be False only for batches in which
    all tokens are real.
    """

    drops: frozenset[int] | None = None
    padded: bool = True


def specialize(model: onnx.ModelProto, shape: Shape, *, fuse: bool = False) -> onnx.ModelProto:
    """Return a copy of `model` for calls of one shape.

    The copy returns, beside the logits, the places (B, m) of the tokens that each dropping layer
    kept, and which of them are valid. With `fuse`, for runtimes that have them, Microsoft's fused
    operators take the places of unpadded attention and of integer products with their bias.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    nodes = list(_decided(model.graph.node, shape.drops))
    layers = sorted(_layers(model.graph.node))
    if not shape.padded:
        biases = {BIASED.format(layer) for layer in layers}
        nodes = [
            helper.make_node("Identity", [node.input[0]], list(node.output))
            if node.name in biases
            else node
            for node in nodes
        ]
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
    read = {name for node in small.graph.node for name in reads(node)}
    constants = [_narrowed(one) for one in model.graph.initializer if one.name in read]
    del small.graph.initializer[:]
    small.graph.initializer.extend(constants)
    return small


def _narrowed(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a constant in 32 bits: older versions raised the places of fillers by 2**62 - 1."""
    wide = tensor.data_type == onnx.TensorProto.INT64 and not tensor.dims
    if not wide or numpy_helper.to_array(tensor) < 2 * BEYOND:
        return tensor
    return helper.make_tensor(tensor.name, tensor.data_type, [], [BEYOND])


def _layers(nodes: Iterable[NodeProto]) -> set[int]:
    pattern = re.compile(DROP.format(r"(\d+)"))
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
