"""Write one point of an export for other tools: optimum, transformers.js, a runtime by hand.

They want a config.json, the tokenizer, and a graph in the folder onnx with names that they know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from quala.architecture import CONFIG, config_facts
from quala.data.task import Classes, Span, Value
from quala.data.task_embed import Embedding
from quala.data.task_tags import Tags
from quala.data.tokenize import FACTS, FILE, FastTokenizer
from quala.errors import unknown
from quala.graph.standard import EMBEDDING, STARTS, standard_graph
from quala.manifest import write_manifest
from quala.metrics.interval import metric_name, score_text
from quala.onnx_builder import HIDDEN, OUTPUT
from quala.redact import markdown, recorded
from quala.runtime.card import Budget, Card, Point
from quala.runtime.engine import read_graph
from quala.runtime.hub import with_metadata
from quala.stored import read_object


@dataclass(frozen=True, slots=True)
class Usual:
    """What other tools call a kind of task."""

    model: str
    """The class in optimum."""
    pipeline: str
    output: str = OUTPUT


USUAL = {
    Span.kind: Usual("ORTModelForQuestionAnswering", "question-answering", STARTS),
    Classes.kind: Usual("ORTModelForSequenceClassification", "text-classification"),
    Value.kind: Usual("ORTModelForSequenceClassification", "text-classification"),
    Tags.kind: Usual("ORTModelForTokenClassification", "token-classification"),
    Embedding.kind: Usual("ORTModelForFeatureExtraction", "feature-extraction", EMBEDDING),
}
FILES = {"fp32": "model.onnx", "q8": "model_quantized.onnx"}
"""Names of the graph by what transformers.js calls a `dtype`; optimum takes the only one."""
MEANINGS = {
    "input_ids": "token ids",
    "attention_mask": "1 for a token, 0 for padding",
    "token_type_ids": "0 for the first text, 1 for the second",
    "segment_ids": "0 up to the first separator, 1 after it",
    "lengths": "tokens that each layer keeps of {longest}; {longest} everywhere keeps all",
    "start_logits": "where an answer starts",
    "end_logits": "where it ends",
    "logits": "see the labels in config.json",
    "sentence_embedding": "one vector for each text",
    "last_hidden_state": "one vector for each token",
}
TEXT = """# {name}

An encoder for {task} ({precision}) as ONNX with the names that other tools know, made with quala.
It runs at one point of its front: {point}.

| | name | type | shape | |
| --- | --- | --- | --- | --- |
{ports}

Rows of a batch may be padded to any length. The model was made for texts of at most {longest}
tokens.{null}

With optimum:

```python
from optimum.onnxruntime import {model}
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = {model}.from_pretrained(".", file_name="{file}")
```

With transformers.js:

```js
import {{ pipeline }} from "@huggingface/transformers";

const run = await pipeline("{pipeline}", "NAME");
```
{note}
## Provenance

{provenance}

License: {license}.
"""
NULL = """ There is no answer where the first token's start and end logits together are ahead of
those of the best answer by more than {threshold:.4g}."""
DROPS_EMBED = """
At this point there is no `last_hidden_state`, which `ORTModelForFeatureExtraction` and the
pipeline read: take `sentence_embedding` of `ORTModelForCustomTasks` or `AutoModel` instead.
"""
SECTION = """## Inputs and outputs

{table}

