"""Tutorials and FAQ: each command runs as it is shown, or its block says what it needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from documented import LEFT_OUT, Reader, blocks

from quala.autocompress import pace

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs" / "tutorial").glob("*.md")), ROOT / "docs" / "faq.md"]
TOY: Mapping[str, Sequence[str]] = {
    "compress": (
        "data.max_train=40", "data.max_test=8", "data.search_size=8", "data.selection_size=8",
        "stage.search.max_evaluations=4", "stage.search.population=2",
        "stage.search.step=8", "stage.measure.latency_inputs=2", "stage.measure.warmup=1",
        "stage.measure.front_points=2", "stage.export.repeats=1",
        "stage.quantize.calibration_batches=2",
    ),
}  # fmt: skip


@pytest.fixture
def encoder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint without its head, in place of `offline`."""
    from transformers import AutoModel

    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    shutil.copytree(tiny_checkpoint, folder)
    AutoModel.from_pretrained(tiny_checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture
def reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, page: Path
) -> Reader:
    """A reader in a folder that has what the page supposes: models and a store."""
    timed, text = pace.measured, page.read_text(encoding="utf-8")

    def steady(subject: Any) -> Any:
        found, sizes = timed(subject)
        return replace(found, read=1.0, tokenize=0.0), sizes

    monkeypatch.setattr(pace, "_timed", lambda *_: (1e-6, 3e-6, "fp32"))
    monkeypatch.setattr(pace, "measured", steady)
    monkeypatch.setattr("quala.workflow.lease.SECONDS_TO_SETTLE", 0.05)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.chdir(tmp_path)
    called = {}
    if "quala compress" in text:
        (tmp_path / "mlruns").mkdir()
        shutil.copy(request.getfixturevalue("migrated_database"), tmp_path / "mlruns/mlflow.db")
        called["offline"] = str(request.getfixturevalue("encoder"))
    if "my-qa-model" in text:
        shutil.copytree(request.getfixturevalue("tiny_checkpoint"), tmp_path / "my-qa-model")

    def added(words: Sequence[str]) -> list[str]:
        small = TOY.get(words[0], ())
        return [one for one in small if one.split("=")[0] not in " ".join(words)]

    return Reader(added, called)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(page: Path, reader: Reader) -> None:
    assert reader.read(page) > 3
    assert os.getcwd() != str(ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_command_that_is_left_out_says_why(page: Path) -> None:
    for block in blocks(page):
        assert block.language, f"{page.name}: a block without a language is neither run nor shown"
        said = not block.title or block.title == "Refused" or block.title.startswith(LEFT_OUT)
        assert said, f"{page.name}: {block.title}"
