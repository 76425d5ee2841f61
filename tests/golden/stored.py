"""The stored run of every kind of artifact: how it is packed, unpacked and asked."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
from collections.abc import Mapping
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

from commandline import QUESTIONS, SIZES, STAGES, options_of, quiet_logging
from golden.use import DataSpec, LengthConfig, load_with_data, main, settled_at_once

ARTIFACTS = Path(__file__).parent / "artifacts"
ARCHIVE = ARTIFACTS / "store.tar.xz"
RECORDED = ARTIFACTS / "recorded.json"
PLACE = "/golden-place"
"""Stands in the packed database for the folder that the store lies in: MLflow keeps absolute
addresses of artifacts, and the tags hold the command line."""

# The words are spelled out in recorded.json as well, and the tests read them there.
WORDS = [
    *SIZES, *QUESTIONS, "stage.search.max_evaluations=10", "stage.distill.layers=2",
    "stage.export.repeats=1",
]  # fmt: skip
REFINE = [
    f"stage.refine.{option}"
    for option in ("max_steps=2", "batch_size=8", "epochs=1", "precision=fp32")
]
RECIPES = {
    "quala_minilm": [],
    "kdlsq": ["flow.until=distill"],
    "ladabert": ["flow.until=distill_2", "stage.distill.shrink.ratio=4"],
    "binarybert": [*REFINE, "flow.until=refine"],
    "compound": ["stage.quantize.sampler=few_drops", "flow.until=quantize"],
}
"""What is finished in the store."""
REVISED = {"kdlsq": "distill", "compound": "quantize"}
"""The stages of the store that start from `kl` of old, which is `tensorrt` now."""
SEARCHES = {
    "quala": ["stage.search.seed=1"],
    "published": ["stage.search.strategy=published"],
    "bayesian": ["stage.search.strategy=bayesian"],
}
"""What was interrupted in the store, in the middle."""
CHECKPOINTS = {
    "float student": ("quala_minilm", "distill"),
    "float supernet": ("quala_minilm", "length_adapt"),
    "int8": ("quala_minilm", "quantize"),
    "2 bits, packed": ("kdlsq", "distill"),
    "pruned and factorised, sparse": ("ladabert", "distill_2"),
    "1 bit, split": ("binarybert", "refine"),
    "4 bits, grouped under lengths": ("compound", "quantize"),
}
SPEC = DataSpec(
    task="squad", name="demo", max_length=128, doc_stride=32, max_question_length=32,
    max_train=24, max_test=8,
)  # fmt: skip
LENGTHS = (96, 40)
QUESTION = "Who wrote the report about the harbour?"
CONTEXT = (
    "Anna Bell was born in Lisbon. She wrote the report about the harbour in 1923. Her brother "
    "Carl printed a book in Paris, and the third of them, Dora, painted the old bridge there."
)
ASKED: dict[str, dict[str, Any]] = {
    "full": {},
    "keep": {"keep": 0.5},
    "lengths": {"lengths": list(LENGTHS)},
    "top": {"top_k": 3},
}
__all__ = ["STAGES"]


def move(database: Path, old: str, new: str) -> None:
    """Replace a folder by another one in every text of a database."""
    with closing(sqlite3.connect(database)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            columns = connection.execute(f"PRAGMA table_info('{table}')").fetchall()
            texts = [name for _, name, kind, *_ in columns if "CHAR" in kind or "TEXT" in kind]
            for column in texts:
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) '
                    f'WHERE instr("{column}", ?)',
                    (old, new, old),
                )
        connection.commit()
        connection.execute("VACUUM")


def pack(folder: Path) -> None:
    """Write the store under `folder` as the archive, with no owner and no times of files."""
    move(folder / "mlruns/mlflow.db", str(folder), PLACE)

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "/hydra/" in entry.name or "/cache/" in entry.name:
            return None
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for name in ("mlruns", "teacher"):
            archive.add(folder / name, name, filter=plain)


def unpack(folder: Path) -> Stored:
    """Unpack the archive into `folder` and tell its database where it lies now."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    move(folder / "mlruns/mlflow.db", PLACE, str(folder))
    recorded = json.loads(RECORDED.read_text())
    return Stored(folder, recorded["words"])


