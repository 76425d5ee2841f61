"""What each piece of a cheap token drop saves, against the same integer model at full length.

    python benchmarks/dropping.py                                        # random weights
    python benchmarks/dropping.py --tokens 164 --lengths 384,128,128,128,128,128 --runtime openvino

The model is a MiniLM-L6-H384 with random weights in int8: time does not depend on them. Each row
leaves one piece out or puts another in its place; all rows are timed interleaved, one input at a
time, and a ratio is full length over the row.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.table import Table

from quala.compress.quantize.config import QuantizeConfig
from quala.compress.quantize.integer import to_integer
from quala.compress.quantize.transform import calibrate, quantize
from quala.cost import macs
from quala.data.task import Span
from quala.graph.encoder import build_graph
from quala.graph.specialize import Shape, specialize
from quala.lengths import LengthConfig
from quala.models.adaptive import LengthAdaptiveModel
from quala.runtime.engine import GraphEngine, Inputs, open_engine
from quala.runtime.timing import interleaved, synthetic_inputs
from quala.stages.measure import random_model

LONGEST = 384
TASK = Span()


@dataclass(frozen=True)
class Variant:
    """One way to run the same lengths; `shape` None leaves the choice to the engine."""

    name: str
    significance: str = "span"
    fused: bool = True
    shape: Shape | None = None


def main() -> None:
    """Build the variants, time them side by side, print one table."""
    arguments = parse()
    lengths = LengthConfig.parse(arguments.lengths, layers=6, sequence_length=LONGEST)
    full = LengthConfig.full(layers=6, sequence_length=LONGEST)
    batch = synthetic_inputs([arguments.tokens] * arguments.batch)
    drops = frozenset(layer for layer, drop in enumerate(lengths.drops) if drop)
    variants = [
        Variant("as deployed"),
        Variant("no fused attention", fused=False),
        Variant("padding's mask kept", shape=Shape(drops, padded=True)),
        Variant("one graph for all lengths (If)", shape=Shape(None, padded=True)),
        Variant("question's rows rank", significance="question"),
        Variant("column sum ranks", significance="column_sum"),
    ]
    graphs = {name: integer_graph(name) for name in {v.significance for v in variants}}
    runs: dict[str, Callable[[], object]] = {}
    whole = engine(arguments, graphs["span"], fused=True)
    runs["full length"] = lambda: whole.logits(batch, full)
    for variant in variants:
        runs[variant.name] = runner(arguments, graphs, variant, batch, lengths)
    show(time_all(runs, arguments.repeats), arguments, lengths)


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lengths", default="384,128,128,128,128,128")
    parser.add_argument("--tokens", type=int, default=384)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--repeats", type=int, default=30)
    return parser.parse_args()


def integer_graph(significance: str) -> onnx.ModelProto:
    """Return the graph of a random int8 model that ranks tokens in a given way."""
    torch.manual_seed(0)
    plain = random_model("minilm-l6-h384", TASK)
    model = LengthAdaptiveModel(plain.hf, significance=significance).eval()
    batch = {name: torch.from_numpy(values) for name, values in synthetic_inputs([64, 64]).items()}

    def observe() -> None:
        model(batch)

    quantize(model.hf, QuantizeConfig())
    calibrate(model.hf, observe)
    to_integer(model.hf, inplace=True)
    return build_graph(model, sequence_length=LONGEST)


def engine(arguments: argparse.Namespace, graph: onnx.ModelProto, *, fused: bool) -> GraphEngine:
    """Open a graph, with or without the fused attention."""
    full = LengthConfig.full(layers=6, sequence_length=LONGEST)
    opened = open_engine(arguments.runtime, graph, full, threads=arguments.threads)
    opened.fuse = opened.fuse and fused
    return opened


def runner(
    arguments: argparse.Namespace,
    graphs: dict[str, onnx.ModelProto],
    variant: Variant,
    batch: Inputs,
    lengths: LengthConfig,
) -> Callable[[], object]:
    """Return what one call of a variant does."""
    graph = graphs[variant.significance]
    opened = engine(arguments, graph, fused=variant.fused)
    if variant.shape is None:
        return lambda: opened.logits(batch, lengths)
    small = specialize(graph, variant.shape)
    names = [output.name for output in small.graph.output]
    compiled = opened.compile(small.SerializeToString(), names)
    feeds = {**batch, "lengths": np.array(lengths.lengths)}
    return lambda: compiled(feeds)


def time_all(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return milliseconds, every run once before any runs again; three runs warm up."""
    times = interleaved([[run] * repeats for run in runs.values()], warmup=3)
    return dict(zip(runs, times, strict=True))


def show(
    taken: dict[str, list[float]], arguments: argparse.Namespace, lengths: LengthConfig
) -> None:
    """Print medians and ratios."""
    arch = random_model("minilm-l6-h384", TASK).arch
    count = arguments.tokens
    saved = macs(arch, (count,) * 6, count) / macs(arch, lengths.kept(count), count)
    base = statistics.median(taken["full length"])
    table = Table(
        title=f"{arguments.runtime}, {arguments.threads} threads, {arguments.batch} x {count} "
        f"tokens, lengths {lengths} of {LONGEST}: {saved:.2f}x fewer MACs",
        title_justify="left",
    )
    table.add_column("Run")
    table.add_column("Median ms", justify="right")
    table.add_column("p10 to p90", justify="right")
    table.add_column("Full / this", justify="right")
    for name, times in taken.items():
        deciles = statistics.quantiles(times, n=10)
        median = statistics.median(times)
        table.add_row(
            name,
            f"{median:.2f}",
            f"{deciles[0]:.2f} to {deciles[-1]:.2f}",
            f"{base / median:.2f}x",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
