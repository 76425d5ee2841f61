"""Listening and stopping, with real sockets and a real process."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.responses import PlainTextResponse

from quala.errors import QualaError
from quala.serve import server
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


@contextlib.contextmanager
def started(code: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a service in a process of its own, after some code; it is killed at the end."""
    conftest = Path(__file__).with_name("conftest.py")
    process = subprocess.Popen(
        [sys.executable, "-c", code + PROCESS, str(conftest)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{conftest.parents[1]}:{conftest.parents[2] / 'src'}"},
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[1]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_a_signal_finishes_what_is_queued_and_exits_with_0(
    number: signal.Signals, tmp_path: Path, until: Until
) -> None:
    replies: list[httpx2.Response] = []
    with started() as (process, url), contextlib.ExitStack() as stack:
        release = tmp_path / "release"
        held = GOOD | {"question": f"hold {release}"}
        asking = threading.Thread(
            target=lambda: replies.append(httpx2.post(f"{url}/answer", json=held, timeout=60))
        )
        asking.start()
        until((tmp_path / "release.entered").exists)
        half = stack.enter_context(socket.create_connection(_address(url)))
        half.sendall(b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        stack.enter_context(socket.create_connection(_address(url)))
        for path in ("health", "readyz", "livez"):
            assert httpx2.get(f"{url}/{path}").is_success
        process.send_signal(number)
        until(lambda: httpx2.get(f"{url}/readyz").status_code == 503)
        assert httpx2.get(f"{url}/health").status_code == 503
        assert httpx2.get(f"{url}/livez").status_code == 200
        assert httpx2.post(f"{url}/answer", json=GOOD).status_code == 503
        release.touch()
        asking.join()
        _, complaints = process.communicate(timeout=60)
    assert replies[0].json()["answers"][0]["text"] == "Ada Bell"
    assert (process.returncode, complaints) == (0, "")


def test_a_second_signal_ends_it_without_a_traceback(tmp_path: Path, until: Until) -> None:
    with started() as (process, url):
        release = tmp_path / "release"
        body = json.dumps(GOOD | {"question": f"hold {release}"}).encode()
        head = f"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection(_address(url), timeout=30) as client:
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            until((tmp_path / "release.entered").exists)
            process.send_signal(signal.SIGTERM)
            until(lambda: httpx2.get(f"{url}/health").status_code == 503)
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(ConnectionError):
                reply = client.recv(65536)
                assert reply[:10] in (b"", b"HTTP/1.1 5"), reply
        release.touch()
        _, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def _send(url: str, data: bytes, *, wait: float = 10) -> bytes:
    """Send bytes and return all that comes until the connection is closed."""
    with socket.create_connection(_address(url), timeout=wait) as client:
        client.sendall(data)
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                found += part
        return found


@pytest.mark.parametrize(
    "head",
    [b"", b"POST /answer HTT", b"POST /answer HTTP/1.1\r\nHost: x\r\nA: "],
    ids=["silent", "cut", "half"],
)
def test_a_head_that_does_not_come_closes_the_connection(
    head: bytes, toy: Any, serve: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.1)
    assert _send(serve(create_app(toy, Settings())), head) == b""


def test_a_head_that_drips_closes_the_connection(
    toy: Any, serve: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.1)
    url = serve(create_app(toy, Settings()))
    with socket.create_connection(_address(url), timeout=10) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(999).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionError):  # noqa: PT012
            for _ in range(999):
                client.sendall(b"G")
                time.sleep(0.01)


def test_a_request_in_work_is_no_silent_connection(
    toy: Any, serve: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.0)
    url = serve(create_app(toy, Settings()))
    toy.gate.clear()
    threading.Timer(2.5, toy.gate.set).start()
    assert httpx2.post(f"{url}/answer", json=GOOD, timeout=30).is_success


def test_a_reply_that_is_not_read_is_given_up(
    toy: Any, serve: Callable[[Any], str], until: Until
) -> None:
    app = create_app(toy, Settings(timeout_s=0.5))
    app.add_api_route("/large", lambda: PlainTextResponse(b"x" * 10_000_000))
    url = serve(app)
    with socket.create_connection(_address(url)) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        (running,) = serve.servers
        until(lambda: len(running.server_state.connections) == 1)
        until(lambda: len(running.server_state.connections) == 0)


JUNK = {
    "junk": b"\x00\xff\x16\x03\x01 hello\r\n\r\n",
    "old": b"GET /\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two lengths": b"POST /answer HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\n{}",
    "length": b"POST /answer HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "chunk": b"POST /answer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "long head": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA: "
    + b"a" * 100_000
    + b"\r\n\r\n",
    "after a request": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n\x00\x00\r\n\r\n",
    "upgrade": b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\n\r\n\x00\x00\r\n\r\n",
    "path": b"GET /%ff%00%c3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("data", JUNK.values(), ids=JUNK)
def test_junk_gets_a_sentence_and_leaves_no_trace(
    data: bytes, toy: Any, serve: Callable[[Any], str], caplog: pytest.LogCaptureFixture
) -> None:
    url = serve(create_app(toy, Settings()))
    found = _send(url, data)
    status = found.split(b" ", 2)[1]
    assert status[:1] in (b"2", b"4")
    if status != b"200":
        assert list(json.loads(found.rpartition(b"\r\n\r\n")[2])) == ["error"]
    assert httpx2.post(f"{url}/answer", json=GOOD).is_success
    assert caplog.records == []


def test_many_connections_are_bounded(toy: Any, serve: Callable[[Any], str]) -> None:
    url = serve(create_app(toy, Settings(max_connections=3)))
    with contextlib.ExitStack() as stack:
        for _ in range(20):  # silent ones make room for those that come
            stack.enter_context(socket.create_connection(_address(url)))
        assert httpx2.get(f"{url}/health").is_success
        (running,) = serve.servers
        assert len(running.server_state.connections) <= 4


def test_connections_at_work_are_not_closed_for_others(
    toy: Any, serve: Callable[[Any], str], until: Until
) -> None:
    app = create_app(toy, Settings(max_connections=2, batch_wait_ms=0))
    url = serve(app)
    toy.gate.clear()
    replies: list[Any] = []
    threads = [
        threading.Thread(target=lambda: replies.append(httpx2.post(f"{url}/answer", json=GOOD)))
        for _ in range(2)
    ]
    threads[0].start()
    until(toy.entered.is_set)  # else both requests may be of one batch, and none waits
    threads[1].start()
    until(lambda: app.state.dispatcher.depth == 1)
    assert _send(url, b"").startswith(b"HTTP/1.1 503 ")
    toy.gate.set()
    for thread in threads:
        thread.join()
    assert all(reply.is_success for reply in replies)


def test_connections_and_files_stay_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(files: int) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))

    limit(1024)
    assert server.connections(None) == (848, 128)
    assert server.connections(5) == (5, 128)
    with pytest.raises(QualaError, match=r"`--max-connections` must be at most 848, .*got 849"):
        server.connections(849)
    limit(100)
    assert sum(server.connections(None)) + server.OWN_FILES == 100
    limit(40)
    with pytest.raises(QualaError, match=r"at most 0, .*40 files \(`ulimit -n`\)"):
        server.connections(None)
    limit(resource.RLIM_INFINITY)
    assert server.connections(None) == (1000, 128)


FEW = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
"""


UNBOUNDED = "import quala.serve.server as s; s.connections = lambda _: (1000, 200)\n"


@pytest.mark.parametrize("bounded", [True, False])
def test_more_clients_than_files_end_nothing(bounded: bool) -> None:
    code = FEW.format(files=80) + ("" if bounded else UNBOUNDED)
    with started(code) as (process, url):
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(_address(url))
            time.sleep(1)
            if bounded:
                assert httpx2.post(f"{url}/answer", json=GOOD, timeout=30).is_success
        assert httpx2.post(f"{url}/answer", json=GOOD, timeout=30).is_success
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = [line.rpartition(": ")[2] for line in complaints.splitlines()]
    assert lines == ([] if bounded else ["Too many open files."])


@pytest.mark.parametrize("part", [0.2, 0.7], ids=["head", "body"])
def test_who_leaves_before_the_end_is_no_failure(
    part: float,
    toy: Any,
    serve: Callable[[Any], str],
    until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = serve(create_app(toy, Settings()))
    body = json.dumps(GOOD).encode()
    data = b"POST /answer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    data += b"Content-Length: %d\r\n\r\n" % len(body) + body
    for _ in range(5):
        with socket.create_connection(_address(url)) as client:
            client.sendall(data[: int(part * len(data))])
    wanted = 'quala_requests_total{status="499"} 5.0'
    until(lambda: part < 0.5 or wanted in httpx2.get(f"{url}/metrics").text)
    assert 'status="500"' not in httpx2.get(f"{url}/metrics").text
    assert caplog.records == []
