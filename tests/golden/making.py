"""Make the stored run: a toy teacher, every recipe on it, searches cut in the middle."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from golden.stored import (
    ASKED,
    CHECKPOINTS,
    RECIPES,
    RECORDED,
    SEARCHES,
    SPEC,
    WORDS,
    Stored,
    batch_of,
    lines,
    logits,
    move,
    output,
    pack,
    predictions,
    reply,
)
from golden.use import load_with_data

WORDS_KNOWN = 320
"""With the characters more than the ids up to 500 that an export is timed with."""
CUT_AFTER = 6


def make_teacher(folder: Path) -> None:
    """Write a random BERT of width 16 with a tokenizer of characters and frequent words."""
    import conftest
    import torch
    from transformers import BertConfig, BertForQuestionAnswering, BertTokenizer

    known: list[str] = conftest.tiny_vocabulary.__wrapped__()  # type: ignore[attr-defined]
    known = known[: 5 + 2 * 94 + WORDS_KNOWN]
    places = {word: number for number, word in enumerate(known)}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(known), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=128, initializer_range=0.2,
    )  # fmt: skip
    BertForQuestionAnswering(config).save_pretrained(folder)
    BertTokenizer(vocab=places, do_lower_case=True, model_max_length=128).save_pretrained(folder)


@contextmanager
def plain_surroundings() -> Iterator[None]:
    """Keep plotly's own script, 4 MB, out of the page, and a person's name out of the tags."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly.js */")
        patched.setattr("getpass.getuser", lambda: "golden")
        patched.setattr("platform.node", lambda: "golden")
        yield


@contextmanager
def cut_after(candidates: int) -> Iterator[None]:
    """Interrupt a search, as Ctrl-C does, before it records one candidate more."""
    from mlflow import MlflowClient

    create, made = MlflowClient.create_run, []

    def counted(self: MlflowClient, *arguments: Any, **named: Any) -> Any:
        if (named.get("tags") or {}).get("quala.kind") == "candidate":
            if len(made) == candidates:
                raise KeyboardInterrupt
            made.append(1)
        return create(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MlflowClient, "create_run", counted)
        yield


def make_store(folder: Path) -> None:
    """Write the archive and what the tests expect of it."""
    import torch

    torch.set_num_threads(1)
    folder = folder.resolve()
    make_teacher(folder / "teacher")
    stored = Stored(folder, WORDS)
    recorded: dict[str, Any] = {"words": WORDS, "searches": {}, "checkpoints": {}}
    with plain_surroundings():
        done = {name: stored.run(name, *words) for name, words in RECIPES.items()}
        for name, words in SEARCHES.items():
            whole = _whole(folder, words)
            with cut_after(CUT_AFTER):
                code, _ = stored.code("run", "quala_minilm", *stored.words, *words)
            assert code == 130
            recorded["searches"][name] = whole
    recorded["search"] = json.loads(
        (output(done["quala_minilm"], "search") / "search.json").read_text()
    )
    opened = load_with_data(output(done["quala_minilm"], "length_adapt"), SPEC)
    recorded["batch"] = batch_of(opened.data.test.features.batch([0, 1]))
    for name, (recipe, stage) in CHECKPOINTS.items():
        found = logits(output(done[recipe], stage), recorded["batch"])
        recorded["checkpoints"][name] = found
    _record_export(output(done["quala_minilm"], "export"), recorded)
    run = done["quala_minilm"]["run_id"]
    recorded |= {
        "run": run,
        "outputs": {
            recipe: {one["stage"]: one["run_id"] for one in result["stages"] if one["run_id"]}
            for recipe, result in done.items()
        },
        "report": stored.report(run),
        "table": stored.code("report", run, "--tracking-uri", stored.uri)[1],
        "compared": stored.report("--compare", run),
    }
    pack(folder)
    RECORDED.write_text(lines(_rounded(recorded)) + "\n")


def _whole(folder: Path, words: list[str]) -> Any:
    """Return what a search finds that nobody interrupts, in a copy of the store."""
    # Under a new name each time: MLflow keeps open what it has opened.
    copy = Path(tempfile.mkdtemp(dir=folder.parent)) / "store"
    shutil.copytree(folder, copy)
    move(copy / "mlruns/mlflow.db", str(folder), str(copy))
    try:
        result = Stored(copy, WORDS).run("quala_minilm", *words, "flow.until=search")
        return json.loads((output(result, "search") / "search.json").read_text())
    finally:
        shutil.rmtree(copy)


def _record_export(folder: Path, recorded: dict[str, Any]) -> None:
    import quala

    answerer = quala.load(folder)
    recorded["answers"] = {name: reply(answerer, **options) for name, options in ASKED.items()}
    recorded["predictions"] = predictions(folder)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
