"""A graph at one point of its front, with the inputs and outputs that other tools know."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from quala.graph.specialize import Shape, specialize
from quala.lengths import LengthConfig
from quala.onnx_builder import HIDDEN, INPUTS, OUTPUT, GraphBuilder, needed, reads

IDS, MASK, SEGMENTS, LENGTHS = INPUTS
TYPES = "token_type_ids"
STARTS, ENDS, EMBEDDING = "start_logits", "end_logits", "sentence_embedding"
ROW: list[str | int] = ["batch_size", "sequence_length"]
FREE = 10**6
"""Numbers in the names of nodes are free from here on."""
PADDED = -1e4
"""The logits of padding, as the pipelines of transformers mask: no largest logit is there."""


def standard_graph(
    model: onnx.ModelProto, lengths: LengthConfig, *, named: str, separator: int | None
) -> onnx.ModelProto:
    """Return a copy of an exported graph that runs at these lengths only.

    Its inputs are input_ids, attention_mask and, where it reads them, token_type_ids, int64
    (B, n), padded as anyone likes. With a `separator` the types are those that this id parts
    instead. The outputs are start_logits and end_logits (B, n), or logits, or sentence_embedding
    (B, K); `named` is the first of them. At full length an embedding comes with last_hidden_state
    (B, n, K), unless an older version exported it. Raises QualaError as `specialize`.
    """
    drops = frozenset(layer for layer, drop in enumerate(lengths.drops) if drop)
    small = specialize(model, Shape(drops, layers=lengths.layers))
    made: dict[str, list[str | int]] = {named: _shape(model)}
    if named == STARTS:
        made = {STARTS: ROW, ENDS: ROW}
    elif named == EMBEDDING and not drops and any(n.name == HIDDEN for n in small.graph.node):
        made[HIDDEN] = [*ROW, made[named][-1]]
    g = GraphBuilder(first=FREE)
    typed = any(SEGMENTS in reads(node) for node in small.graph.node) and separator is None
    if typed:
        g.nodes.append(helper.make_node("Identity", [TYPES], [SEGMENTS], name=SEGMENTS))
    elif separator is not None:
        _add_segments(g, separator)
    for node in small.graph.node:
        if _ranks(node):
            node = _ranked(g, node)
        g.nodes.append(node)
    _add_outputs(g, named)
    nodes = needed(g.nodes, made)
    return _model(small, nodes, g, made, lengths, [IDS, MASK, *([TYPES] if typed else [])])


def _shape(model: onnx.ModelProto) -> list[str | int]:
    (logits,) = (one for one in model.graph.output if one.name == OUTPUT)
    dims = logits.type.tensor_type.shape.dim
    return [*ROW[: len(dims) - 1], int(dims[-1].dim_value)]


def _model(
    small: onnx.ModelProto,
    nodes: list[NodeProto],
    g: GraphBuilder,
    outputs: dict[str, list[str | int]],
    lengths: LengthConfig,
    inputs: list[str],
) -> onnx.ModelProto:
    info, whole = helper.make_tensor_value_info, TensorProto.INT64
    kept = numpy_helper.from_array(np.array(lengths.lengths, dtype=np.int64), LENGTHS)
    read = {name for node in nodes for name in reads(node)}
    constants = [*small.graph.initializer, *g.initializers, kept]
    graph = helper.make_graph(
        nodes,
        "quala",
        [info(name, whole, ROW) for name in inputs],
        [info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [one for one in constants if one.name in read],
    )
    counts = ", ".join(map(str, lengths.lengths))
    made = helper.make_model(
        graph,
        opset_imports=small.opset_import,
        ir_version=small.ir_version,
        producer_name=small.producer_name,
        doc_string=f"the layers keep {counts} tokens of {lengths.sequence_length}",
    )
    onnx.checker.check_model(made)
    return made


def _add_segments(g: GraphBuilder, separator: int) -> None:
    """Add the segments of a pair: 0 up to the first separator, 1 after it."""
    parts = g("Equal", IDS, g.constant(separator, np.int64))
    counts = g("Cast", parts, to=TensorProto.INT64)
    passed = g("CumSum", counts, g.constant(1, np.int64), exclusive=1)
    second = g("Greater", passed, g.constant(0, np.int64))
    g("Cast", second, to=TensorProto.INT64, name=SEGMENTS)


def _add_outputs(g: GraphBuilder, named: str) -> None:
    if named == EMBEDDING:
        g("Identity", OUTPUT, name=EMBEDDING)
    if named != STARTS:
        return
    real = g("Cast", MASK, to=TensorProto.BOOL)
    halves = g.many("Split", OUTPUT, outputs=2, num_outputs=2, axis=-1)
    for name, half in zip((STARTS, ENDS), halves, strict=True):
        row = g("Squeeze", half, g.constant([-1], np.int64))  # (B, n)
        g("Where", real, row, g.constant(PADDED, np.float32), name=name)


def _ranks(node: NodeProto) -> bool:
    """Tell whether a node puts the largest scores first, which may be equal."""
    smallest = any(one.name == "largest" and not one.i for one in node.attribute)
    return node.op_type == "TopK" and not smallest


def _ranked(g: GraphBuilder, node: NodeProto) -> NodeProto:
    """Return a TopK of ranks instead: not all runtimes keep the order of equal scores.

    The rank of a token is how many are ahead: those of larger scores, and of equal ones those
    before it.
    """
    scores, width = node.input
    own = g("Unsqueeze", scores, g.constant([2], np.int64))  # (B, m, 1)
    other = g("Unsqueeze", scores, g.constant([1], np.int64))  # (B, 1, m)
    count = g("Gather", g("Shape", scores), g.constant(1, np.int64))
    places = g("Range", g.constant(0, np.int64), count, g.constant(1, np.int64))
    places_of = (g("Unsqueeze", places, g.constant([axis], np.int64)) for axis in (0, 1))
    tied = g("And", g("Equal", other, own), g("Less", *places_of))
    ahead = g("Cast", g("Or", g("Greater", other, own), tied), to=TensorProto.INT32)
    rank = g("ReduceSum", ahead, g.constant([2], np.int64), keepdims=0)  # (B, m)
    outputs = list(node.output)
    return helper.make_node("TopK", [rank, width], outputs, name=node.name, axis=1, largest=0)
