"""What every recipe composes to: the identity of each stage that its workflow runs.

A composition is a workflow with overrides. Its stages are those that the script asks for, planned
by the real `Flow`; the data's content and the start models, which would need a network, stand by
their specification and name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from golden.stored import Stored, lines
from golden.use import conf_folder, find_workflow, identities, workflow_names

FILE = Path(__file__).parent / "compositions.json"
CONF = conf_folder()
SQUAD, GLUE = ["data.path=squad"], ["data.path=sst2"]
NEEDED = {
    "squad_cpu": SQUAD,
    "glue_cpu": GLUE,
    "compress": GLUE,
    "compress_embeddings": ["data.path=stsb"],
    "triples": ["data.path=umls"],
    "triples_cpu": ["data.path=umls"],
    "data=triples": ["data.path=umls"],
    "tracking=server": ["tracking.uri=http://host:5000"],
}
"""What a recipe leaves open, by what a person would give."""
OWN_STAGES = {
    "stage/refine": "binarybert",
    "stage/refine=xtc": "xtc",
    "stage/distill=ternarybert": "ternarybert",
    "stage/distill=binarybert": "binarybert",
    "stage/distill=kdlsq": "kdlsq",
    "stage/distill=autompq": "autompq",
    "stage/bits": "autompq",
    "stage/distill=xtc": "kdlsq",
    "stage/distill=ladabert": "ladabert",
    "stage/distill=moebert": "moebert",
    "stage/distill=moebert_int8": "moebert",
    "stage/distill=rosita": "rosita",
    "stage/distill=oberta": "oberta",
    "stage/distill=hsk_states": "hsk",
    "stage/refine=hsk": "hsk",
    "stage/length_adapt=dynabert": "dynabert",
    "stage/quantize=ibert": "ibert",
    "stage/distill=tinybert": "dynamic_tinybert",
    "stage/length_adapt=tinybert": "dynamic_tinybert",
    "stage/quantize=kdlsq": "compound",
    "stage/quantize=xtc": "compound",
}
"""The workflow that an option of conf/stage is for, where it is not `quala_minilm`."""
MIXED = {
    "compound, half of the layers": (
        "compound",
        ["stage.distill.enabled=true", "stage/distill=xtc_layers", "stage/quantize=xtc"],
    ),
    "compound, lsq at 4 bits": ("compound", ["stage.quantize.quantizers.weight_bits=4"]),
    "dynamic_tinybert, with LengthDrop": (
        "dynamic_tinybert", ["stage.length_adapt.enabled=true"]
    ),
    "dynamic_tinybert, rounded": (
        "dynamic_tinybert",
        ["stage.quantize.enabled=true", "stage.refine.significance=question"],
    ),
    "kdlsq, 4 bits": ("kdlsq", ["stage.distill.quantizers.weight_bits=4"]),
    "kdlsq, cached teacher": (
        "kdlsq", ["+cache@stage.distill.cache=hsk", "stage.distill.attention=0"]
    ),
    "ladabert, int8": ("ladabert", ["stage/distill=ladabert_int8"]),
    "ladabert, ratio 10": ("ladabert", ["stage.distill.shrink.ratio=10"]),
    "binarybert, lat": ("binarybert", ["stage.distill.quantizers.weight_quantizer=lat"]),
    "xtc, in one training": (
        "xtc", ["stage/distill=xtc", "stage.refine.enabled=false", "stage.distill.max_steps=60"]
    ),
    "quala_minilm, without search": ("quala_minilm", ["stage.search.enabled=false"]),
    "quala_minilm, another seed": ("quala_minilm", ["seed=3"]),
}  # fmt: skip


def compositions() -> dict[str, tuple[str, list[str]]]:
    """Return a workflow and overrides by name: experiments, options and crossings."""
    found: dict[str, tuple[str, list[str]]] = {}
    for file in sorted((CONF / "experiment").rglob("[!_]*.yaml")):
        if file.parent.name.startswith("_"):
            continue
        name = file.relative_to(CONF / "experiment").with_suffix("").as_posix()
        folder = name.partition("/")[0]
        workflow = folder if folder in workflow_names() else "quala_minilm"
        words = [f"experiment={name}", *NEEDED.get(file.stem, [])]
        found[f"{workflow}, experiment={name}"] = (workflow, words)
    groups = [CONF / group for group in ("data", "model", "tracking")]
    for folder in (*groups, *sorted((CONF / "stage").iterdir())):
        for file in sorted(folder.glob("[!_]*.yaml")):
            option = f"{folder.relative_to(CONF).as_posix()}={file.stem}"
            group = option.partition("=")[0]
            workflow = OWN_STAGES.get(option, OWN_STAGES.get(group, "quala_minilm"))
            words = ["~experiment", option, *NEEDED.get(option, [])]
            found[f"{workflow}, {option}"] = (workflow, words)
    return found | MIXED


PLANS = {
    **{name: (name, []) for name in workflow_names()},
    "quala_minilm, squad_cpu": ("quala_minilm", ["experiment=squad_cpu"]),
    "quala_minilm, glue_cpu": ("quala_minilm", ["experiment=glue_cpu"]),
}
"""Whole fingerprints by `quala plan`: the demos, and data in files."""


def planned(name: str, store: Stored) -> dict[str, str]:
    """Return the fingerprint of each stage that `quala plan` says would run."""
    workflow, words = PLANS[name]
    data = store.folder / "data"
    if words:
        data.mkdir()
        for split in ("train", "validation"):
            (data / f"{split}.tsv").write_text("sentence\tlabel\nthe first\t0\n")
        words = [*words, f"data.path={data}"]
    stages = store.run(workflow, *words, verb="plan")["stages"]
    return {one["stage"]: one["fingerprint"] for one in stages if one["status"] != "disabled"}


def composed(name: str) -> dict[str, dict[str, Any]]:
    """Return the identity and the fingerprint of each stage of a composition."""
    workflow, words = compositions()[name]
    return identities(find_workflow(workflow), words)


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return the scalars and lists of nested mappings by their dotted paths."""
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= leaves(item, f"{path}.{key}" if path else str(key))
    return found


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say in which leaves two identities differ."""
    before, after = leaves(old), leaves(new)
    return [
        f"{key}: {before.get(key, 'unset')!r} -> {after.get(key, 'unset')!r}"
        for key in sorted({*before, *after})
        if before.get(key, ...) != after.get(key, ...)
    ]


def digest(identity: Mapping[str, Any]) -> str:
    """Return the name under which an identity is kept, once for all that share it."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write(plans: Mapping[str, Mapping[str, str]]) -> None:
    """Write the golden file: one line for each identity, composition and plan."""
    kept: dict[str, Any] = {}
    found: dict[str, dict[str, list[str]]] = {}
    for name in compositions():
        found[name] = {}
        for stage, identity in composed(name).items():
            print_ = identity.pop("fingerprint", "")
            kept[digest(identity)] = identity
            found[name][stage] = [digest(identity), print_[:16]]
    parts = {"identities": dict(sorted(kept.items())), "compositions": found, "plans": plans}
    FILE.write_text(lines({part: lines(content) for part, content in parts.items()}, nested=True))
