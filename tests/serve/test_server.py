"""Listening and stopping, with real sockets and a real process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from quala.errors import QualaError
from quala.serve.app import create_app
from quala.serve.server import bind, url_of
from quala.serve.settings import Settings

GOOD = {"question": "Who?", "context": "Ada Bell sings."}
Until = Callable[[Callable[[], bool]], None]
PROCESS = """
import runpy, sys, types
toy = runpy.run_path(sys.argv[1])["ToyAnswerer"]
module = types.ModuleType("quala.runtime.answerer")
module.load = lambda model, *, runtime, threads: toy()
sys.modules["quala.runtime.answerer"] = module
from quala.cli.serve import main
sys.exit(main([".", "--port", "0", "--batch-wait-ms", "0"]))
"""


def test_a_port_in_use_is_one_sentence() -> None:
    with bind("127.0.0.1", 0) as held:
        held.listen()
        with pytest.raises(QualaError, match=r"Cannot listen on 127\.0\.0\.1:.*in use"):
            bind("127.0.0.1", held.getsockname()[1])


@pytest.mark.parametrize("port", [-1, 65536])
def test_an_impossible_port_is_one_sentence(port: int) -> None:
    with pytest.raises(QualaError, match="`--port` must be from 0 to 65535"):
        bind("127.0.0.1", port)


def test_an_impossible_host_is_one_sentence() -> None:
    with pytest.raises(QualaError, match="Cannot listen on"):
        bind("a..b", 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_ipv6_address_has_brackets() -> None:
    try:
        held = bind("::1", 0)
    except QualaError:
        pytest.skip("no IPv6 loopback")
    with held:
        assert url_of(held).startswith("http://[::1]:")


def test_a_chunked_body_over_the_limit_is_refused(toy: Any, serve: Callable[[Any], str]) -> None:
    url = serve(create_app(toy, Settings(max_request_kib=1)))
    headers = {"Content-Type": "application/json"}
    response = httpx2.post(f"{url}/answer", content=iter([b"x" * 600] * 3), headers=headers)
    assert response.status_code == 413
    assert httpx2.post(f"{url}/answer", json=GOOD).is_success


def test_a_client_that_leaves_frees_its_place(
    toy: Any, serve: Callable[[Any], str], until: Until
) -> None:
    app = create_app(toy, Settings(batch_wait_ms=0, queue=1))
    url = serve(app)
    toy.gate.clear()
    first = threading.Thread(target=httpx2.post, args=(f"{url}/answer",), kwargs={"json": GOOD})
    first.start()
    until(toy.entered.is_set)
    body = json.dumps(GOOD).encode()
    lines = ("POST /answer HTTP/1.1", "Host: x", "Content-Type: application/json")
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
    with socket.create_connection(url.removeprefix("http://").split(":")) as leaver:
        leaver.sendall(head.encode() + body)
        until(lambda: app.state.dispatcher.depth == 1)
    until(lambda: app.state.dispatcher.depth == 0)
    toy.gate.set()
    first.join()
    assert httpx2.post(f"{url}/answer", json=GOOD).is_success
    assert len(toy.batches) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_a_signal_finishes_what_is_queued_and_exits_with_0(
    number: signal.Signals, tmp_path: Path, until: Until
) -> None:
    conftest = Path(__file__).with_name("conftest.py")
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(conftest)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(conftest.parents[1])},
    )
    replies: list[httpx2.Response] = []
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        release = tmp_path / "release"
        held = GOOD | {"question": f"hold {release}"}
        asking = threading.Thread(
            target=lambda: replies.append(httpx2.post(f"{url}/answer", json=held, timeout=60))
        )
        asking.start()
        until((tmp_path / "release.entered").exists)
        process.send_signal(number)
        until(lambda: httpx2.get(f"{url}/health").status_code == 503)
        assert httpx2.post(f"{url}/answer", json=GOOD).status_code == 503
        release.touch()
        asking.join()
        _, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert replies[0].json()["answers"][0]["text"] == "Ada Bell"
    assert (process.returncode, complaints) == (0, "")
