"""Tab in bash, zsh and fish: what is offered, how it is quoted, and that no error is printed."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quala.cli.completion import SHELLS, answer, split
from quala.cli.entry import VERBS, main
from quala.workflow.script import workflow_names

STAGES = ["finetune", "distill", "measure", "report", "export"]


def offered(line: str, shell: str = "zsh") -> list[str]:
    """Return the candidates without the texts on them."""
    return [one.partition("\t")[0] for one in answer(shell, line).splitlines()]


def test_verbs_and_workflows_are_completed() -> None:
    assert offered("quala ") == [f"{verb} " for verb in VERBS]
    assert offered("quala re") == ["report "]
    assert offered("VARIABLE=1 quala re") == ["report "]
    names = [f"{name} " for name in workflow_names()]
    assert offered("quala run ")[: len(names)] == names
    assert offered("quala completion ") == [f"{shell} " for shell in SHELLS]


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"run", "plan", "completion"}))
def test_the_options_of_each_verb_are_completed(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [one.strip() for one in offered(f"quala {verb} --")]
    assert main([verb, "--help"]) == 0
    told = capsys.readouterr().out
    assert "--help" in found
    assert all(one in told for one in found)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("quala plan kdlsq --", ["--json ", "--config-dir ", "--config-name ", "--help "]),
        ("quala run kdlsq --cfg ", ["job ", "hydra ", "all "]),
        ("quala run kdlsq --cfg job -p stage.di", ["stage.distill."]),
        ("quala run kdlsq sta", ["stage/", "stage."]),
        ("quala run kdlsq stage.", [f"stage.{name}." for name in STAGES]),
        ("quala run kdlsq stage/m", ["stage/measure="]),
        ("quala run kdlsq stage.distill.learning", ["stage.distill.learning_rate="]),
        ("quala run kdlsq stage.distill.schedule=", ["linear ", "constant "]),
        ("quala run kdlsq stage.distill.latent=", ["true ", "false "]),
        ("quala run kdlsq stage.distill.semantics=", ["natural ", "reference ", "null "]),
        ("quala run kdlsq stage.distill.significance=q", ["query_rows ", "question "]),
        ("quala run kdlsq stage.distill.cache.wi", ["stage.distill.cache.width="]),
        ("quala run kdlsq data.task=", ["squad ", "glue ", "tags ", "embed ", "triples "]),
        ("quala run kdlsq flow.until=me", ["measure "]),
        ("quala run kdlsq flow.force=[distill,re", ["[distill,report "]),
        ("quala run kdlsq experiment=kdlsq/d", ["kdlsq/demo "]),
        ("quala run kdlsq -m tracking=server,", ["server,local "]),
        ("quala run kdlsq -m stage.distill.schedule=linear,", ["linear,constant "]),
        ("quala run kdlsq ~exp", ["~experiment "]),
        ("quala run kdlsq +tr", ["+training@", "+tracking=", "+tracking."]),
        ("quala run kdlsq +training@stage.fi", [f"+training@stage.finetune{one}" for one in ".="]),
        ("quala run kdlsq +training@stage.finetune=", ["cpu "]),
        ("quala run kdlsq hyd", ["hydra.", "hydra/"]),
        ("quala bench --runtime ", ["onnxruntime ", "openvino "]),
        ("quala bench --runtime=open", ["openvino "]),
    ],
)  # fmt: skip
def test_a_word_is_completed(line: str, found: list[str]) -> None:
    key, given, _ = line.rpartition(" ")[2].rpartition("=")
    assert offered(line) == [f"{key}{given}{one}" for one in found]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("quala run kdlsq stage.distill.epochs=", "stage.distill.epochs=3.0 "),
        (
            "quala run kdlsq -m 'experiment=glob(*)' stage.distill.epochs=",
            "stage.distill.epochs=3.0 ",
        ),
        ("quala run kdlsq seed=3 stage.distill.seed=", "stage.distill.seed=3 "),
        ("quala run kdlsq seed=3,4 stage.distill.max_steps=", "stage.distill.max_steps=60 "),
        ("quala run kdlsq model.te", "model.teacher="),
        ("quala run kdlsq hydra.sweep.d", "hydra.sweep.dir="),
        ("quala run kdlsq hydra/launcher=ba", "hydra/launcher=basic "),
    ],
)
def test_what_only_a_composed_configuration_knows_is_completed(line: str, found: str) -> None:
    assert found in offered(line)


@pytest.mark.parametrize(
    "line",
    [
        "quala run nowhere.py ",
        "quala run unknown stage.",
        "quala run kdlsq --config-dir nowhere exp",
        "quala run kdlsq experiment=nothing stage.distill.epochs=",
        "quala run kdlsq seed=[ stage.distill.epochs=",
        "quala run kdlsq a.b.c.",
        "quala run kdlsq data.path=/nowhere/",
        "quala run broken.py ",
        "quala unknown ",
        "quala run kdlsq ' \" '",
        "",
    ],
)
def test_nothing_is_said_of_what_is_broken(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("print('loaded')\nraise SystemExit(3)\n")
    for shell in SHELLS:
        assert main(["completion", shell, "--line", line]) == 0
    assert [*capfd.readouterr()] == ["", ""]


def test_a_broken_configuration_still_has_its_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/mine.yaml").write_text("a: [\n")
    assert "data=mine " in offered("quala run kdlsq --config-dir . data=")
    Path("own.yaml").touch()
    assert offered("quala plan kdlsq --config-dir . --config-name ") == ["config ", "own "]
    assert offered("quala run kdlsq --config-dir . data=mine stage.distill.epochs=") == []


def test_files_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("my data").mkdir()
    Path("my data/a.json").touch()
    Path("mine.py").touch()
    Path(".hidden").touch()
    assert offered("quala run kdlsq data.path=m") == ["data.path=mine.py ", "data.path=my data/"]
    assert offered("quala run kdlsq data.path=~/my") == ["data.path=~/my data/"]
    assert offered("quala export my") == ["my data/"]
    assert offered("quala export x --out=my") == ["--out=my data/"]
    assert offered("quala run mi") == ["mine.py "]
    assert offered("quala run kdlsq --config-dir m") == ["my data/"]


BREAKS = " \t\n\"'><=;|&(:@"


@pytest.mark.parametrize(
    ("typed", "inserted"),
    [
        ("data.path=m", ["my\\ data/"]),
        ("data.path=my\\ d", ["my\\ data/"]),
        ("data.path='my d", ["my data/"]),
        ('"data.path=my d', ["data.path=my data/"]),
        ("data.path=my\\ data/a", ["my\\ data/a\\$.json "]),
        ('data.path="my data/a', ['my data/a\\$.json" ']),
        ("stage.distill.schedule=l", ["linear "]),
        ("+training@stage.finetune=", ["cpu "]),
    ],
)
def test_bash_gets_what_it_inserts(
    typed: str, inserted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMP_WORDBREAKS", BREAKS)
    Path("my data").mkdir()
    Path("my data/a$.json").touch()
    assert answer("bash", f"quala run kdlsq {typed}").splitlines() == inserted


def test_a_command_line_is_split_as_by_a_shell() -> None:
    assert split("quala run x") == (["quala", "run", "x"], "")
    assert split("quala run x ") == (["quala", "run", "x", ""], "")
    assert split("A=1 B=2 quala run my\\ ") == (["quala", "run", "my "], "")
    assert split("quala run 'a b") == (["quala", "run", "a b"], "'")
    assert split("") == ([""], "")


def test_the_shells_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "--help"]) == 0
    assert 'eval "$(quala completion bash)"' in capsys.readouterr().out
    assert main(["completion", "basch"]) == 2
    assert "Did you mean `bash`?" in capsys.readouterr().err


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a command `quala`, which runs this source."""
    command = tmp_path / "bin/quala"
    command.parent.mkdir()
    run = "import sys; from quala.cli import main; sys.exit(main())"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{run}' \"$@\"\n")
    command.chmod(0o755)
    (tmp_path / "my data").mkdir()
    return {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(tmp_path),
        "TERM": "xterm",
        "PS1": "> ",
    }


