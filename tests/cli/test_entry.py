"""`quala --help`, and errors of the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import QUESTIONS, SIZES

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
        ("plan kdlsq -c", "--config-name and --json, got `-c`"),
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


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("a\0b", "The argument `a\\x00b` has a NUL character."),
        (os.fsdecode(b"\xff"), "The argument `\\udcff` is no UTF-8 text."),
        ("\ud800", "The argument `\\ud800` is no UTF-8 text."),
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_a_word_that_is_no_text_is_refused(
    verb: str, word: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, word]) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_a_sentence_is_one_line_of_printable_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--preset", "a\nb\x1b[31m" + "x" * 100_000]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: Unknown preset `a\\nb\\x1b[31mxxx")
    assert told.count("\n") == 1
    assert len(told) < 5000


COST = ["cost", "--preset", "bert-base"]


def quala(
    *words: str, shell: str = '"$@"', **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own, through a shell, with buffered streams."""
    code = "import sys; from quala.cli import main; sys.exit(main())"
    places = os.pathsep.join(path for path in sys.path if path)
    own = {**os.environ, "PYTHONPATH": places, **environment}
    own.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}", "bash", sys.executable, "-c", code, *words],
        env=own,
        capture_output=True,
    )


@pytest.mark.parametrize("words", [COST, [*COST, "--json"], ["cost", "--help"], ["--help"]])
def test_a_reader_that_leaves_ends_the_command_without_a_word(words: list[str]) -> None:
    done = quala(*words, shell='"$@" | true')
    assert done.stderr == b""
    assert done.returncode in (0, 141)  # true may leave after the last byte


def test_the_exit_code_after_a_broken_pipe_is_that_of_the_shell() -> None:
    done = quala(*COST, shell='sleep 0.1; "$@" | exec 0<&-')
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("words", [COST, [*COST, "--json"], ["cost", "--help"], ["--version"]])
def test_output_that_cannot_be_written_is_an_error(words: list[str]) -> None:
    done = quala(*words, shell='"$@" > /dev/full')
    assert done.returncode == 2
    assert done.stderr == b"error: The output cannot be written: No space left on device.\n"


@pytest.mark.parametrize(
    ("closed", "words", "code"),
    [
        (">&-", COST, 0),
        ("2>&-", ["cost", "--preset", "nosuch"], 2),
        ("<&- >&- 2>&-", COST, 0),
    ],
)
def test_a_closed_stream_is_an_empty_one(closed: str, words: list[str], code: int) -> None:
    done = quala(*words, shell=f'"$@" {closed}')
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_a_closed_input_is_an_empty_context() -> None:
    words = ["answer", "minilm-squad", "--question", "q", "--context", "-"]
    done = quala(*words, shell='"$@" <&-')
    assert (done.returncode, done.stderr) == (2, b"error: The context is empty.\n")


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def test_an_ascii_locale_prints_codes_and_reads_utf_8(tmp_path: Path) -> None:
    row = {"id": "é", "context": "Zoë", "question": "où?"}
    answers = {"text": ["Zoë"], "answer_start": [0]}
    data, predictions = tmp_path / "data.json", tmp_path / "predictions.json"
    data.write_text(json.dumps([row | {"answers": answers}], ensure_ascii=False), encoding="utf-8")
    predictions.write_text('{"é": "Zoë"}', encoding="utf-8")
    words = ["evaluate", "--data", str(data), "--predictions", str(predictions), "--json"]
    assert json.loads(quala(*words, **ASCII).stdout)["f1"] == 100.0
    told = quala("cost", "--preset", "é", **ASCII).stderr
    assert told.startswith(b"error: Unknown preset `\\xe9`. Allowed: ")
    told = quala("export", "minilm-squad", "--out", str(tmp_path / "é"), **ASCII).stderr
    assert b"has characters that this locale (ascii) does not have" in told


def test_a_folder_that_is_gone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(COST) == 2
    assert capsys.readouterr().err == (
        "error: The current folder is gone: change to one that exists.\n"
    )
    assert main(["--version"]) == 0


def test_bytes_that_are_no_text_are_refused() -> None:
    code = "import sys; from quala.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "cost", "--preset", b"caf\xe9"]
    for environment in (os.environ, os.environ | ASCII):
        done = subprocess.run(words, env=environment, capture_output=True)
        said = b"error: The argument `caf\\udce9` is no UTF-8 text.\n"
        assert (done.returncode, done.stderr) == (2, said)


def interrupted(code: str, *words: str, folder: Path | None = None) -> tuple[int, str, str]:
    """Return the exit code and the output of a process that Ctrl-C reaches, as in a terminal."""
    head = "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_ctrl_c_while_quala_is_imported_is_one_sentence() -> None:
    code = """
class Interrupting:
    def find_spec(self, name, *_):
        if name == "quala.cli.entry":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from quala.cli import main
sys.exit(main())
"""
    assert interrupted(code, "--version") == (130, "", "error: Interrupted.\n")


def test_ctrl_c_after_the_last_line_prints_nothing() -> None:
    code = "from quala.cli import main\nmain()\nos.killpg(0, signal.SIGINT)"
    assert interrupted(code, "--version") == (-signal.SIGINT, f"quala {__version__}\n", "")


@pytest.mark.slow
def test_ctrl_c_in_a_training_is_one_sentence(
    tmp_path: Path, tiny_checkpoint: Path, migrated_database: Path
) -> None:
    (tmp_path / "mlruns").mkdir()
    shutil.copy(migrated_database, tmp_path / "mlruns/mlflow.db")
    code = """
from quala.stages.training import FiniteCallback
def interrupt(self, trainer, *_):
    os.killpg(0, signal.SIGINT)
FiniteCallback.on_train_batch_end = interrupt
from quala.cli import main
sys.exit(main())
"""
    words = ["run", "quala_minilm", f"model.teacher={tiny_checkpoint}", *SIZES, *QUESTIONS]
    status, out, told = interrupted(code, *words, folder=tmp_path)
    assert (status, out) == (130, ""), told
    assert told.endswith("error: Interrupted; the same command goes on from here.\n")
    assert "Traceback" not in told
