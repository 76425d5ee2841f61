"""`quala bench`: what an export's points cost in time, beside a baseline."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from quala.commands.locate import add_model, locate_model
from quala.commands.output import show, write_json
from quala.errors import QualaError

if TYPE_CHECKING:
    from quala.runtime.bench import Entry, Timing
    from quala.runtime.card import Card
    from quala.runtime.engine import Engine


def main(argv: Sequence[str]) -> int:
    """Time and print. Raises QualaError for models, runtimes and sizes that cannot be."""
    arguments = _parser().parse_args(argv)
    batches = _batches(arguments.batch)
    folder = locate_model(arguments.model, arguments.tracking_uri)
    from quala.runtime.bench import compare, token_counts
    from quala.runtime.card import Card
    from quala.runtime.engine import Facts, open_engine, read_graph
    from quala.runtime.hardware import processor

    if arguments.threads < 1:
        raise QualaError(f"`--threads` must be at least 1, got {arguments.threads}.")
    card = Card.read(folder)
    counts = token_counts(arguments.data, longest=card.sequence_length)
    facts = Facts(card.arch.layers, card.arch.heads, card.sequence_length)
    engine = open_engine(arguments.runtime, read_graph(folder), facts, threads=arguments.threads)
    entries = [*_baselines(arguments, card), *_points(card, engine)]
    found: list[Timing] = []
    for batch in batches:
        found += compare(entries, counts * arguments.repeats, batch=batch)
    machine = processor()
    if arguments.json:
        write_json(
            {
                "model": card.name,
                "runtime": arguments.runtime,
                "threads": arguments.threads,
                "data": arguments.data,
                "processor": machine,
                "timings": [asdict(timing) for timing in found],
            }
        )
        return 0
    show(
        _table(found, card.name),
        f"{arguments.runtime}, {arguments.threads} threads, {machine['name']} "
        f"({machine['instructions']}), inputs: {arguments.data}; ms per input, interleaved",
    )
    return 0


def _baselines(arguments: argparse.Namespace, card: Card) -> list[Entry]:
    """Return the baseline with random weights (its time does not depend on them), twice."""
    if arguments.baseline == "none":
        return []
    import torch

    from quala.data.task import Task
    from quala.export.encoder import build_graph
    from quala.runtime.bench import Entry
    from quala.runtime.engine import Facts, open_engine
    from quala.stages.reference import random_model

    model = random_model(arguments.baseline, Task("question-answering", 2, "f1")).eval()
    longest = card.sequence_length
    facts = Facts(model.arch.layers, model.arch.heads, longest)
    graph = build_graph(model, sequence_length=longest)
    engine = open_engine(arguments.runtime, graph, facts, threads=arguments.threads)

    def with_torch(words: Any) -> None:
        torch.set_num_threads(arguments.threads)
        with torch.inference_mode():
            model({name: torch.from_numpy(values) for name, values in words.items()})

    name = f"{arguments.baseline} fp32, random weights"
    return [
        Entry(f"{name}, PyTorch, padded to {longest}", with_torch, pad_to=longest),
        Entry(f"{name}, {arguments.runtime}", lambda words: engine.logits(words, None)),
    ]


def _points(card: Card, engine: Engine) -> list[Entry]:
    from quala.runtime.bench import Entry

    return [
        Entry(
            f"{card.precision} {point.lengths if any(point.lengths.drops) else 'full'}",
            lambda words, lengths=point.lengths: engine.logits(words, lengths),  # type: ignore[misc]
        )
        for point in card.front
    ]


def _table(found: Sequence[Timing], name: str) -> Table:
    table = Table(title=name, title_justify="left")
    table.add_column("Model")
    for heading in ("Batch", "Median ms", "p10 to p90", "Speed-up"):
        table.add_column(heading, justify="right")
    for timing in found:
        table.add_row(
            timing.name,
            str(timing.batch),
            f"{timing.median:.2f}",
            f"{timing.p10:.2f} to {timing.p90:.2f}",
            f"{timing.ratio:.2f}x",
        )
    return table


def _batches(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise QualaError(f"`--batch` wants whole numbers like 1,8,32, got `{text}`.") from error
    if min(sizes) < 1:
        raise QualaError(f"`--batch` sizes must be at least 1, got `{text}`.")
    return sizes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quala bench", description=__doc__)
    add_model(parser)
    parser.add_argument(
        "--baseline",
        default="bert-base",
        help="a preset of `quala cost`, or none (default: bert-base)",
    )
    parser.add_argument("--batch", default="1", metavar="N,N,...", help="batch sizes (default: 1)")
    parser.add_argument(
        "--data", default="natural", help="natural (SQuAD's lengths) or a number of tokens"
    )
    parser.add_argument(
        "--runtime", default="onnxruntime", help="onnxruntime (default) or openvino"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    parser.add_argument(
        "--repeats", type=int, default=1, help="passes over the inputs (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
