"""Microsoft's fused operators in place of the standard ones, for runtimes that have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

import onnx
from onnx import NodeProto, helper, numpy_helper

from quala.export.names import CONTEXT, KEY, QUERY, VALUE

MICROSOFT = "com.microsoft"


def fuse_attention(
    nodes: list[NodeProto], layers: Iterable[int], model: onnx.ModelProto
) -> list[NodeProto]:
    """Return `nodes` with each layer's unpadded attention as one node."""
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
