"""A builder of ONNX graphs, and the names in a graph that several modules use.

`{}` in a name stands for the layer, counted from 0.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from quala.errors import QualaError

INPUTS = ("input_ids", "attention_mask", "segment_ids", "lengths")
OUTPUT = "logits"
QUERY, KEY, VALUE = "query_{}", "key_{}", "value_{}"
"""Nodes that split (B, n, H) into heads."""
BIASED = "attention_bias_{}"
"""The node that adds the padding's bias to the attention logits."""
CONTEXT = "context_{}"
"""The node that joins the heads to (B, n, H), where the attention knows no places of tokens."""
DROP = "drop_{}"
"""The `If` that drops tokens or leaves them alone."""
KEPT = "kept_{}_{}"
"""Its outputs: hidden, positions, valid, question, answers."""
ENTRY = "entry_{}"
"""The node that gives a layer of an elastic model its hidden states; the last is after all layers.
A layer without it cannot be left out."""
HIDDEN = "last_hidden_state"
"""The node with the hidden states (B, m, H) that an embedding is pooled of."""
BEYOND = 2**30
"""What the places of fillers are raised by. OpenVINO cuts integers to 32 bits, and twice this is
too large for them."""


def needed(nodes: list[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Return the nodes that the outputs depend on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        wanted.update(reads(node))
    return kept[::-1]


def check_graph(model: onnx.ModelProto, *, layers: int, outputs: int) -> None:
    """Raise QualaError for a graph of another kind than `GraphBuilder` makes.

    Its tensors must be in the file: a runtime would read others from any path that it names.
    """
    domains = {one.domain: one.version for one in model.opset_import}
    if domains != {"": OPSET} or model.functions:
        names = ", ".join(f"{name or 'onnx'} {one}" for name, one in sorted(domains.items()))
        raise QualaError(f"it has the operators {names or 'none'}; quala writes onnx {OPSET}.")
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise QualaError(f"the tensor `{tensor.name[:40]}` is not in the file.")
    given = {one.name: _last(one) for one in model.graph.input}
    made = {one.name: _last(one) for one in model.graph.output}
    if tuple(given) != INPUTS or tuple(made) != (OUTPUT,):
        raise QualaError(f"it maps {', '.join(given)} to {', '.join(made)}.")
    if (given["lengths"], made[OUTPUT]) != (layers, outputs):
        raise QualaError(
            f"it has {given['lengths']} layers and {made[OUTPUT]} outputs, the card {layers} and "
            f"{outputs}."
        )


def _last(info: onnx.ValueInfoProto) -> int:
    sizes = info.type.tensor_type.shape.dim
    return int(sizes[-1].dim_value) if sizes else 0


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield the tensors of a graph and of those inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def reads(node: NodeProto) -> Iterable[str]:
    """Yield the names that a node and the graphs inside it read."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from reads(inner)


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the units of a layer lie in a constant, of which a sub-network keeps the first.

    Along `axis` are `blocks` of all units, each unit `size` long. In a constant that is itself a
    shape (`axis` -1) their number times `size` is the third value. The name of the constant says
    so.
    """

    layer: int
    kind: str  # heads or neurons
    axis: int
    blocks: int = 1
    size: int = 1

    def name(self, number: int) -> str:
        """Return the name of a constant, `number` its own."""
        return "_".join(map(str, ("cut", *astuple(self), number)))

    @classmethod
    def read(cls, name: str) -> Cut | None:
        """Return what a name says, None for that of a constant without units."""
        found = re.fullmatch(r"cut_(\d+)_(heads|neurons)_(-1|0|1)_(\d+)_(\d+)_\d+", name)
        if found is None:
            return None
        layer, kind, *numbers = found.groups()
        return cls(int(layer), kind, *map(int, numbers))

    def units(self, tensor: TensorProto) -> int:
        """Return how many units a constant has."""
        if self.axis < 0:
            return int(numpy_helper.to_array(tensor)[2]) // self.size
        return int(tensor.dims[self.axis]) // (self.blocks * self.size)

    def first(self, tensor: TensorProto, units: int) -> TensorProto:
        """Return a constant with its first units only."""
        values = numpy_helper.to_array(tensor)
        if self.axis < 0:
            values = np.array([*values[:2], units * self.size, *values[3:]], values.dtype)
        else:
            blocks = np.split(values, self.blocks, self.axis)
            kept = range(units * self.size)
            values = np.concatenate([block.take(kept, self.axis) for block in blocks], self.axis)
        return numpy_helper.from_array(values, tensor.name)


OPSET = 21
IR_VERSION = 10


class GraphBuilder:
    """The nodes of one graph; its subgraphs share constants and names with it."""

    def __init__(self, parent: GraphBuilder | None = None, *, first: int = 0) -> None:
        self.nodes: list[NodeProto] = []
        self._numbers: Iterator[int] = parent._numbers if parent else itertools.count(first)
        self._constants: dict[str, TensorProto] = parent._constants if parent else {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = (
            parent._known if parent else {}
        )

    def __call__(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        (output,) = self.many(kind, *inputs, outputs=1, name=name, **attributes)
        return output

    def many(
        self, kind: str, *inputs: str, outputs: int, name: str | None = None, **attributes: Any
    ) -> list[str]:
        """Append a node with several outputs and return their names."""
        name = name or f"{kind}_{next(self._numbers)}"
        names = [name if outputs == 1 else f"{name}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names

    def constant(
        self, value: Any, dtype: Any = None, *, name: str | None = None, cut: Cut | None = None
    ) -> str:
        """Return the name of a constant; equal ones without a name or `cut` are stored once."""
        name = cut.name(next(self._numbers)) if cut else name
        array: NDArray[Any] = np.ascontiguousarray(np.asarray(value, dtype=dtype))
        array = array.reshape(np.shape(value))
        key = (str(array.dtype), array.shape, hashlib.sha256(array.data).digest())
        if name is None and key in self._known:
            return self._known[key]
        fresh = name or f"constant_{next(self._numbers)}"
        self._constants[fresh] = numpy_helper.from_array(array, fresh)
        if name is None:
            self._known[key] = fresh
        return fresh

    @property
    def initializers(self) -> list[TensorProto]:
        """The constants."""
        return list(self._constants.values())

    def branch(self) -> GraphBuilder:
        """Return an empty subgraph, which sees every name of this graph."""
        return GraphBuilder(self)

    def proto(self, name: str, outputs: dict[str, int]) -> GraphProto:
        """Return a subgraph with these outputs, name to element type."""
        infos = [helper.make_tensor_value_info(key, kind, None) for key, kind in outputs.items()]
        return helper.make_graph(self.nodes, name, [], infos)

    def model(
        self,
        *,
        inputs: dict[str, tuple[int, list[str | int]]],
        outputs: dict[str, tuple[int, list[str | int]]],
        doc: str,
    ) -> onnx.ModelProto:
        """Return the checked model; inputs and outputs are name to (element type, shape)."""
        infos = [
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in group]
            for group in (inputs.items(), outputs.items())
        ]
        graph = helper.make_graph(self.nodes, "quala", infos[0], infos[1], self.initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="quala",
            doc_string=doc,
        )
        onnx.checker.check_model(model)
        return model
