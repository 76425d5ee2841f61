"""Write an export: the ONNX graph, the tokenizer, the card and README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from quala.compress.quantize.integer import precision_of
from quala.data.spec import Decoding, Windows
from quala.data.task import Span
from quala.errors import QualaError
from quala.export.served import make_servable
from quala.export.standard import inputs_section
from quala.graph.encoder import build_graph
from quala.lengths import LengthConfig, constant_drop, layers_text
from quala.manifest import write_manifest
from quala.metrics.interval import metric_name, score_text
from quala.models.load import label_names
from quala.models.stated import stated_of
from quala.redact import markdown, recorded
from quala.runtime.answerer import PREDICTORS
from quala.runtime.card import FILE, Card, MeasuredData, Point
from quala.runtime.engine import GRAPH, open_engine
from quala.runtime.hardware import Conditions, processor
from quala.runtime.hub import NOT_STATED, README, with_metadata
from quala.runtime.latency_model import time_cases

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from quala.models.adaptive import LengthAdaptiveModel


ASK = 'quala answer . --question "..." --context @file.txt --budget-ms 5'
PREDICT = 'quala predict . --text "..." --budget-ms 5'
BENCH = "quala bench ."
TEXT = """# {name}

A length-adaptive {precision} encoder for {task}, made with quala.
One graph serves every budget: the tokens that each layer keeps are an input.

In this folder:

```
{use}
```

| | |
| --- | --- |
| layers x width | {layers} x {hidden} |
| parameters in the file | {megabytes:.1f} MB ({graph}) |
| longest window | {sequence_length} tokens, stride {doc_stride} |
| ranking of tokens | {significance} |
| outputs | {outputs} |
| times measured with | {timing} |

## Front

{table}

{notes}

{inputs}
## Provenance

{provenance}