class Stored:
    """A store in a folder, and the commands on it."""

    def __init__(self, folder: Path, words: list[str], teacher: str | None = None) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlruns/mlflow.db'}"
        named = f"model.teacher={teacher or folder / 'teacher'}"
        self.words = [f"tracking.folder={folder / 'mlruns'}", named, *words]

    def code(self, *words: str) -> tuple[int, str]:
        """Return a command's exit code and what it prints."""
        said = io.StringIO()
        with quiet_logging(), settled_at_once(), redirect_stdout(said):
            code = main(words)
        return code, said.getvalue()

    def run(self, workflow: str, *words: str, verb: str = "run") -> Any:
        """Return the JSON of a workflow's run; it must leave with 0."""
        own = options_of(workflow, [*self.words, *words])
        code, said = self.code(verb, workflow, *own, "--json")
        assert code == 0
        return json.loads(said)

    def report(self, *words: str) -> Any:
        """Return the JSON of `quala report`."""
        code, said = self.code("report", *words, "--tracking-uri", self.uri, "--json")
        assert code == 0
        return json.loads(said)


def statuses(result: Any) -> dict[str, str]:
    return {one["stage"]: one["status"] for one in result["stages"]}


def output(result: Any, stage: str) -> Path:
    return Path(next(one["output"] for one in result["stages"] if one["stage"] == stage))


def batch_of(batch: Any) -> dict[str, Any]:
    """Return a batch as lists."""
    return {name: tensor.tolist() for name, tensor in batch.items()}


def logits(folder: Path, batch: dict[str, Any]) -> dict[str, Any]:
    """Return what the checkpoint in `folder` says, at full and at shorter lengths."""
    import torch

    model = load_with_data(folder, SPEC).model.eval()
    tensors: Any = {name: torch.tensor(values) for name, values in batch.items()}
    short = LengthConfig(LENGTHS, SPEC.max_length)
    with torch.inference_mode():
        return {
            name: model(tensors, lengths).float().tolist()
            for name, lengths in (("full", None), ("short", short))
        }


def reply(answerer: Any, **options: Any) -> dict[str, Any]:
    """Return an export's answer without its time."""
    found = answerer.answer(QUESTION, CONTEXT, **options)
    answers = [
        {name: getattr(one, name) for name in ("text", "start", "end", "score", "probability")}
        for one in found.answers
    ]
    return {"answers": answers, "lengths": list(found.lengths), "windows": found.windows}


def predictions(folder: Path) -> list[dict[str, Any]]:
    """Return what MLflow predicts with an export, in full and shortened."""
    import mlflow.pyfunc
    import pandas as pd

    model = mlflow.pyfunc.load_model(str(folder))
    asked = pd.DataFrame({"question": [QUESTION], "context": [CONTEXT]})
    return [
        row
        for params in ({}, {"keep": 0.5})
        for row in model.predict(asked, params=params).to_dict(orient="records")
    ]


def near(expected: Any, tolerance: float) -> Any:
    """Return nested lists and dicts to compare with, their floats within a tolerance."""
    import pytest

    if isinstance(expected, dict):
        return {key: near(value, tolerance) for key, value in expected.items()}
    if isinstance(expected, list):
        return [near(value, tolerance) for value in expected]
    if isinstance(expected, float):
        return pytest.approx(expected, abs=tolerance, rel=tolerance)
    return expected


def lines(content: Mapping[str, Any], *, nested: bool = False) -> str:
    """Return a JSON object with one entry a line; nested, of values that are JSON already."""
    entries = [
        f"{json.dumps(key)}: {value if nested else json.dumps(value, separators=(',', ':'))}"
        for key, value in content.items()
    ]
    return "{\n" + ",\n".join(entries) + "\n}" + "\n" * nested
