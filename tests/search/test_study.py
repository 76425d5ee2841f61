"""The search on a study: what it evaluates, resumes and shares between processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from quala.errors import QualaError
from quala.lengths import LengthConfig
from quala.process import Process
from quala.search.evaluate import Evaluation
from quala.search.result import SearchCandidate, SearchResult
from quala.search.space import Space
from quala.search.storage import JournalLock
from quala.search.strategy import SearchSettings
from quala.search.study import run_search

SPACE = Space(4, 32)
SEEDS = {"published": 6, "quala": 6, "bayesian": 2}
STRATEGIES = list(SEEDS)


def small(**changes: Any) -> SearchSettings:
    sizes: dict[str, Any] = {
        "seed": 1, "strategy": "quala", "max_evaluations": 1000,
        "population": 4, "generations": 3, "mutations": 3, "crossovers": 2,
    }  # fmt: skip
    return SearchSettings(**{**sizes, **changes})


def load(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name="search", storage=storage)


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_evaluates_every_generation_and_no_candidate_twice(
    name: str, tmp_path: Path, fake: Any
) -> None:
    evaluator = fake()
    result = run_search(evaluator, SPACE, small(strategy=name), tmp_path)
    assert len(evaluator.asked) == len(set(evaluator.asked)) == SEEDS[name] + 3 * 5
    generations = [0] * SEEDS[name] + [1] * 5 + [2] * 5 + [3] * 5
    assert [point.generation for point in result.candidates] == generations


def test_both_ends_are_always_evaluated(tmp_path: Path, fake: Any) -> None:
    result = run_search(fake(), SPACE, small(max_cost=100.0), tmp_path)
    assert {SPACE.full, SPACE.lowest} <= {point.lengths for point in result.candidates}


def test_a_candidate_knows_how_unsure_its_loss_is(tmp_path: Path, fake: Any) -> None:
    class Spread(fake):  # type: ignore[misc]
        """Two examples: what is dropped is lost by the second one only."""

        def evaluate(self, configs: Sequence[LengthConfig]) -> list[Evaluation]:
            best = super().evaluate([SPACE.full])[0].score
            return [
                replace(one, examples=(best, 2 * one.score - best))
                for one in super().evaluate(configs)
            ]

    result = run_search(Spread(), SPACE, small(), tmp_path)
    assert result.full is not None
    for one in result.candidates:
        # Differences of 0 and twice the mean: their standard error is the mean itself.
        assert one.error == pytest.approx(result.full.score - one.score, abs=1e-9)
    assert SearchResult.from_json(result.to_json()).candidates == result.candidates


def test_one_example_tells_no_error(tmp_path: Path, fake: Any) -> None:
    result = run_search(fake(), SPACE, small(), tmp_path)
    assert {one.error for one in result.candidates} == {None}


def test_it_stops_at_the_largest_number_of_evaluations(tmp_path: Path, fake: Any) -> None:
    result = run_search(fake(), SPACE, small(max_evaluations=9), tmp_path)
    assert len(result.candidates) == 9


def test_a_finished_study_is_not_extended(tmp_path: Path, fake: Any) -> None:
    first = run_search(fake(), SPACE, small(), tmp_path)
    again = fake()
    assert run_search(again, SPACE, small(), tmp_path) == first
    assert not again.asked


def test_another_search_in_the_folder_is_refused(tmp_path: Path, fake: Any) -> None:
    run_search(fake(), SPACE, small(generations=0), tmp_path)
    with pytest.raises(QualaError, match="other settings"):
        run_search(fake(), SPACE, small(generations=1), tmp_path)


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_interrupted_search_goes_on_as_it_would_have(
    name: str, tmp_path: Path, fake: Any
) -> None:
    settings = small(strategy=name)
    whole = run_search(fake(), SPACE, settings, tmp_path / "whole")
    cut = fake(fail_after=11)
    with pytest.raises(KeyboardInterrupt):
        run_search(cut, SPACE, settings, tmp_path / "cut")
    rest = fake()
    assert run_search(rest, SPACE, settings, tmp_path / "cut") == whole
    assert len(rest.asked) == len(whole.candidates) - len(cut.asked)
    assert len(rest.recalled) >= len(cut.asked) >= 11


def test_the_callback_sees_each_candidate_once(tmp_path: Path, fake: Any) -> None:
    seen: list[SearchCandidate] = []
    result = run_search(fake(), SPACE, small(), tmp_path, seen.append)
    assert seen == list(result.candidates)


def test_an_exhausted_space_ends_the_search(tmp_path: Path, fake: Any) -> None:
    result = run_search(fake(), Space(2, 4), small(generations=30), tmp_path)
    assert len(result.candidates) <= 6


@pytest.mark.parametrize("name", ["quala", "bayesian"])
def test_points_over_the_budget_are_on_no_front(
    name: str, tmp_path: Path, fake: Any, cost: Any
) -> None:
    budget = cost(SPACE.full) * 0.7
    result = run_search(fake(), SPACE, small(strategy=name, max_cost=budget), tmp_path)
    assert max(point.cost for point in result.front) <= budget
    assert [point.lengths for point in result.candidates if not point.feasible] == [SPACE.full]


@pytest.mark.parametrize("name", STRATEGIES)
def test_lengths_lie_on_the_grid(name: str, tmp_path: Path, fake: Any) -> None:
    result = run_search(fake(), replace(SPACE, step=4), small(strategy=name), tmp_path)
    assert not [point for point in result.candidates if any(n % 4 for n in point.lengths.lengths)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_study_knows_the_same_front(name: str, tmp_path: Path, fake: Any) -> None:
    result = run_search(fake(), SPACE, small(strategy=name, min_score=70.0), tmp_path)
    assert min(point.score for point in result.front) >= 70.0
    best = {tuple(trial.values) for trial in load(tmp_path).best_trials}
    assert best == {(point.score, point.cost) for point in result.front}


def test_the_result_makes_the_round_trip(tmp_path: Path, fake: Any) -> None:
    result = run_search(fake(), SPACE, small(), tmp_path)
    assert SearchResult.from_json(result.to_json()) == result


def test_the_hypervolume_never_falls(tmp_path: Path, fake: Any) -> None:
    history = run_search(fake(), SPACE, small(), tmp_path).history
    assert list(history) == sorted(history)


def test_a_torn_last_line_is_mended(tmp_path: Path, fake: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_search(fake(fail_after=6), SPACE, small(), tmp_path)
    with (tmp_path / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code":5,"wor')
    assert len(run_search(fake(), SPACE, small(), tmp_path).candidates) == 21


@pytest.mark.parametrize("harm", ["zeroed", "garbled", "shortened"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_a_torn_journal_goes_on_from_before_the_damage(
    tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch, harm: str, share: float
) -> None:
    whole = run_search(fake(), SPACE, small(), tmp_path / "whole")
    dead = replace(Process.this(), started=0.0)
    with monkeypatch.context() as patched:
        patched.setattr(Process, "this", lambda: dead)
        with pytest.raises(KeyboardInterrupt):
            run_search(fake(fail_after=9), SPACE, small(), tmp_path / "torn")
    file = tmp_path / "torn" / "study.journal"
    raw = file.read_bytes()
    at = int(len(raw) * share)
    new = {"zeroed": bytes(4096), "garbled": b"\xf0\n\x00{" * 1024, "shortened": b""}[harm]
    file.write_bytes(raw[:at] + new[: len(raw) - at])
    assert run_search(fake(), SPACE, small(), tmp_path / "torn") == whole


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path, fake: Any) -> None:
    # As a killed search of an earlier version leaves it: Optuna would wait for 30 s.
    (tmp_path / "study.journal.lock").symlink_to("study.journal")
    began = time.monotonic()
    lock = JournalLock(tmp_path / "study.journal")
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom quala.search.storage import JournalLock\n"
        "JournalLock(Path(sys.argv[1])).acquire()\nos.kill(os.getpid(), 9)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "study.journal")]
    assert subprocess.run(words, check=False).returncode == -9
    assert lock.acquire()
    lock.release()
    assert time.monotonic() - began < 30


def test_several_workers_need_a_factory(tmp_path: Path, fake: Any) -> None:
    with pytest.raises(QualaError, match="run_workers"):
        run_search(fake(), SPACE, small(workers=2), tmp_path)


SCRIPT = """
import sys, time
from pathlib import Path
from quala.search.evaluate import Evaluation
from quala.search.strategy import SearchSettings
from quala.search.space import Space
from quala.search.study import StudyPlace, run_search, run_workers