License: {license}.
"""


def model_card(card: Card, folder: Path) -> str:
    """Return the model card of an export that lies in `folder`, with the hub's metadata."""
    counts = sorted(card.full.ms)
    middle = counts[len(counts) // 2] if counts else 0
    facts = {**card.timing, "processor": card.timing.get("processor", {}).get("name", "-")}
    found = facts.pop("conditions", None)
    conditions = Conditions(**found) if found else None
    timing = ", ".join(f"{key} {value}" for key, value in facts.items() if card.timing)
    text = TEXT.format(
        name=markdown(card.name),
        use=ASK if card.task == Span.kind else PREDICT if card.task in PREDICTORS else BENCH,
        precision=card.precision,
        task=card.task.replace("-", " "),
        layers=card.arch.layers,
        hidden=card.arch.hidden,
        megabytes=(folder / GRAPH).stat().st_size / 1e6,
        graph=GRAPH,
        sequence_length=card.sequence_length,
        doc_stride=card.doc_stride,
        significance=card.significance,
        outputs=markdown(", ".join(card.labels)) or card.arch.outputs,
        timing=timing or "nothing",
        table=_table(card, middle),
        notes=_notes(card, middle, conditions),
        inputs=inputs_section(card, GRAPH),
        provenance="\n".join(
            f"- {key}: {markdown(value)}" for key, value in card.provenance.items()
        )
        or "-",
        license=markdown(card.licence),
    )
    return with_metadata(card, text)


def _notes(card: Card, tokens: int, conditions: Conditions | None) -> str:
    """Return what a reader of the table has to know."""
    found = [f"`ms` is one input of {tokens or '-'} tokens."]
    found.append(conditions.note if conditions else "")
    if card.full.examples:
        found.append(
            f"The score was measured on the {card.full.examples:,} examples of the test set, once "
            "for each row; in parentheses is its 95 % interval."
        )
    if any(point.units for point in card.front):
        found.append(
            "Heads x neurons are those of each layer that runs, cut out of the same graph when it "
            "is loaded; `-` are all of them."
        )
    if card.full.speedups:
        found.append(
            "Speed-ups are of the median latency per test input, measured side by side with the "
            "model that they are over."
        )
    return " ".join(filter(None, found))


def _table(card: Card, tokens: int) -> str:
    bases = list(dict.fromkeys(name for point in card.front for name in point.speedups))
    elastic = any(point.units for point in card.front)
    heads = [
        "Tokens per layer",
        *(["Heads x neurons"] * elastic),
        metric_name(card.metric),
        *(markdown(f"Speed-up over {name}") for name in bases),
    ]
    heads += ["GMACs padded", "GMACs mean", "ms"]
    rows = [
        heads,
        ["---"] * len(heads),
        *(_row(one, tokens, bases, elastic) for one in card.front),
    ]
    return "\n".join(f"| {' | '.join(texts)} |" for texts in rows)


def _row(point: Point, tokens: int, bases: Sequence[str], elastic: bool) -> list[str]:
    return [
        point.lengths.whole.name,
        *([layers_text(point.units or "-")] * elastic),
        score_text(point.score, point.interval),
        *(f"{point.speedups[name]:.2f}x" if name in point.speedups else "-" for name in bases),
        f"{point.macs_padded / 1e9:.3f}",
        f"{point.macs_mean / 1e9:.3f}",
        f"{point.ms[tokens]:.2f}" if point.ms else "-",
    ]


# Lengths of inputs that are timed; times between them are interpolated.
TOKENS = (64, 128, 192, 256, 384, 512)
# Drop rates of a model without a searched front: steps of 5 %, a guess.
LADDER = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """How an export cuts contexts and decodes answers, is named, and is timed.

    `repeats` 0 leaves the times out. `license` None is the one that the model's own card states.
    `test` are the data of the front's scores.
    """

    windows: Windows
    decoding: Decoding = field(default_factory=Decoding)
    name: str = "quala"
    runtime: str = "onnxruntime"
    threads: int = 1
    repeats: int = 9
    provenance: Mapping[str, str] = field(default_factory=dict)
    license: str | None = None
    test: MeasuredData | None = None


def write_export(
    model: LengthAdaptiveModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    front: Sequence[Point],
    settings: ExportSettings,
) -> Card:
    """Write model.onnx, the tokenizer, quala.json, README.md and a manifest; return the card.

    `front` runs from the full length to the cheapest point. Raises QualaError for `reference`
    semantics and for layers that an export cannot hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    windows, stated = settings.windows, recorded(asdict(stated_of(model.hf.config)))
    license = stated["license"] if settings.license is None else recorded(settings.license)
    own = settings.test.name if settings.test else ""
    graph = build_graph(model, sequence_length=windows.max_length)
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    tokenizer.save_pretrained(folder)
    card = Card(
        name=recorded(settings.name),
        task=model.task.kind,
        metric=model.task.metric,
        precision=precision_of(model),
        significance=model.significance.name,
        sequence_length=windows.max_length,
        doc_stride=windows.doc_stride,
        max_question_length=windows.max_question_length,
        max_answer_length=settings.decoding.max_answer_length,
        n_best=settings.decoding.n_best,
        arch=model.arch,
        labels=label_names(model.task),
        null_threshold=model.task.facts.get("null_threshold"),
        front=tuple(front),
        provenance=recorded(settings.provenance),
        licence=license.strip() or NOT_STATED,
        languages=tuple(stated["languages"]),
        datasets=tuple(dict.fromkeys(filter(None, [own, *stated["datasets"]]))),
        base_model=stated["base_model"],
        test=settings.test,
    )
    if settings.repeats:
        card = _timed(card, graph, settings)
    (folder / FILE).write_text(json.dumps(card.to_json(), indent=2) + "\n", encoding="utf-8")
    (folder / README).write_text(model_card(card, folder), encoding="utf-8")
    make_servable(folder, card.task, null=card.null_threshold is not None)
    write_manifest(folder)
    return card


def ladder(model: LengthAdaptiveModel, longest: int) -> list[Point]:
    """Return the full length and constant drop rates, for a model without a searched front.

    Of an elastic model each sub-network is there at full length, and the smallest at these rates
    too. `longest` is the sequence length that the lengths are shares of.
    """
    layers = model.num_layers
    full = LengthConfig.full(layers=layers, sequence_length=longest)
    rates = [constant_drop(rate, layers=layers, sequence_length=longest) for rate in LADDER]
    smaller = model.structures[1:]
    found = [full, *rates, *map(full.of, smaller)]
    found += [one.of(layers) for layers in smaller[-1:] for one in rates]
    return front_of([Point.unmeasured(model.arch, one) for one in found])


def _timed(card: Card, graph: onnx.ModelProto, settings: ExportSettings) -> Card:
    """Time every point at several input lengths."""
    full = card.full.lengths
    engine = open_engine(settings.runtime, graph, full, threads=settings.threads)
    longest = card.sequence_length
    counts = sorted({count for count in TOKENS if count < longest} | {longest})
    cases = [(point.lengths, count) for point in card.front for count in counts]
    taken, conditions = time_cases(
        engine, cases, repeats=settings.repeats, words=card.arch.vocabulary
    )
    times = iter(taken)
    front = tuple(
        replace(point, ms={count: round(next(times), 3) for count in counts})
        for point in card.front
    )
    timing = {
        "runtime": settings.runtime,
        "threads": settings.threads,
        "repeats": settings.repeats,
        "processor": processor(),
        "conditions": asdict(conditions),
    }
    return replace(card, front=front, timing=timing)


def front_of(points: Sequence[Point]) -> list[Point]:
    """Order points from the full length on. Raises QualaError where that is missing."""
    ordered = sorted(points, key=lambda point: -point.macs_mean)
    if not ordered or not ordered[0].lengths.is_full:
        raise QualaError("An export's front needs the full length as its first point.")
    return ordered
