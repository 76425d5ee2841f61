"""Real tracking servers, with artifacts that they serve, and a line to them that can be cut."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

SECONDS_TO_START = 180
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
USER = "postgres"
"""Who runs PostgreSQL where the tests are run by root, which it refuses."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """`mlflow server` on a database, which can be killed and started again at its address."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self.database = folder, database
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def launch(self) -> None:
        """Start the server, and do not wait for it."""
        environment = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": self.database,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--artifacts-destination", str(self.artifacts)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.launch()
        limit = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < limit:
            with suppress(URLError, OSError), urlopen(f"{self.uri}/health", timeout=5):
                return
            assert self.process is not None
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        """End the server at once."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def postgres() -> Iterator[str]:
    """Give the address of a new database of PostgreSQL; skip the test where that is impossible."""
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("psycopg2-binary is not installed")
    owner = USER if os.geteuid() == 0 else None
    if owner and USER not in {one.pw_name for one in pwd.getpwall()}:
        pytest.skip(f"PostgreSQL does not run as root, and there is no user `{USER}`")
    folder, port = Path(tempfile.mkdtemp(prefix="quala-postgres-")), free_port()
    if owner:
        shutil.chown(folder, owner)

    def command(name: str, *words: str) -> None:
        made = subprocess.run(
            [str(POSTGRES[0] / name), "-D", str(folder / "data"), *words],
            user=owner,
            group=owner and pwd.getpwnam(owner).pw_gid,
            extra_groups=[] if owner else None,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert made.returncode == 0, made.stdout.decode()

    quick = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        command("initdb", "--auth=trust", "--username=quala", "--no-sync", "--locale=C", "-EUTF8")
        command("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", quick)
        try:
            yield f"postgresql+psycopg2://quala@127.0.0.1:{port}/postgres"
        finally:
            command("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


VERBS = (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE")
CREATION = b"runs/create"


class Line:
    """A way to a server that can be cut, and on which replies get lost."""

    def __init__(self, target: str) -> None:
        self.port = int(target.rpartition(":")[2])
        self.cut = Path("/nonexistent")
        """While this file exists, nothing gets through."""
        self.lossy = False
        """Whether the first reply to each kind of change is lost, and all to creations of runs."""
        self.lost: list[str] = []
        self._asked: Counter[bytes] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        """Carry one request after the other, for a client waits for each reply."""
        with near, suppress(OSError):
            if self.cut.exists():
                return
            with socket.create_connection(("127.0.0.1", self.port)) as far:
                losing = threading.Event()
                words = (far, near, losing)
                back = threading.Thread(target=self._back, args=words, daemon=True)
                back.start()
                while chunk := near.recv(2**16):
                    if self.cut.exists():
                        break
                    if self.lossy and chunk.split(b" ", 1)[0] in VERBS and self._loses(chunk):
                        losing.set()
                    far.sendall(chunk)
                far.shutdown(socket.SHUT_RDWR)
                back.join()

    def _loses(self, chunk: bytes) -> bool:
        line = chunk.split(b"\r\n", 1)[0]
        kind = line if line.startswith(b"POST") else line.split(b" ", 1)[0]
        if kind == b"GET" or b"search" in line:
            return False
        self._asked[kind] += 1
        lost = CREATION in kind or self._asked[kind] == 1
        if lost:
            self.lost.append(line.decode())
        return lost

    def _back(self, far: socket.socket, near: socket.socket, losing: threading.Event) -> None:
        with suppress(OSError):
            while chunk := far.recv(2**16):
                if losing.is_set():
                    break
                near.sendall(chunk)
            near.shutdown(socket.SHUT_RDWR)
