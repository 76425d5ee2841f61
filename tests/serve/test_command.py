"""`quala serve`: what it passes on, and one sentence for every mistake."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from quala.cli.serve import main
from quala.errors import QualaError


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy: Any) -> list[tuple[Any, ...]]:
    """Stand in for loading `m` and for serving; the list is what they were asked."""
    calls: list[tuple[Any, ...]] = []
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("quala.runtime.answerer")

    def load(model: Path, *, runtime: str, threads: int) -> Any:
        if runtime == "abacus":
            raise QualaError("Unknown runtime `abacus`.")
        calls.append((model, runtime, threads))
        return toy

    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "quala.runtime.answerer", module)

    def serve(app: Any, held: Any, *, ready: Any) -> None:
        calls.append((app.state.dispatcher.settings, held.getsockname()[0]))
        ready("http://127.0.0.1:1")

    monkeypatch.setattr("quala.serve.server.serve", serve)
    return calls


def test_defaults(
    loaded: list[tuple[Any, ...]], toy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["m", "--port", "0"]) == 0
    assert toy.warmed
    (model, (settings, host)) = loaded
    assert model == (Path("m"), "onnxruntime", 1)
    assert host == "127.0.0.1"
    assert (settings.budget_ms, settings.max_batch, settings.queue) == (None, 8, 64)
    assert "Open http://127.0.0.1:1" in capsys.readouterr().out


def test_limits_reach_the_service(loaded: list[tuple[Any, ...]]) -> None:
    main(
        "m --port 0 --budget-ms 9 --threads 2 --queue 5 --timeout-s 1.5 --runtime openvino".split()
    )
    (model, (settings, _)) = loaded
    assert model == (Path("m"), "openvino", 2)
    assert (settings.budget_ms, settings.queue, settings.timeout_s) == (9.0, 5, 1.5)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--threads 0", "`threads` must be at least 1"),
        ("--max-batch 0", "`--max-batch` must be at least 1"),
        ("--budget-ms nan", "`--budget-ms` must be above 0"),
        ("--port 70000", "`--port`"),
        ("--timeout-s nan", "`--timeout-s` must be above 0 and at most 86400 and finite"),
        ("--max-connections 99999999", "`--max-connections` must be at least 1 and at most"),
        ("--host nonsense..", "Cannot listen on nonsense"),
        ("--allowed-hosts http://a", "`--allowed-hosts` must be host names without ports"),
        ("--allowed-hosts a,,b", "got ``"),
        ("--port 0 --runtime abacus", "Unknown runtime"),
    ],
)
def test_mistakes(loaded: list[tuple[Any, ...]], words: str, part: str) -> None:
    with pytest.raises(QualaError, match=part):
        main(["m", *words.split()])
    assert loaded == []


@pytest.mark.parametrize("words", ["--port abc", "--queue 1.5", "--timeout-s x"])
def test_what_is_no_number(words: str) -> None:
    with pytest.raises(QualaError, match=words.split()[0]):
        main(["m", *words.split()])


LOCAL = ("localhost", "127.0.0.1", "[::1]")


@pytest.mark.parametrize(
    ("words", "hosts"),
    [
        ("", (*LOCAL, "127.0.0.1")),
        ("--host localhost", (*LOCAL, "localhost")),
        ("--host 127.0.0.2", (*LOCAL, "127.0.0.2")),
        ("--host 0.0.0.0", ()),
        ("--host 0.0.0.0 --allowed-hosts a.b,[::1]", ("a.b", "[::1]")),
        ("--allowed-hosts *", ()),
    ],
)
def test_hosts_that_are_answered(
    loaded: list[tuple[Any, ...]], words: str, hosts: tuple[str, ...]
) -> None:
    main(["m", "--port", "0", *words.split()])
    assert loaded[-1][0].allowed_hosts == hosts


def test_a_default_budget_needs_times(loaded: list[tuple[Any, ...]], toy: Any) -> None:
    toy.card = dict(toy.card) | {
        "front": [dict(point) | {"ms": {}} for point in toy.card["front"]]
    }
    with pytest.raises(QualaError, match="`--budget-ms` needs an export with times"):
        main(["m", "--port", "0", "--budget-ms", "8"])
    assert len(loaded) == 1  # loaded, not served
    assert main(["m", "--port", "0"]) == 0


def test_a_model_that_is_not_there(loaded: list[tuple[Any, ...]]) -> None:
    with pytest.raises(QualaError, match="`nowhere` is no folder"):
        main(["nowhere", "--port", "0"])


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from quala.cli import serve\n"
        "try: serve.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'fastapi', 'uvicorn', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--max-request-kib" in done.stdout
