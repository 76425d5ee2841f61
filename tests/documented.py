"""The commands that pages of the documentation show, run as a reader types them, at toy size.

A fenced block of `bash` or `python` runs, in the order of the page, in one folder. A title says
where it does not: it begins with a word of `LEFT_OUT`. A block called `Refused` must end with 2
and print what the next block of `text` shows. A block below a line with a file's name and a colon
is that file.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commandline import quiet_logging

from quala.cli.entry import main

LEFT_OUT = ("Needs", "Takes", "Stays")
BLOCK = re.compile(
    r"(?:^`(?P<file>[\w./-]+)`:\n\n)?"
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^```$',
    re.DOTALL | re.MULTILINE,
)
ADDRESS = "127.0.0.1:8000"
SERVE = "import sys; from quala.cli.entry import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Block:
    """A fenced block; `file` is the name of the file that it is."""

    language: str
    text: str
    title: str
    file: str

    @property
    def runs(self) -> bool:
        """Whether it is a command or a program that a reader can run as it stands."""
        wanted = self.language in ("bash", "python") and not self.file
        return wanted and not self.title.startswith(LEFT_OUT)


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        parts = found.groupdict(default="")
        yield Block(parts["language"], parts["text"], parts["title"], parts["file"])


def commands(text: str) -> list[str]:
    """Return the commands of a shell block, those over several lines as one."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


class Reader:
    """Runs the blocks of a page; `added` gives the words that make a command small."""

    def __init__(self, added: Callable[[Sequence[str]], list[str]], called: Mapping[str, str]):
        self._added = added
        self._called = called
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._served: list[subprocess.Popen[bytes]] = []
        self._address = ADDRESS
        self._refused = ""

    def read(self, page: Path) -> int:
        """Run a page, and return how many commands and programs ran."""
        count = 0
        try:
            for block in blocks(page):
                if block.file:
                    Path(block.file).write_text(block.text, encoding="utf-8")
                elif block.language == "text" and self._refused:
                    said, shown = (" ".join(one.split()) for one in (self._refused, block.text))
                    assert shown in said, f"{page.name} shows:\n{shown}\nprinted:\n{said}"
                    self._refused = ""
                elif block.runs and block.language == "python":
                    exec(compile(block.text, page.name, "exec"), self._names)
                    count += 1
                elif block.runs:
                    for line in commands(block.text):
                        self._type(line, 2 if block.title == "Refused" else 0)
                        count += 1
        finally:
            for process in self._served:
                process.terminate()
                process.wait(30)
        return count

    def _type(self, line: str, code: int) -> None:
        words = shlex.split(line, comments=True)
        if words[:2] == ["quala", "serve"]:
            self._serve(words[1:])
        elif words[0] == "quala" and not {"|", ">", "<"} & set(words):
            said = io.StringIO()
            given = [self._called.get(word, word) for word in words[1:]]
            with quiet_logging(), redirect_stdout(said), redirect_stderr(said):
                found = main([*given, *self._added(given)])
            assert found == code, f"{line}\n{said.getvalue()}"
            self._refused = said.getvalue() if code else ""
        else:
            line = line.replace(ADDRESS, self._address)
            if line.startswith("curl"):
                line = f"curl --fail-with-body --noproxy '*' {line.removeprefix('curl')}"
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", line],
                capture_output=True, text=True, timeout=120, env=os.environ | {"PATH": path},
            )  # fmt: skip
            assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"

    def _serve(self, words: Sequence[str]) -> None:
        """Start a service on a free port, and wait until it listens."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._address = f"127.0.0.1:{port}"
        words = [word for word in words if word != "&"]
        process = subprocess.Popen([sys.executable, "-c", SERVE, *words, "--port", str(port)])
        self._served.append(process)
        for _ in range(3000):  # 5 minutes: a busy machine starts it slowly
            assert process.poll() is None, f"`quala {shlex.join(words)}` ended"
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError(f"`quala {shlex.join(words)}` does not listen")
