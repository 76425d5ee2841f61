"""Inference engines: one interface over PyTorch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache, lru_cache, partial
from pathlib import Path
from threading import Lock, local
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from quala.cost import parameters
from quala.errors import QualaError, unknown
from quala.graph.specialize import Shape, specialize
from quala.lengths import LengthConfig
from quala.onnx_builder import OUTPUT, check_graph
from quala.runtime.hardware import processor, saturates
from quala.stored import check_size

if TYPE_CHECKING:
    from quala.models.adaptive import LengthAdaptiveModel
    from quala.runtime.card import Card


log = logging.getLogger(__name__)

Inputs = Mapping[str, NDArray[np.int64]]
"""input_ids, attention_mask and segment_ids, int64 (B, n)."""
Arrays = dict[str, NDArray[Any]]
Compiled = Callable[[Arrays], list[NDArray[Any]]]
Kept = dict[int, list[list[int]]]
"""By layer, the places that each row kept, rising; layers that drop nothing are left out."""
GRAPH = "model.onnx"
MOST_SHAPES = 16
"""Compiled graphs that one engine keeps. A front has about ten points, each with and without
padding; chosen by hand, not tuned."""


class Engine(Protocol):
    """A loaded model that computes logits at any lengths; safe to call from several threads."""

    @property
    def name(self) -> str:
        """The runtime's name."""

    def logits(self, inputs: Inputs, lengths: LengthConfig | None) -> NDArray[np.float32]:
        """Return (B, n, 2) for spans, (B, C) otherwise; None drops no token.

        Lengths with `layers` run that sub-network. Raises QualaError where there is none.
        """

    def survivors(self, inputs: Inputs, lengths: LengthConfig) -> tuple[NDArray[np.float32], Kept]:
        """Return the logits, and the places that were kept where the engine reports them."""
        return self.logits(inputs, lengths), {}


class TorchEngine(Engine):
    """Runs a float or integer model with PyTorch, the reference for the other engines.

    Inputs are padded to `pad_to` tokens, as published evaluations do; None runs them as they
    are. `threads` None keeps PyTorch's own number. Sub-networks are cut out at the first call.
    """

    name = "torch"

    def __init__(
        self, model: LengthAdaptiveModel, *, pad_to: int | None = None, threads: int | None = None
    ) -> None:
        from quala.checkpoint import cut_out

        self._cut_out = lru_cache(maxsize=MOST_SHAPES)(partial(cut_out, model.eval()))
        self._pad_to = pad_to
        self._threads = threads

    def logits(self, inputs: Inputs, lengths: LengthConfig | None) -> NDArray[np.float32]:
        """Return the logits of the tokens in `inputs`, without those of added padding."""
        import torch

        tokens = inputs["input_ids"].shape[1]
        added = 0 if self._pad_to is None else self._pad_to - tokens
        batch: Any = {
            name: torch.from_numpy(np.pad(values, ((0, 0), (0, added))) if added else values)
            for name, values in inputs.items()
        }
        with torch_threads(self._threads), torch.inference_mode():
            model = self._cut_out(lengths.layers if lengths else ())
            found = model(batch, lengths and lengths.extracted).numpy()
        return np.asarray(found[:, :tokens] if found.ndim == 3 else found, dtype=np.float32)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Run with `count` threads inside operators, then with as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class GraphEngine(ABC):
    """Runs an exported graph whose lengths without any drop are `full`.

    For each set of layers that drop, with and without padding, and for each sub-network, the
    graph is cut down and compiled at the first such call.
    """

    name: str
    fuse = False

    def __init__(self, graph: onnx.ModelProto, full: LengthConfig, *, threads: int) -> None:
        self.threads = threads
        self._full = full
        self._graph = graph
        self._compiled: OrderedDict[Shape, tuple[Compiled, list[str]]] = OrderedDict()
        self._lock = Lock()

    @abstractmethod
    def compile(self, graph: bytes, outputs: list[str]) -> Compiled:
        """Return a function from inputs to these outputs."""

    def logits(self, inputs: Inputs, lengths: LengthConfig | None) -> NDArray[np.float32]:
        return np.asarray(self._run(inputs, lengths)[OUTPUT], dtype=np.float32)

    def survivors(self, inputs: Inputs, lengths: LengthConfig) -> tuple[NDArray[np.float32], Kept]:
        outputs = self._run(inputs, lengths)
        kept: Kept = {}
        for name, places in outputs.items():
            if name.endswith("_positions"):
                valid = outputs[name.replace("_positions", "_valid")]
                layer = int(name.split("_")[1])
                kept[layer] = [
                    sorted(row[real].tolist()) for row, real in zip(places, valid, strict=True)
                ]
        return np.asarray(outputs[OUTPUT], dtype=np.float32), kept

    def _run(self, inputs: Inputs, lengths: LengthConfig | None) -> Arrays:
        wanted = lengths or self._full
        layers = len(self._full.lengths)
        if len(wanted.lengths) != layers:
            raise QualaError(
                f"Expected {layers} lengths, one per layer, got {len(wanted.lengths)}."
            )
        drops = frozenset(layer for layer, drop in enumerate(wanted.drops) if drop)
        padded = not bool(inputs["attention_mask"].all())
        shape = Shape(drops, padded, wanted.layers)
        new = shape not in self._compiled
        compiled, outputs = self._session(shape)
        feeds: Arrays = dict(inputs) | {"lengths": np.array(wanted.lengths, dtype=np.int64)}
        # A graph that fails at its first call is a bad graph; later it is the machine that fails.
        with explained(f"The runtime {self.name} cannot run the graph") if new else nullcontext():
            return dict(zip(outputs, compiled(feeds), strict=True))

    def _session(self, shape: Shape) -> tuple[Compiled, list[str]]:
        with self._lock:
            known = self._compiled.get(shape)
            if known is None:
                with explained("The graph is none that quala wrote"):
                    small = specialize(self._graph, shape, fuse=self.fuse)
                outputs = [output.name for output in small.graph.output]
                with explained(f"The runtime {self.name} cannot load the graph"):
                    known = self.compile(small.SerializeToString(), outputs), outputs
                self._compiled[shape] = known
                if len(self._compiled) > MOST_SHAPES:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(shape)
            return known


