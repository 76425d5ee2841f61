"""What a user's script and program may lean on: names, fields, signatures, JSON of the verbs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

from golden.stored import CONTEXT, QUESTION, Stored, lines

FILE = Path(__file__).parent / "surface.json"
ASKED = ["--question", QUESTION, "--context", CONTEXT]
BENCH = ["--baseline", "none", "--data", "40", "--repeats", "1"]
PUBLIC = ("Flow", "Stage", "StageConfig", "StageContext", "Candidate")
PASSING = {"milliseconds", "seconds"}


def names() -> dict[str, Any]:
    """Return what can be imported, and its shape."""
    quala, workflow = importlib.import_module("quala"), importlib.import_module("quala.workflow")
    stages = importlib.import_module("quala.stages").STAGES
    importlib.import_module("quala.export.served")._load_pyfunc  # noqa: B018 - must be there
    sweep = importlib.import_module("quala.workflow.sweep").SweepParent
    loaded = get_args(get_type_hints(quala.load)["return"])
    answerer = next(one for one in loaded if hasattr(one, "answer"))
    return {
        "load": _parameters(quala.load),
        "answer": _parameters(answerer.answer),
        "workflow": _parameters(workflow.workflow),
        "all": sorted({*PUBLIC, "workflow"} & set(workflow.__all__)),
        **{name: _shape(getattr(workflow, name)) for name in PUBLIC},
        "sweep": sorted(name for name in vars(sweep) if not name.startswith("_")),
        "stages": list(stages),
        **{f"stage {name}": _stage(stage) for name, stage in stages.items()},
    }


def _parameters(function: Any) -> list[str]:
    """Return names, kinds and defaults of parameters; their types may have other names."""
    found = inspect.signature(function).parameters.values()
    return [str(one.replace(annotation=inspect.Parameter.empty)) for one in found]


def _shape(kind: Any) -> dict[str, Any]:
    """Return the methods of a class, and the fields of a dataclass with their defaults."""
    methods = inspect.getmembers(kind, callable)
    found: dict[str, Any] = {
        name: _parameters(item) for name, item in methods if not name.startswith("_")
    }
    if dataclasses.is_dataclass(kind):
        found |= {one.name: _default(one) for one in dataclasses.fields(kind)}
    return found


def _default(one: dataclasses.Field[Any]) -> str:
    if one.default_factory is not dataclasses.MISSING:
        return repr(one.default_factory())
    return "required" if one.default is dataclasses.MISSING else repr(one.default)


def _config(kind: Any) -> dict[str, str]:
    """Return the fields of a config: type, default, whether it is part of the identity."""
    hints = get_type_hints(kind)
    return {
        one.name: f"{_type(hints[one.name])} = {_default(one)}, "
        f"identity {one.metadata.get('identity', True)}"
        for one in dataclasses.fields(kind)
    }


def _type(hint: Any) -> str:
    """Return a type without the modules that its parts are defined in."""
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return re.sub(r"\b\w+(\.\w+)*\.(?=\w)", "", text)


def _stage(stage: Any) -> dict[str, Any]:
    return {
        "version": stage.version,
        "summary": stage.summary,
        "headline": list(stage.headline),
        "config": _config(stage.config),
    }


def spoken(stored: Stored, folder: Path) -> dict[str, Any]:
    """Return the JSON of the verbs on the stored run, times left out."""
    run = json.loads((FILE.parent / "artifacts/recorded.json").read_text())["run"]
    store = ["--tracking-uri", stored.uri]
    questions = [
        {"id": f"q{number}", "question": "?", "answers": [{"text": "Ada", "answer_start": 0}]}
        for number in range(3)
    ]
    data = {"data": [{"title": "t", "paragraphs": [{"context": "Ada sings.", "qas": questions}]}]}
    (folder / "dev.json").write_text(json.dumps(data))
    (folder / "said.json").write_text(json.dumps({"q0": "the Ada!", "q1": "Ada sings"}))
    files = ["--data", str(folder / "dev.json"), "--predictions", str(folder / "said.json")]
    out = ["--out", str(folder / "out")]
    commands = {
        "cost": ["cost", "--preset", "minilm-l6-h384"],
        "cost of lengths": ["cost", "--preset", "bert-base", "--lengths", ",".join(["64"] * 12)],
        "evaluate": ["evaluate", *files],
        "answer": ["answer", run, *ASKED, *store],
        "answer within a share": ["answer", run, *ASKED, "--keep", "0.5", "--top-k", "2", *store],
        "bench": ["bench", run, *BENCH, *store],
        "export": ["export", run, *out, *store],
    }
    found: dict[str, Any] = {}
    for name, words in commands.items():
        code, said = stored.code(*words, "--json")
        assert code == 0, name
        found[name] = (
            _kinds(json.loads(said)) if words[0] in ("bench", "export") else _steady(said)
        )
    card = json.loads((folder / "out/quala.json").read_text())
    return found | {"files": sorted(file.name for file in (folder / "out").iterdir()),
                    "card": _kinds(card)}  # fmt: skip


def _steady(said: str) -> Any:
    found = json.loads(said)
    return {key: value for key, value in found.items() if key not in PASSING}


def _kinds(value: Any) -> Any:
    """Return the keys of JSON and the kinds of its values, of a list those of its first entry."""
    if isinstance(value, dict):
        # Whether a timing is long enough to tell the work of others depends on the machine.
        return {key: "number" if key == "others" else _kinds(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_kinds(item) for item in value[:1]]
    return "number" if isinstance(value, int | float) else "text" if value else repr(value)


def write(stored: Stored, folder: Path) -> None:
    """Write the golden file."""
    parts = {"names": lines(names()), "verbs": lines(spoken(stored, folder))}
    FILE.write_text(lines(parts, nested=True))
