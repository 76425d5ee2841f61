"""The structure of exported graphs, as lines of text: nodes in order, then stored tensors."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from golden.use import build_graph, rounded

FILE = Path(__file__).parent / "graphs.json.xz"
FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
STRATEGIES = ("column_sum", "query_rows", "question", "cls", "span")
KINDS = ("question-answering", "classification", "regression")
LOW_BITS: dict[str, dict[str, Any]] = {
    "int8": {},
    "1 bit": {"weight_quantizer": "bwn", "weight_bits": 1, "weight_granularity": "tensor"},
    "2 bits, split": {
        "weight_quantizer": "twn", "weight_bits": 2,
        "embedding_quantizer": "twn", "embedding_bits": 2,
    },
    "4 bits, groups": {
        "weight_bits": 4, "weight_granularity": "group", "weight_group": 8,
    },
    "outliers": {"activation_range": "minmax", "outliers": 1},
}  # fmt: skip
FLOATS = {
    f"{family}, {kind}, {strategy}": (family, kind, strategy)
    for family in FAMILIES
    for kind in KINDS
    for strategy in STRATEGIES
    if strategy != "span" or kind == "question-answering"
}
INTEGERS = {
    **{f"{family}, int8": (family, "int8") for family in FAMILIES},
    **{f"bert, {name}": ("bert", name) for name in LOW_BITS},
}
NAMES = [*FLOATS, *INTEGERS]
Build = Callable[..., Any]


def described(name: str, build: Build, make_batch: Build) -> list[str]:
    """Return the lines of one graph. Weights count where they do not hang on a calibration."""
    if name in FLOATS:
        family, kind, strategy = FLOATS[name]
        model = build(family, kind, significance=strategy).float()
        return list(_lines(build_graph(model, sequence_length=32), floats=True))
    family, bits = INTEGERS[name]
    model = build(family, significance="span").float()
    rounded(model, make_batch([7, 20, 32], family=family), LOW_BITS[bits], split="split" in bits)
    return list(_lines(build_graph(model, sequence_length=32), floats=False))


def _lines(model: onnx.ModelProto, *, floats: bool) -> Iterator[str]:
    versions = sorted((one.domain, one.version) for one in model.opset_import)
    yield f"opsets {versions}, ir {model.ir_version}"
    yield from _graph(model.graph, floats=floats, indent="")


def _graph(graph: onnx.GraphProto, *, floats: bool, indent: str) -> Iterator[str]:
    for word, values in (("in", graph.input), ("out", graph.output)):
        for value in values:
            yield f"{indent}{word} {value.name} {_digest(value.type.SerializeToString())}"
    for node in graph.node:
        inner = [one for one in node.attribute if one.type == onnx.AttributeProto.GRAPH]
        plain = sorted(
            (one.name, str(onnx.helper.get_attribute_value(one)))
            for one in node.attribute
            if one not in inner
        )
        yield (
            f"{indent}{node.name} = {node.domain}{node.op_type}({', '.join(node.input)}) -> "
            f"{', '.join(node.output)} {_digest(repr(plain).encode())}"
        )
        for one in sorted(inner, key=lambda attribute: attribute.name):
            yield f"{indent}  {one.name}:"
            yield from _graph(one.g, floats=floats, indent=f"{indent}    ")
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        content = _digest(array.tobytes()) if floats or array.dtype != np.float32 else "-"
        yield f"{indent}{tensor.name}: {array.dtype} {list(array.shape)} {content}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:10]


def read() -> dict[str, list[str]]:
    """Return the lines of each graph as they were."""
    found: dict[str, list[str]] = json.loads(lzma.decompress(FILE.read_bytes()))
    return found


def write(build: Build, make_batch: Build) -> None:
    """Write the golden file."""
    found = {name: described(name, build, make_batch) for name in NAMES}
    FILE.write_bytes(lzma.compress(json.dumps(found, indent=0).encode(), preset=9))
