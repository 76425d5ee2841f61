"""The same float model as other tools make it fast: what `quala bench --peers` times beside.

Each peer gets what its own users have: the graph that PyTorch exports, fused by ONNX Runtime's
optimizer for transformers, or read by OpenVINO as it is. Calibration sees `samples`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quala.errors import QualaError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quala.lengths import LengthConfig
    from quala.runtime.engine import Inputs, Kept

NAMES = {
    "input_ids": "input_ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "segment_ids",
}
"""Inputs of a BERT in transformers, and what quala calls them."""
OPSET = 17

Run = Callable[[dict[str, NDArray[np.int64]]], list[NDArray[Any]]]


@dataclass(frozen=True)
class PeerEngine:
    """A peer as an engine: it knows no lengths."""

    name: str
    run: Run

    def logits(self, inputs: Inputs, lengths: LengthConfig | None) -> NDArray[np.float32]:
        """Return the logits (B, n, 2) of answers, (B, K) of texts."""
        found = self.run({name: np.ascontiguousarray(inputs[own]) for name, own in NAMES.items()})
        whole = found[0] if len(found) == 1 else np.stack(found, axis=-1)
        return np.asarray(whole, dtype=np.float32)

    def survivors(self, inputs: Inputs, lengths: LengthConfig) -> tuple[NDArray[np.float32], Kept]:
        """Return the logits and no layers."""
        return self.logits(inputs, lengths), {}


@dataclass(frozen=True)
class Source:
    """A float model, and what its peers are made from: files in the folder `work`."""

    model: PreTrainedModel
    work: Path
    samples: Sequence[Inputs]
    threads: int

    @property
    def outputs(self) -> list[str]:
        """The outputs of the model's head."""
        answers = hasattr(self.model, "qa_outputs")
        return ["start_logits", "end_logits"] if answers else ["logits"]

    @property
    def graph(self) -> Path:
        """The graph that PyTorch exports, of any batch and length."""
        import torch

        file = self.work / "exported.onnx"
        if not file.is_file():
            inputs = {name: torch.ones(2, 16, dtype=torch.long) for name in NAMES}
            whole = [*NAMES, *self.outputs]
            axes = {
                name: {0: "batch"} if name == "logits" else {0: "batch", 1: "tokens"}
                for name in whole
            }
            torch.onnx.export(
                self.model, (), str(file), kwargs=inputs, input_names=list(NAMES),
                output_names=self.outputs, dynamic_axes=axes, opset_version=OPSET, dynamo=False,
            )  # fmt: skip
        return file

    @property
    def fused(self) -> Path:
        """The graph after ONNX Runtime's optimizer for transformers."""
        from onnxruntime.transformers.optimizer import optimize_model

        file = self.work / "fused.onnx"
        if not file.is_file():
            config: Any = self.model.config
            heads, hidden = config.num_attention_heads, config.hidden_size
            optimize_model(
                str(self.graph), "bert", num_heads=heads, hidden_size=hidden, opt_level=1
            ).save_model_to_file(str(file))
        return file


def _torch(source: Source) -> Run:
    import torch

    from quala.runtime.engine import torch_threads

    def run(feeds: dict[str, NDArray[np.int64]]) -> list[NDArray[Any]]:
        with torch_threads(source.threads), torch.inference_mode():
            found = source.model(**{name: torch.from_numpy(one) for name, one in feeds.items()})
        return [found[name].numpy() for name in source.outputs]

    return run