def test_bash_completes_a_command_line(environment: dict[str, str]) -> None:
    script = """
        eval "$(quala completion bash)"
        complete -p quala
        COMP_LINE="quala run kdlsq stage.distill.keep_map=t"
        COMP_POINT=${#COMP_LINE}
        _quala quala
        printf '<%s>' "${COMPREPLY[@]}"
    """
    words = ["bash", "--norc", "--noprofile", "-c", script]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "complete -o nospace -F _quala quala\n<tinybert ><top >"
    assert done.stderr == ""


INTERACTIVE = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(quala completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'eval "$(quala completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "quala completion fish | source"),
}
PRINT = b"\x01printf '<%s>' \x05 en''d\n"
"""Go to the start of the line, print the words behind it instead of running them."""


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        import pty

        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.chdir(environment["HOME"])
            os.execvpe(words[0], words, environment)
        self.seen = b""

    def type(self, text: bytes) -> None:
        os.write(self.terminal, text)

    def wait(self, text: bytes, seconds: float = 60) -> bytes:
        """Read until a text comes, or nothing more; return all that was not returned before."""
        limit = time.monotonic() + seconds
        while text not in self.seen and time.monotonic() < limit:
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.seen += os.read(self.terminal, 65536)
        seen, self.seen = self.seen, b""
        return seen

    def close(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.terminal)


@pytest.fixture(params=INTERACTIVE)
def terminal(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[Terminal]:
    words, install = INTERACTIVE[request.param]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed: apt-get install {words[0]}")
    made = Terminal(words, environment)
    made.type(f"{install}\necho rea''dy\n".encode())
    assert b"ready" in made.wait(b"ready")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("quala ru\tkdl\tstage.distill.keep_m\ttin\t", "<stage.distill.keep_map=tinybert>"),
        ("quala run kdlsq data.path=my\t", "<data.path=my data/>"),
        (
            "quala run kdlsq \\~ex\t-m seed=0,1 flow.unt\tmea\t",  # zsh takes a bare ~ for a user
            "<~experiment><-m><seed=0,1><flow.until=measure>",
        ),
        ("quala run kdlsq stage.distill.nothing\tx\t", "<stage.distill.nothingx>"),
    ],
)
def test_tab_completes_in_a_shell(terminal: Terminal, typed: str, words: str) -> None:
    terminal.type(typed.encode())  # a shell reads on when it has completed
    terminal.type(PRINT)
    told = terminal.wait(b"<end>").decode()
    assert words in told
    assert "error" not in told
    assert "Traceback" not in told


def test_compress_completes_its_options_then_those_of_the_workflow() -> None:
    assert "--budget-ms " in offered("quala compress model --b")
    assert "regression " in offered("quala compress model --task ")
    assert "data.columns." in offered("quala compress model --data x data.col")
    assert not any(one.startswith("data.") for one in offered("quala compress model --data "))