def read_graph(folder: Path, *, largest: int = 2**31) -> onnx.ModelProto:
    """Read model.onnx, of at most `largest` bytes, and no other file.

    Raises QualaError when it is missing or damaged.
    """
    from google.protobuf.message import DecodeError

    check_size(folder / GRAPH, largest)
    try:
        graph = onnx.load(folder / GRAPH, load_external_data=False)
    except (OSError, DecodeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise QualaError(f"Could not read the graph `{folder / GRAPH}`: {reason}") from error
    if not graph.graph.output:
        raise QualaError(f"`{folder / GRAPH}` holds no graph; is the file complete?")
    return graph


def open_engine(
    runtime: str, graph: onnx.ModelProto, full: LengthConfig, *, threads: int
) -> GraphEngine:
    """Open an exported graph in a runtime. Raises QualaError for unknown and missing ones."""
    kinds: dict[str, type[GraphEngine]] = {each.name: each for each in (OrtEngine, OpenVinoEngine)}
    if runtime not in kinds:
        raise unknown("runtime", runtime, kinds)
    _warn_of_saturation(graph)
    return kinds[runtime](graph, full, threads=threads)


def open_model(
    runtime: str, model: LengthAdaptiveModel, *, sequence_length: int, threads: int
) -> Engine:
    """Open `model` in the runtime `torch`, or export it in memory and open it in another one.

    Raises QualaError as `open_engine`, and for models that cannot be exported.
    """
    if runtime == TorchEngine.name:
        return TorchEngine(model, threads=threads)
    from quala.graph.encoder import build_graph

    graph = build_graph(model, sequence_length=sequence_length)
    full = LengthConfig.full(layers=model.num_layers, sequence_length=sequence_length)
    return open_engine(runtime, graph, full, threads=threads)


def open_export(folder: Path, card: Card, *, runtime: str, threads: int) -> GraphEngine:
    """Open the graph of an export folder, and run it once on the longest and largest input.

    Raises QualaError as `read_graph` and `open_engine`, and for a graph that is not the card's.
    """
    arch, longest = card.arch, card.sequence_length
    # 4 bytes for each weight, twice that for scales and the like, and what has no weights.
    graph = read_graph(folder, largest=2**25 + 8 * parameters(arch))
    try:
        check_graph(graph, layers=arch.layers, outputs=arch.outputs)
    except QualaError as error:
        raise QualaError(f"`{folder / GRAPH}` is no graph of this export: {error}") from error
    full = LengthConfig.full(layers=arch.layers, sequence_length=longest)
    engine = open_engine(runtime, graph, full, threads=threads)
    words = np.full((1, longest), arch.vocabulary - 1, dtype=np.int64)
    segments = (np.arange(longest) > 0).astype(np.int64)[None]
    found = engine.logits(
        {"input_ids": words, "attention_mask": np.ones_like(words), "segment_ids": segments}, None
    )
    if found.shape[-1] != arch.outputs or not np.isfinite(found).all():
        raise QualaError(f"`{folder / GRAPH}` is damaged: it gives values that are no logits.")
    return engine


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Raise QualaError for what goes wrong in a graph that quala did not write."""
    try:
        yield
    except (QualaError, MemoryError):
        raise
    except Exception as error:  # specializing, and each runtime, raise errors of many kinds
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise QualaError(f"{what}: {reason}") from error


def _warn_of_saturation(graph: onnx.ModelProto) -> None:
    kinds = {tensor.data_type for tensor in graph.graph.initializer}
    found = processor()
    if onnx.TensorProto.INT8 in kinds and saturates(found["instructions"]):
        log.warning(
            "%s has %s but no VNNI or AMX: int8 products may saturate at 16 bits, which costs "
            "accuracy; the float model does not.",
            found["name"],
            found["instructions"],
        )


class OrtEngine(GraphEngine):
    """Runs on the CPU with a stated number of threads."""

    name = "onnxruntime"
    fuse = True
    shared_arena = True

    def compile(self, graph: bytes, outputs: list[str]) -> Compiled:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised, and need not be logged as well
        # Each graph has threads of its own; those of the last call must not spin on in the next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self.shared_arena:
            _register_arena()
            options.add_session_config_entry("session.use_env_allocators", "1")
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        names = {item.name for item in session.get_inputs()}

        def run(feeds: Arrays) -> list[NDArray[Any]]:
            wanted = {name: values for name, values in feeds.items() if name in names}
            return list(session.run(outputs, wanted))

        return run


@cache
def _register_arena() -> None:
    """Give all graphs of this process one arena; each of its own would keep its largest batch."""
    import onnxruntime as ort

    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(memory, None)


class OpenVinoEngine(GraphEngine):
    """Runs on the CPU with a stated number of threads, one request per calling thread."""

    name = "openvino"

    def compile(self, graph: bytes, outputs: list[str]) -> Compiled:
        try:
            import openvino
        except ImportError as error:
            raise QualaError(
                "The runtime openvino is not installed: pip install 'quala[openvino]'."
            ) from error
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            read = core.read_model(model=graph)
            _keep_the_earlier(read)
            model = core.compile_model(read, "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise QualaError(f"OpenVINO cannot load the graph: {reason}") from error
        names = {port.any_name for port in model.inputs}
        requests = local()

        def run(feeds: Arrays) -> list[NDArray[Any]]:
            if not hasattr(requests, "own"):
                requests.own = model.create_infer_request()
            wanted = {name: values for name, values in feeds.items() if name in names}
            found = requests.own.infer(wanted)
            return [np.array(found[name]) for name in outputs]

        return run


def _keep_the_earlier(model: Any) -> None:
    """Rank tokens of equal scores by their places, as PyTorch and ONNX Runtime do."""
    from openvino import opset11

    for node in model.get_ops():
        if node.get_type_name() != "TopK" or node.get_attributes()["mode"] != "max":
            continue
        stable = opset11.topk(*node.input_values(), **node.get_attributes() | {"stable": True})
        for output, other in zip(node.outputs(), stable.outputs(), strict=True):
            output.replace(other)
