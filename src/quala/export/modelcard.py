"""The README.md of an export."""

from __future__ import annotations

from pathlib import Path

from quala.runtime.card import Card, Point
from quala.runtime.engine import GRAPH

TEXT = """# {name}

A length-adaptive {precision} encoder for {task}, made with quala.
One graph serves every budget: the tokens that each layer keeps are an input.

```
quala answer {folder} --question "..." --context @file.txt --budget-ms 5
```

| | |
| --- | --- |
| layers x width | {layers} x {hidden} |
| parameters in the file | {megabytes:.1f} MB ({graph}) |
| longest window | {sequence_length} tokens, stride {doc_stride} |
| ranking of tokens | {significance} |
| times measured with | {timing} |

## Front

{table}

`ms` is one input of {tokens} tokens. The score was measured on the test set, once for each row.

## Provenance

{provenance}

Licence: {licence}.
"""


def model_card(card: Card, folder: Path) -> str:
    """Return the model card of an export that lies in `folder`."""
    counts = sorted(card.full.ms)
    middle = counts[len(counts) // 2] if counts else 0
    timing = ", ".join(
        f"{key} {value['name'] if isinstance(value, dict) else value}"
        for key, value in card.timing.items()
    )
    return TEXT.format(
        name=card.name,
        precision=card.precision,
        task=card.task.replace("-", " "),
        folder=folder.name,
        layers=card.arch.layers,
        hidden=card.arch.hidden,
        megabytes=(folder / GRAPH).stat().st_size / 1e6,
        graph=GRAPH,
        sequence_length=card.sequence_length,
        doc_stride=card.doc_stride,
        significance=card.significance,
        timing=timing or "nothing",
        table=_table(card, middle),
        tokens=middle or "-",
        provenance="\n".join(f"- {key}: {value}" for key, value in card.provenance.items()) or "-",
        licence=card.licence,
    )


def _table(card: Card, tokens: int) -> str:
    lines = [
        f"| Tokens per layer | {card.metric} | GMACs padded | GMACs mean | ms |",
        "| --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(_row(point, tokens) for point in card.front)])


def _row(point: Point, tokens: int) -> str:
    score = "-" if point.score is None else f"{point.score:.2f}"
    time = f"{point.ms[tokens]:.2f}" if point.ms else "-"
    lengths = str(point.lengths) if any(point.lengths.drops) else "full"
    padded, mean = point.macs_padded / 1e9, point.macs_mean / 1e9
    return f"| {lengths} | {score} | {padded:.3f} | {mean:.3f} | {time} |"
