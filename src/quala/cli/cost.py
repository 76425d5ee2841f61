"""`quala cost`: multiply-accumulates, parameters and bytes of an encoder, without loading it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from quala.architecture import CONFIG, Architecture
from quala.cli.arguments import LENGTHS, PLACE, Parser, number, one_of
from quala.cli.output import show, write_json
from quala.cost import (
    PRESETS,
    Precision,
    active_parameters,
    architecture_of,
    macs,
    parameters,
    preset,
    size_bytes,
)
from quala.errors import QualaError
from quala.lengths import MIN_TOKENS, LengthConfig
from quala.stored import read_object

MIB = 2**20


def main(argv: Sequence[str]) -> int:
    """Print what a model costs. Raises QualaError for unknown models and impossible lengths."""
    arguments = _parser().parse_args(argv)
    arch = (
        preset(arguments.preset)
        if arguments.preset
        else architecture_of(read_object(Path(arguments.model) / CONFIG))
    )
    figures = cost_figures(arch, arguments.sequence_length, lengths=arguments.lengths)
    named = {"model": arguments.preset or arguments.model} | figures
    if arguments.json:
        write_json(named)
    else:
        show(_table(named))
    return 0


def cost_figures(
    arch: Architecture, sequence_length: int, *, lengths: Sequence[int] | None
) -> dict[str, Any]:
    """Return the figures of one input; `lengths` None keeps every token in every layer."""
    if not MIN_TOKENS <= sequence_length <= arch.longest:
        raise QualaError(
            f"`--sequence-length` must be from {MIN_TOKENS} to {arch.longest}, got "
            f"{sequence_length}."
        )
    full = LengthConfig.full(layers=arch.layers, sequence_length=sequence_length)
    config = full
    if lengths is not None:
        config = LengthConfig(tuple(lengths), sequence_length)
    spent = macs(arch, config.lengths, sequence_length)
    most = macs(arch, full.lengths, sequence_length)
    return {
        "sequence_length": sequence_length,
        "lengths": list(config.lengths),
        "macs": spent,
        "macs_full_length": most,
        "macs_saved_ratio": most / spent,
        "parameters": parameters(arch),
        **({"active_parameters": active_parameters(arch)} if arch.routed else {}),
        "bytes": {precision: size_bytes(arch, precision) for precision in get_args(Precision)},
    }


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title=str(figures["model"]), show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("Sequence length", f"{figures['sequence_length']:,}")
    table.add_row("Tokens per layer", ", ".join(map(str, figures["lengths"])))
    table.add_row("MACs", f"{figures['macs']:,}")
    table.add_row("MACs at full length", f"{figures['macs_full_length']:,}")
    table.add_row("MACs saved", f"{figures['macs_saved_ratio']:.2f}x")
    table.add_row("Parameters", f"{figures['parameters']:,}")
    if "active_parameters" in figures:
        table.add_row("Parameters that a token passes", f"{figures['active_parameters']:,}")
    for precision, size in figures["bytes"].items():
        table.add_row(f"Bytes, {precision}", f"{size:,} ({size / MIB:.2f} MiB)")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala cost", description=__doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--preset",
        type=one_of("preset", PRESETS),
        metavar="NAME",
        help=f"one of {', '.join(PRESETS)}",
    )
    model.add_argument(
        "--model", type=PLACE, metavar="DIR", help="a Hugging Face folder with a config.json"
    )
    parser.add_argument(
        "--sequence-length", type=number(int, at_least=MIN_TOKENS), default=384, metavar="N"
    )
    parser.add_argument(
        "--lengths",
        type=LENGTHS,
        metavar="A,B,...",
        help="tokens kept per layer (default: all of them)",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
