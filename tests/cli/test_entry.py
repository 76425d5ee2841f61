"""`quala --help`, and errors of the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from quala import __version__
from quala.cli.entry import VERBS, main


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {verb} " in told for verb in VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"quala {__version__}\n"


def test_an_unknown_verb_has_a_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rum"]) == 2
    assert "Did you mean `run`" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_an_unknown_workflow_has_a_nearest_name(
    capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert main([verb, "quala_minilmm"]) == 2
    assert "Did you mean `quala_minilm`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("run --json kdlsq", "The workflow comes first, `quala run WORKFLOW --json`"),
        ("run kdlsq --mutlirun", "Unknown option `--mutlirun`. Did you mean `--multirun`"),
        ("run kdlsq --cfg", "argument --cfg/-c: expected one argument"),
        ("run kdlsq --cfg job --package stage.nosuch", "no configuration key `stage.nosuch`"),
        ("plan kdlsq -m", "`quala plan` takes overrides and --json, got `-m`"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    capsys: pytest.CaptureFixture[str], words: str, sentence: str
) -> None:
    assert main(words.split()) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from quala.cli.entry import main; main(['--help']);"
        "heavy = {'torch', 'mlflow', 'hydra', 'transformers', 'optuna', 'rich'};"
        "sys.exit(len(heavy & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys, quala.stages, quala.workflow.launch;"
        "from quala.workflow.script import find_workflow;"
        "find_workflow('quala_minilm'); sys.exit('torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
