"""ONNX Runtime, the default: portable, on every platform that has Python."""

from __future__ import annotations

from functools import cache
from typing import Any

from numpy.typing import NDArray

from quala.errors import QualaError
from quala.runtime.engine import Arrays, Compiled, GraphEngine


class OrtEngine(GraphEngine):
    """Runs on the CPU with a stated number of threads."""

    name = "onnxruntime"
    fuse = True
    shared_arena = True

    def compile(self, graph: bytes, outputs: list[str]) -> Compiled:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Each graph has threads of its own; those of the last call must not spin on in the next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self.shared_arena:
            _register_arena()
            options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except (Fail, InvalidGraph) as error:
            reason = str(error).partition("\n")[0]
            raise QualaError(f"ONNX Runtime cannot load the graph: {reason}") from error
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