ONNX Runtime runs {graph} as it is; OpenVINO refuses it outside of quala. `quala export . --out DIR
--standard` writes one point for optimum, transformers.js and other tools, with the names that they
know.
"""
Port = tuple[str, str, str, str]
"""Input or output, the name, the type and the shape."""


def write_standard(
    source: Path, folder: Path, budget: Budget, license: str | None = None
) -> dict[str, Any]:
    """Write one point of the export `source` into an empty folder; return facts of it.

    The budget is for one input of the longest length; `license` None is that of the export. Raises
    QualaError for an export that cannot be read, for a budget that it cannot keep, and for a task
    that other tools do not have.
    """
    card = Card.read(source)
    card = card if license is None else replace(card, licence=recorded(license))
    if card.task not in USUAL:
        raise unknown("task of other tools", card.task, USUAL)
    usual, (point, note) = USUAL[card.task], card.choose(budget, [card.sequence_length])
    tokenizer = FastTokenizer.read(source, words=card.arch.vocabulary)
    typed = card.arch.type_vocabulary > 1  # else the tokenizer may give no types
    between = tokenizer.layout().between
    graph = standard_graph(
        read_graph(source),
        point.lengths,
        named=usual.output,
        separator=None if typed or not len(between) else int(between[0]),
    )
    dtype = "fp32" if card.precision == "fp32" else "q8"
    file = folder / "onnx" / FILES[dtype]
    file.parent.mkdir()
    file.write_bytes(graph.SerializeToString())
    _write_json(folder / CONFIG, _config(card, tokenizer.pad_token_id, dtype))
    (folder / FILE).write_bytes((source / FILE).read_bytes())
    _write_json(folder / FACTS, _tokenizer_facts(card, read_object(source / FACTS)))
    (folder / "README.md").write_text(_text(card, point, graph, file.name), encoding="utf-8")
    write_manifest(folder)
    return {
        "file": str(file.relative_to(folder)),
        "point": point.lengths.name,
        card.metric: point.score,
        "inputs": [one.name for one in graph.graph.input],
        "outputs": [one.name for one in graph.graph.output],
        "note": note,
    }


def _write_json(file: Path, facts: dict[str, Any]) -> None:
    file.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _config(card: Card, padding: int, dtype: str) -> dict[str, Any]:
    """Return what a config.json says: sizes, and the labels in the order of the outputs."""
    arch, labels = card.arch, card.labels
    names = labels or tuple(f"LABEL_{number}" for number in range(arch.outputs))
    facts: dict[str, Any] = {
        "model_type": arch.family,
        **{key: getattr(arch, name) for name, key in config_facts(arch.family).keys.items()},
        "pad_token_id": padding,
        "transformers.js_config": {"dtype": dtype},
    }
    if card.task not in (Span.kind, Embedding.kind):
        facts["id2label"] = {str(number): name for number, name in enumerate(names)}
        facts["label2id"] = {name: number for number, name in enumerate(names)}
    if card.task == Value.kind:
        facts["problem_type"] = "regression"
    elif card.task == Classes.kind:
        facts["problem_type"] = "single_label_classification"
    return facts


def _tokenizer_facts(card: Card, facts: dict[str, Any]) -> dict[str, Any]:
    """Return tokenizer_config.json so that versions 4 of transformers read it too."""
    facts["model_max_length"] = card.sequence_length
    if facts.get("tokenizer_class") == "TokenizersBackend":
        facts["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(facts.get("extra_special_tokens"), list):
        facts["additional_special_tokens"] = facts.pop("extra_special_tokens")
    return facts


def _text(card: Card, point: Point, graph: onnx.ModelProto, file: str) -> str:
    usual, threshold = USUAL[card.task], card.null_threshold
    made = {one.name for one in graph.graph.output}
    apart = usual.output == EMBEDDING and HIDDEN not in made
    text = TEXT.format(
        name=markdown(card.name),
        precision=card.precision,
        task=card.task.replace("-", " "),
        point=_point_text(card, point),
        ports=_rows(_ports(graph), card),
        longest=card.sequence_length,
        null="" if threshold is None else NULL.format(threshold=threshold),
        model=usual.model,
        pipeline=usual.pipeline,
        file=file,
        note=DROPS_EMBED if apart else "",
        provenance="\n".join(f"- {key}: {markdown(one)}" for key, one in card.provenance.items())
        or "-",
        license=markdown(card.licence),
    )
    return with_metadata(replace(card, test=None), text)  # its results are of other points too


def _point_text(card: Card, point: Point) -> str:
    name = "full length" if point.lengths.is_full else f"tokens per layer {point.lengths.name}"
    if point.score is None:
        return name
    return f"{name}, {metric_name(card.metric)} {score_text(point.score, point.interval)}"


def _ports(graph: onnx.ModelProto) -> Iterable[Port]:
    kinds = {onnx.TensorProto.INT64: "int64", onnx.TensorProto.FLOAT: "float32"}
    for what, infos in (("input", graph.graph.input), ("output", graph.graph.output)):
        for info in infos:
            kind = info.type.tensor_type
            shape = (one.dim_param or str(one.dim_value) for one in kind.shape.dim)
            yield what, info.name, kinds[kind.elem_type], ", ".join(shape)


def _rows(ports: Iterable[Port], card: Card) -> str:
    return "\n".join(
        f"| {what} | `{name}` | {kind} | ({shape}) | "
        f"{MEANINGS[name].format(longest=card.sequence_length)} |"
        for what, name, kind, shape in ports
    )


def inputs_section(card: Card, graph: str) -> str:
    """Return the inputs and outputs of an export's own graph, as a section of its README.md."""
    arch, tokens = card.arch, "batch, tokens"
    per_token = card.task in (Span.kind, Tags.kind)
    ports: list[Port] = [
        *(("input", name, "int64", tokens) for name in ("input_ids", "attention_mask")),
        ("input", "segment_ids", "int64", tokens),
        ("input", "lengths", "int64", str(arch.layers)),
        ("output", OUTPUT, "float32", f"{tokens if per_token else 'batch'}, {arch.outputs}"),
    ]
    head = "| | name | type | shape | |\n| --- | --- | --- | --- | --- |\n"
    table = head + _rows(ports, card).replace(MEANINGS[OUTPUT], "outputs, in the order above")
    return SECTION.format(table=table, graph=graph)