def _session(source: Source, file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = source.threads, 1
    # As in quala's engine: idle threads of one graph must not spin on in the time of the next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    return lambda feeds: list(session.run(source.outputs, feeds))


def _ort(source: Source) -> Run:
    return _session(source, source.fused)


def _ort_dynamic(source: Source) -> Run:
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = source.work / "dynamic.onnx"
    # The types of fused nodes cannot be inferred.
    types = {"DefaultTensorType": TensorProto.FLOAT}
    quantize_dynamic(source.fused, file, weight_type=QuantType.QInt8, extra_options=types)
    return _session(source, file)


def _openvino(source: Source, model: Any = None, **settings: Any) -> Run:
    import openvino

    core = openvino.Core()
    known = {"INFERENCE_NUM_THREADS": source.threads, "NUM_STREAMS": 1}
    read = core.read_model(source.graph) if model is None else model
    compiled = core.compile_model(
        read, "CPU", {**known, "PERFORMANCE_HINT": "LATENCY", **settings}
    )
    request = compiled.create_infer_request()

    def run(feeds: dict[str, NDArray[np.int64]]) -> list[NDArray[Any]]:
        found = request.infer(feeds)
        return [np.array(found[name]) for name in source.outputs]

    return run


def _openvino_fp32(source: Source) -> Run:
    return _openvino(source, INFERENCE_PRECISION_HINT="f32")


def _nncf(source: Source) -> Run:
    import nncf
    import openvino

    feeds = [{name: one[own] for name, own in NAMES.items()} for one in source.samples]
    rounded = nncf.quantize(
        openvino.Core().read_model(source.graph),
        nncf.Dataset(feeds),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(feeds),
    )
    return _openvino(source, rounded)


def _ctranslate2(source: Source) -> Run:
    import ctranslate2

    hf: Any = source.model
    folder, out = source.work / "model", source.work / "ctranslate2"
    # Written by transformers before 5, and read by the converter.
    hf.config.position_embedding_type = "absolute"
    hf.save_pretrained(folder)
    converter = ctranslate2.converters.TransformersConverter(str(folder))
    converter.convert(str(out), quantization="int8", force=True)
    encoder = ctranslate2.Encoder(
        str(out), device="cpu", intra_threads=source.threads, inter_threads=1
    )
    weight, bias = (one.detach().numpy() for one in (hf.qa_outputs.weight, hf.qa_outputs.bias))

    def run(feeds: dict[str, NDArray[np.int64]]) -> list[NDArray[Any]]:
        ids = feeds["input_ids"].astype(np.int32)
        lengths = feeds["attention_mask"].sum(axis=1).astype(np.int32)
        found = encoder.forward_batch(
            ctranslate2.StorageView.from_array(ids),
            ctranslate2.StorageView.from_array(lengths),
            token_type_ids=feeds["token_type_ids"].tolist(),
        )
        return [np.array(found.last_hidden_state) @ weight.T + bias]

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the advice of tools that make a peer; what they print is no part of our output."""
    from transformers.utils.logging import disable_progress_bar

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    disable_progress_bar()
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@dataclass(frozen=True)
class Peer:
    """How a peer is made, the package that it needs, and whether it is for answers alone."""

    make: Callable[[Source], Run]
    package: str = ""
    answers: bool = False


PEERS: Mapping[str, Peer] = {
    "PyTorch fp32": Peer(_torch),
    "ONNX Runtime fp32": Peer(_ort),
    "ONNX Runtime int8, dynamic": Peer(_ort_dynamic),
    "OpenVINO fp32": Peer(_openvino_fp32, "openvino"),
    "OpenVINO as it comes": Peer(_openvino, "openvino"),  # bfloat16 where the processor has it
    "OpenVINO int8, NNCF": Peer(_nncf, "nncf"),
    "CTranslate2 int8": Peer(_ctranslate2, "ctranslate2", answers=True),
}


def float_model(folder: Path, *, answers: bool) -> PreTrainedModel:
    """Open the float checkpoint that the peers are made from.

    Raises QualaError for one that is no BERT with a head for the task.
    """
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    from quala.models.load import read_config

    kind = AutoModelForQuestionAnswering if answers else AutoModelForSequenceClassification
    config = read_config(folder)
    if config.model_type != "bert":
        raise QualaError(f"`--peers` takes a BERT, got a {config.model_type}: `{folder}`.")
    model, notes = kind.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if notes["missing_keys"]:
        raise QualaError(f"`{folder}` has no head for this task: {notes['missing_keys']}.")
    opened: PreTrainedModel = model.eval()
    return opened


def peer_engines(source: Source) -> tuple[dict[str, PeerEngine], dict[str, str]]:
    """Make the peers; return them, and why the others are left out."""
    made: dict[str, PeerEngine] = {}
    left_out: dict[str, str] = {}
    for name, peer in PEERS.items():
        if peer.package and find_spec(peer.package) is None:
            left_out[name] = f"{peer.package} is not installed: pip install 'quala[peers]'"
        elif peer.answers and len(source.outputs) == 1:
            left_out[name] = "it is for question answering here"
        else:
            try:
                with _quiet():
                    made[name] = PeerEngine(name, peer.make(source))
            except Exception as error:  # of a tool that is not ours: the others are timed
                reason = str(error).strip().partition("\n")[0]
                left_out[name] = f"{type(error).__name__}: {reason}"
    return made, left_out
