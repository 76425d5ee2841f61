"""The comparison of samplers: its objectives, what it counts, and what it writes."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("search_samplers")


def test_objectives_have_their_known_optima(bench: ModuleType) -> None:
    assert bench.zdt1([100, *[0] * 9]) == (1.0, 0.0)
    assert bench.lotz([1, 1, 0, 1, 0]) == (-2.0, -1.0)
    assert bench.rastrigin([17] * 10) == (0.0,)
    assert bench.lengths([128] * 8)[0] == 0.0
    full = bench.PROBLEMS["LOTZ"]
    assert full.score([full.best]) == pytest.approx(1.0)
    assert full.score([(0.0, 0.0)]) == pytest.approx(1 / 441)


def test_every_sampler_gets_the_same_trials_and_a_row(bench: ModuleType, tmp_path: Path) -> None:
    sizes = ["--trials", "6", "--seeds", "2", "--processes", "1"]
    bench.main(["--out", str(tmp_path), *sizes, "--problems", "lengths", "Rastrigin"])
    kept = json.loads((tmp_path / "search_samplers.json").read_text())
    assert kept["found"]["lengths"].keys() == set(bench.NAMES)
    rows = kept["found"]["lengths"]
    firsts = {name: [run["scores"]["2"] for run in rows[name]] for name in bench.NAMES}
    assert len({tuple(scores) for scores in firsts.values()}) == 1  # both ends come first for all
    assert len((tmp_path / "search_samplers.md").read_text().splitlines()) == 8


def test_the_table_of_the_guide_is_that_of_the_kept_numbers(bench: ModuleType) -> None:
    docs = FOLDER.parent / "docs"
    kept = json.loads((docs / "search" / "search_samplers.json").read_text("utf-8"))
    guide = (docs / "guide" / "optuna-sampler.md").read_text("utf-8")
    assert kept["seeds"] == 10
    assert bench.table(kept["found"], kept["trials"]) in guide
