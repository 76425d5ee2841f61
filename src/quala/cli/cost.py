"""`quala cost`: multiply-accumulates, parameters and bytes of an encoder, without loading it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from quala.architecture import CONFIG, ELASTIC, Architecture
from quala.cli.arguments import PLACE, Parser, number, numbers, one_of, read_lengths
from quala.cli.output import show, write_json
from quala.cost import (
    PRESETS,
    Precision,
    active_parameters,
    architecture_of,
    padded_macs,
    parameters,
    part_of,
    preset,
    size_bytes,
)
from quala.errors import QualaError
from quala.lengths import (
    MIN_TOKENS,
    Layers,
    LengthConfig,
    Units,
    elastic_layers,
    layers_name,
    layers_text,
    read_layers,
)
from quala.stored import read_object, typed

MIB = 2**20


def main(argv: Sequence[str]) -> int:
    """Print what a model costs. Raises QualaError for unknown models and impossible lengths."""
    arguments = _parser().parse_args(argv)
    config = {} if arguments.preset else read_object(Path(arguments.model) / CONFIG)
    arch = preset(arguments.preset) if arguments.preset else architecture_of(config)
    lengths, tokens = arguments.lengths[0], arguments.sequence_length
    trained = typed(list[str], config.get(ELASTIC) or [], ELASTIC)
    parts = [
        cost_figures(arch, tokens, lengths=lengths, layers=layers)
        for layers in _structures(arguments, arch, trained)
    ]
    figures = parts[0] | ({"structures": parts} if len(parts) > 1 else {})
    named = {"model": arguments.preset or arguments.model} | figures
    if arguments.json:
        write_json(named)
    else:
        show(_table(named), *([_space(parts)] if len(parts) > 1 else []))
    return 0


def _structures(
    arguments: argparse.Namespace, arch: Architecture, trained: Sequence[str]
) -> list[Layers]:
    """Return the sub-networks that are asked for, else those that a model was trained for."""
    named, spaces = arguments.lengths[1], (arguments.widths, arguments.depths)
    if named is not None and any(spaces):
        raise QualaError("Give layers after the `@` of `--lengths`, or `--widths` and `--depths`.")
    if not any(spaces):
        names = trained or [""] if named is None else [named]
        return [read_layers(one, layers=arch.layers) if one else () for one in names]
    widths, depths = (sorted(values or (1.0,), reverse=True) for values in spaces)
    units = [Units(size.heads, size.intermediate) for size in arch.sizes]
    return elastic_layers(units, widths, depths)


def cost_figures(
    arch: Architecture,
    sequence_length: int,
    *,
    lengths: Sequence[int] | None,
    layers: Layers = (),
) -> dict[str, Any]:
    """Return the figures of one input; `lengths` None keeps every token in every layer.

    A layer that is left out keeps what the one before it does.
    """
    if not MIN_TOKENS <= sequence_length <= arch.longest:
        raise QualaError(
            f"`--sequence-length` must be from {MIN_TOKENS} to {arch.longest}, got "
            f"{sequence_length}."
        )
    full = LengthConfig.full(layers=arch.layers, sequence_length=sequence_length)
    config = full if lengths is None else LengthConfig(tuple(lengths), sequence_length)
    config = config.of(layers)
    spent, most = padded_macs(arch, config), padded_macs(arch, full)
    part = part_of(arch, layers)
    return {
        "sequence_length": sequence_length,
        "lengths": list(config.lengths),
        **({"layers": layers_name(layers)} if layers else {}),
        "macs": spent,
        "macs_full_length": most,
        "macs_saved_ratio": most / spent,
        "parameters": parameters(part),
        **({"active_parameters": active_parameters(part)} if part.routed else {}),
        "bytes": {precision: size_bytes(part, precision) for precision in get_args(Precision)},
    }


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title=str(figures["model"]), show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("Sequence length", f"{figures['sequence_length']:,}")
    table.add_row("Tokens per layer", ", ".join(map(str, figures["lengths"])))
    if "layers" in figures:
        table.add_row("Heads x neurons", layers_text(figures["layers"]))
    table.add_row("MACs", f"{figures['macs']:,}")
    table.add_row("MACs at full length", f"{figures['macs_full_length']:,}")
    table.add_row("MACs saved", f"{figures['macs_saved_ratio']:.2f}x")
    table.add_row("Parameters", f"{figures['parameters']:,}")
    if "active_parameters" in figures:
        table.add_row("Parameters that a token passes", f"{figures['active_parameters']:,}")
    for precision, size in figures["bytes"].items():
        table.add_row(f"Bytes, {precision}", f"{size:,} ({size / MIB:.2f} MiB)")
    return table


def _space(parts: Sequence[dict[str, Any]]) -> Table:
    table = Table("Heads x neurons", title="Sub-networks at these lengths", title_justify="left")
    for heading in ("MACs", "Saved", "Parameters"):
        table.add_column(heading, justify="right")
    for one in parts:
        numbers = f"{one['macs']:,}", f"{one['macs_saved_ratio']:.2f}x", f"{one['parameters']:,}"
        table.add_row(layers_text(one.get("layers", "all")), *numbers)
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
        type=read_lengths,
        default=(None, None),
        metavar="A,B,...",
        help="tokens kept per layer, or full (default); heads x neurons after an @: full@6x768",
    )
    for name, what in (("widths", "heads and neurons of each layer"), ("depths", "layers")):
        parser.add_argument(
            f"--{name}",
            type=numbers(100, float, above=0, at_most=1),
            metavar="X,Y,...",
            help=f"shares of the {what}, as in `length_adapt`: list these sub-networks",
        )
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