class Slow:
    def cost(self, lengths):
        return float(sum(lengths.lengths))
    def evaluate(self, candidates):
        with (Path(sys.argv[1]) / "asked").open("a") as file:
            file.writelines(f"{lengths}\\n" for lengths in candidates)
        time.sleep(float(sys.argv[3]))
        return [Evaluation(g, self.cost(g), self.cost(g) ** 0.5) for g in candidates]
    def recall(self, scored):
        pass

if __name__ == "__main__":
    workers = int(sys.argv[2])
    settings = SearchSettings(seed=1, strategy=sys.argv[4], max_evaluations=1000, population=4,
                              generations=3, mutations=3, crossovers=2, workers=workers)
    folder = Path(sys.argv[1])
    place = StudyPlace(folder, sys.argv[5] or None)
    if workers > 1:
        result = run_workers(Slow, Space(4, 32), settings, place)
    else:
        result = run_search(Slow(), Space(4, 32), settings, place)
    (folder / "result.json").write_text(result.to_json())
"""


def start(
    script: Path,
    folder: Path,
    *,
    workers: int,
    seconds: float,
    name: str = "published",
    storage: str = "",
) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    words = [sys.executable, str(script), str(folder), str(workers), str(seconds), name, storage]
    return subprocess.Popen(words, env=dict(os.environ), cwd=folder)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "search_script.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "storage"), [("published", ""), ("bayesian", "sqlite:///all.db")]
)
def test_a_killed_search_goes_on_as_it_would_have(
    script: Path, tmp_path: Path, name: str, storage: str
) -> None:
    folder = tmp_path / "killed"
    process = start(script, folder, workers=1, seconds=60, name=name, storage=storage)
    while not (folder / "asked").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in (folder, tmp_path / "whole"):
        again = start(script, path, workers=1, seconds=0, name=name, storage=storage)
        assert again.wait() == 0
    results = [(path / "result.json").read_text() for path in (folder, tmp_path / "whole")]
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "storage"), [("published", ""), ("quala", "sqlite:///all.db")])
def test_parallel_workers_find_what_one_finds_and_repeat_nothing(
    script: Path, tmp_path: Path, name: str, storage: str
) -> None:
    results = []
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        process = start(script, folder, workers=workers, seconds=0.01, name=name, storage=storage)
        assert process.wait() == 0
        asked = (folder / "asked").read_text().splitlines()
        assert len(asked) == len(set(asked)) == SEEDS[name] + 3 * 5
        results.append(SearchResult.from_json((folder / "result.json").read_text()))
    assert results[0] == results[1]


def test_generations_are_stored_under_the_name_that_earlier_studies_have(
    tmp_path: Path, fake: Any
) -> None:
    run_search(fake(), SPACE, small(), tmp_path)
    study = load(tmp_path)
    assert study.trials[0].system_attrs["EvolutionarySampler:generation"] == 0
    stored = study._storage.get_study_system_attrs(study._study_id)
    assert {f"EvolutionarySampler:parent:{generation}" for generation in (1, 2, 3)} <= set(stored)
