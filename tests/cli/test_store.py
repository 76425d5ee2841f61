"""`quala store`: what it prints, what it removes and carries, what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tracked import Tracked, files

from quala.cli.entry import main as quala
from quala.workflow.tracking import Tracking, stage_runs


@dataclass(frozen=True)
class Stored:
    """A folder with two runs that share stages, and what is printed of it."""

    folder: Path
    runs: Sequence[str]
    capsys: pytest.CaptureFixture[str]

    def told(self, *words: str, code: int = 0) -> str:
        uri = ["--tracking-uri", f"sqlite:///{self.folder}/mlflow.db"]
        assert quala(["store", *words, *uri]) == code
        read = self.capsys.readouterr()
        return " ".join((read.err if code == 2 else read.out).split())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Path:
    folder = tmp_path_factory.mktemp("original")
    shutil.copy(migrated_database, folder / "mlflow.db")
    data = files(folder / "questions", task="squad")
    tracked = Tracked(folder)
    runs = [
        tracked.run("kdlsq", data=data),
        tracked.run("kdlsq", data=data, distill={"max_steps": 20}),
    ]
    (folder / "runs.json").write_text(json.dumps(runs))
    return folder


@pytest.fixture
def stored(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Stored:
    folder = shutil.copytree(original, tmp_path / "mlruns")
    found = Stored(folder, json.loads((folder / "runs.json").read_text()), capsys)
    capsys.readouterr()
    return found


def test_the_list_names_each_run_and_fits(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([], ["list"]):
        text = stored.told(*words)
        for run in stored.runs:
            assert f"{run[:8]} kdlsq" in text
        assert "Experiment quala" in text
        assert "7 stages" in text  # of 2 x 4, one is shared
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    quala(["store", "--tracking-uri", f"sqlite:///{stored.folder}/mlflow.db"])
    plain = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert max(map(len, plain.splitlines())) <= 80


def test_the_list_is_json_too(stored: Stored) -> None:
    found = json.loads(stored.told("--json"))
    assert [line["run"] for line in found["runs"]] == list(reversed(stored.runs))
    assert all(line["bytes"] > line["bytes_alone"] > 0 for line in found["runs"])
    assert all(len(line["stages"]) == 4 for line in found["runs"])
    assert found["bytes"]["all"] > sum(line["bytes_alone"] for line in found["runs"])


def test_a_damaged_output_makes_the_check_fail(stored: Stored) -> None:
    assert "7 outputs" in stored.told("check")
    client = Tracking.connect(f"sqlite:///{stored.folder}/mlflow.db").client
    stage = stage_runs(client.get_run(stored.runs[0]))["distill"]
    (stored.folder / "artifacts/quala" / stage / "artifacts/output/model.json").unlink()
    text = stored.told("check", code=1)
    assert "1 damaged" in text
    assert f"distill {stage[:8]} `model.json` is missing in" in text
    assert "put a copy of it back, or `quala run`, which computes it again" in text
    found = json.loads(stored.told("check", "--json", code=1))
    assert [one["damaged"] for one in found["findings"]] == [True]


def test_a_removal_is_tried_first(stored: Stored) -> None:
    before = sorted(stored.folder.rglob("*"))
    name = stored.runs[0][:8]
    assert "Would remove 4 runs and 0 folders" in stored.told("remove", name)
    assert sorted(stored.folder.rglob("*")) == before
    assert "Removed 4 runs and 0 folders" in stored.told("remove", name, "--yes")
    assert name not in stored.told()
    assert "4 outputs" in stored.told("check")
    assert "Would remove 0 runs" in stored.told("remove", "--unused", "--older-than", "0")


def test_a_removal_is_json_too(stored: Stored) -> None:
    found = json.loads(stored.told("remove", stored.runs[1], "--json"))
    assert found["removed"] is False
    assert {one["name"] for one in found["runs"]} == {"kdlsq", "distill", "measure", "report"}


@pytest.mark.parametrize("out", ["runs.zip", "runs"])
def test_a_run_is_carried_to_another_place(
    stored: Stored, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "5 runs" in stored.told("export", stored.runs[0], "--out", str(tmp_path / out))
    shutil.rmtree(stored.folder)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    for new in (5, 0):
        assert quala(["store", "import", f"../{out}"]) == 0
        text = stored.capsys.readouterr().out
        assert text.startswith(f"{new} runs are new, {5 - new} were there.\n")
        assert f"quala report {stored.runs[0]}" in text
    assert quala(["report", stored.runs[0]]) == 0
    assert quala(["store", "check"]) == 0


def test_a_moved_store_reports_and_exports(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    stored.folder.rename(tmp_path / "new/mlruns")
    monkeypatch.chdir(tmp_path / "new")
    assert quala(["report", stored.runs[0], "--out", "out"]) == 0
    assert (tmp_path / "new/out/report.json").is_file()
    assert not stored.folder.exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["lst"], "Unknown action `lst`"),
        (["check", "x"], "`quala store check` takes no word more, got `x`."),
        (["export", "abcdef"], "takes RUNs and `--out FILE.zip` or a new folder"),
        (["import"], "takes one file or folder of `quala store export`"),
        (["remove"], "takes RUNs, or `--unused` for what nothing needs"),
        (["remove", "abcdef"], "`abcdef` is no run of a workflow or a sweep in"),
        (["list", "--yes"], "`--yes` is not for `quala store list`"),
        (["remove", "x", "--older-than", "3"], "`--older-than` limits `--unused`"),
        (["remove", "--unused", "--older-than", "-1"], "`--older-than` must be at least 0"),
        (["import", "no.zip"], "There is no file or folder `no.zip`."),
    ],
)
def test_what_cannot_be_is_one_sentence(
    stored: Stored, words: Sequence[str], sentence: str
) -> None:
    assert sentence in stored.told(*words, code=2)
