"""Smaller and faster copies of a graph: without what a call does not use, and fused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import onnx
from onnx import NodeProto, helper, numpy_helper

from quala.errors import QualaError
from quala.lengths import Layers, Units, layers_name
from quala.onnx_builder import (
    BEYOND,
    BIASED,
    CONTEXT,
    DROP,
    ENTRY,
    KEPT,
    KEY,
    OUTPUT,
    QUERY,
    VALUE,
    Cut,
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
    """A kind of call: which layers drop, whether rows are padded, and which units run.

    `drops` None leaves the decision to the graph. `padded` may be False only for batches in which
    all tokens are real. No `layers` are all that the graph holds.
    """

    drops: frozenset[int] | None = None
    padded: bool = True
    layers: Layers = ()


def specialize(model: onnx.ModelProto, shape: Shape, *, fuse: bool = False) -> onnx.ModelProto:
    """Return a copy of `model` for calls of one shape.

    The copy returns, beside the logits, the places (B, m) of the tokens that each dropping layer
    kept, and which of them are valid. With `fuse`, for runtimes that have them, Microsoft's fused
    operators take the places of unpadded attention and of integer products with their bias.
    Raises QualaError as `cut_layers`, and for a drop of tokens at a layer that the graph lacks.
    """
    if shape.layers:
        model = cut_layers(model, shape.layers)
    layers = sorted(_layers(model.graph.node))
    if absent := sorted((shape.drops or frozenset()).difference(layers)):
        raise QualaError(f"The graph has no layer {absent[0]} that drops tokens, only {layers}.")
    taken = {} if shape.drops is None else {layer: layer in shape.drops for layer in layers}
    nodes = list(_decided(model.graph.node, taken))
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
    small = _copied(model, needed(nodes, outputs), model.graph.initializer)
    for name in kept:
        kind = kinds[name.rpartition("_")[2]]
        small.graph.output.append(helper.make_tensor_value_info(name, kind, ["batch", name]))
    if fuse:
        small.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return small


def cut_layers(model: onnx.ModelProto, layers: Layers) -> onnx.ModelProto:
    """Return a copy of an elastic model's graph with the first heads and neurons of each layer.

    Layers that are None are left out. The input `lengths` keeps an entry for each of them.
    Sub-networks of this one can be cut out of the copy. Raises QualaError for more units than the
    graph holds, and for a graph that cannot be cut so.
    """
    cuts = {t.name: cut for t in model.graph.initializer if (cut := Cut.read(t.name))}
    held = _held(model, cuts)
    if len(layers) != len(held):
        raise QualaError(f"Expected units of {len(held)} layers, got {len(layers)}.")
    free = {cut.layer for cut in cuts.values() if cut.kind == "heads"}
    for layer, (units, most) in enumerate(zip(layers, held, strict=True)):
        if units and not (most and units.heads <= most.heads and units.neurons <= most.neurons):
            raise QualaError(f"The graph holds {layers_name(held)}, got {layers_name(layers)}.")
        if units and most and units.heads < most.heads and layer not in free:
            raise QualaError(f"The graph keeps all {most.heads} heads, got {layers_name(layers)}.")
    out = {layer for layer, units in enumerate(layers) if units is None and held[layer]}
    nodes = list(_decided(model.graph.node, dict.fromkeys(out, False)))
    entries = {ENTRY.format(layer + 1): ENTRY.format(layer) for layer in out}
    if not {node.name for node in nodes}.issuperset(entries.values()):
        raise QualaError(f"A layer of the graph cannot be left out, got {layers_name(layers)}.")
    nodes = [
        helper.make_node("Identity", [entries[node.name]], [node.name], name=node.name)
        if node.name in entries
        else node
        for node in nodes
    ]
    constants = [
        cuts[one.name].first(one, getattr(units, cuts[one.name].kind))
        if one.name in cuts and (units := layers[cuts[one.name].layer])
        else one
        for one in model.graph.initializer
    ]
    return _copied(model, needed(nodes, [OUTPUT]), constants)


def _held(model: onnx.ModelProto, cuts: Mapping[str, Cut]) -> Layers:
    """Return the units of each layer of a graph, None for those that it does not have."""
    if not cuts:
        raise QualaError(
            "Heads, neurons and layers cannot be cut out of this graph: only the exports of "
            "elastic models hold sub-networks."
        )
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    neurons = {name: cut for name, cut in cuts.items() if cut.kind == "neurons"}
    sizes = {cut.layer: cut.units(constants[name]) for name, cut in neurons.items()}
    splits = {node.name: node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    held: list[Units | None] = []
    (count,) = (one for one in model.graph.input if one.name == "lengths")
    for layer in range(count.type.tensor_type.shape.dim[0].dim_value):
        split = splits.get(QUERY.format(layer))
        heads = Cut(layer, "heads", axis=-1)
        held.append(Units(heads.units(constants[split]), sizes[layer]) if split else None)
    return tuple(held)


def _copied(
    model: onnx.ModelProto, nodes: Iterable[NodeProto], constants: Iterable[onnx.TensorProto]
) -> onnx.ModelProto:
    """Return a copy of `model` with these nodes, and those of the constants that they read."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    del small.graph.node[:]
    small.graph.node.extend(nodes)
    read = {name for node in small.graph.node for name in reads(node)}
    del small.graph.initializer[:]
    small.graph.initializer.extend(_narrowed(one) for one in constants if one.name in read)
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


def _decided(nodes: Iterable[NodeProto], drops: Mapping[int, bool]) -> Iterable[NodeProto]:
    """Yield the nodes with each `If` of a layer in `drops` replaced by the branch taken."""
    pattern = re.compile(DROP.format(r"(\d+)"))
    for node in nodes:
        found = pattern.fullmatch(node.name)
        if not found or int(found[1]) not in drops:
            yield node
            continue
        wanted = "then_branch" if drops[int(found[1])] else "else_branch"
        branch = next(item.g for item in node.attribute if item.name == wanted)
        yield from branch.node
        for inner, outer in zip(branch.output, node.output, strict=True):
            yield helper.make_node("Identity", [inner.name], [outer])
