"""OpenVINO, the fastest on x86; an extra: `pip install quala[openvino]`."""

from __future__ import annotations

from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quala.errors import QualaError
from quala.runtime.engine import Arrays, Compiled, GraphEngine


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
            model = core.compile_model(core.read_model(model=graph), "CPU", settings)
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
