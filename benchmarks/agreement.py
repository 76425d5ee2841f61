"""Whether the runtimes answer as PyTorch does, and how far int8 rounding alone moves answers.

    python benchmarks/agreement.py CHECKPOINT --data FOLDER --questions 1000 --lengths 384,...

Every runtime answers the same dev questions with the exported checkpoint. Each row is set against
the first, PyTorch: answers that are the same to the letter, the difference in F1, and its 95 %
interval from a paired bootstrap over questions (seed 0). `fused attention off` is ONNX Runtime
once more with the same graph and other kernels: what it differs by, rounding alone explains.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from quala.checkpoint import Checkpoint, load_with_data
from quala.data.features import equal_lengths
from quala.data.spec import DataSpec
from quala.graph.encoder import build_graph
from quala.lengths import LengthConfig
from quala.metrics.squad import answer_f1
from quala.runtime.engine import Engine, OrtEngine, TorchEngine, open_engine


class Unfused(OrtEngine):
    """ONNX Runtime without its fused attention."""

    fuse = False


def main() -> None:
    """Answer in every runtime and print one table for each length configuration."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    spec = DataSpec(task="squad", path=arguments.data, max_test=arguments.questions)
    opened = load_with_data(arguments.checkpoint, spec)
    engines = open_engines(opened, arguments.runtimes, arguments.threads)
    sizes = {"layers": opened.model.num_layers, "sequence_length": spec.max_length}
    for text in arguments.lengths or [""]:
        lengths = LengthConfig.parse(text, **sizes) if text else None
        compare(opened, engines, lengths)


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True, help="a SQuAD folder")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--lengths", action="append", help="may be repeated; full without it")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def open_engines(opened: Checkpoint, runtimes: Sequence[str], threads: int) -> dict[str, Engine]:
    """Return PyTorch first, then the runtimes, then the one with other kernels."""
    longest = opened.data.spec.max_length
    graph = build_graph(opened.model, sequence_length=longest)
    full = LengthConfig.full(layers=opened.model.num_layers, sequence_length=longest)
    engines: dict[str, Engine] = {"torch": TorchEngine(opened.model)}
    for runtime in runtimes:
        engines[runtime] = open_engine(runtime, graph, full, threads=threads)
    engines["onnxruntime, fused attention off"] = Unfused(graph, full, threads=threads)
    return engines


def compare(opened: Checkpoint, engines: dict[str, Engine], lengths: LengthConfig | None) -> None:
    """Print how the runtimes' answers differ at one length configuration."""
    examples = opened.data.test.examples
    table = Table(title=f"{len(examples)} questions, lengths {lengths or 'full'}")
    for heading in ("Runtime", "F1", "Same answers", "F1 difference", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "Runtime" else "right")
    first: dict[str, str] = {}
    for name, engine in engines.items():
        found = answers(opened, engine, lengths)
        first = first or found
        gained = np.array([f1(found, each) - f1(first, each) for each in examples])
        score = np.mean([f1(found, each) for each in examples])
        same = np.mean([found[each.id] == first[each.id] for each in examples])
        table.add_row(
            name, f"{score:.2f}", f"{100 * same:.1f} %", f"{gained.mean():+.2f}", interval(gained)
        )
    Console().print(table)


def answers(opened: Checkpoint, engine: Engine, lengths: LengthConfig | None) -> dict[str, str]:
    """Return the best answer by question id."""
    part = opened.data.test
    outputs: list[np.ndarray] = [np.empty(0)] * len(part.features)
    for rows in equal_lengths(part.features.lengths, 16):
        logits = engine.logits(part.features.arrays(rows), lengths)
        for row, values in zip(rows, logits, strict=True):
            outputs[row] = values
    return opened.data.judge(part, outputs)[1]


def f1(found: dict[str, str], example: Any) -> float:
    """Return the F1 of one question, 0 to 100."""
    return 100 * answer_f1(found[example.id], example.answers)


def interval(values: np.ndarray) -> str:
    """Return the bootstrap interval of a mean."""
    if not values.any():
        return "-"
    ends = bootstrap((values,), np.mean, rng=0, method="percentile").confidence_interval
    return f"{ends.low:+.2f} to {ends.high:+.2f}"


if __name__ == "__main__":
    main()
