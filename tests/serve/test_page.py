"""The demo page: self-contained, and, where there is a Chromium, alive."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from quala.serve.app import create_app, load_page
from quala.serve.settings import Settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def test_it_loads_nothing_from_elsewhere(client: TestClient) -> None:
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert not re.search(r"https?://|@import|url\(", response.text)
    loaded = re.findall(
        r"""<(?:script|img|iframe|link)\b[^>]*(?:src|href)="([^"]*)""", response.text
    )
    assert loaded == ["data:,"]


def test_text_is_never_markup() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", _html())


def test_its_policy_lets_only_its_own_script_run() -> None:
    page = load_page()
    (script,) = re.findall(r"<script>(.*?)</script>", page.html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.headers["Content-Security-Policy"]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"""\s(?:style|on\w+)=["']""", page.html)


def test_every_control_has_a_label() -> None:
    html = _html()
    controls = re.findall(r"<(?:textarea|input)\b[^>]*\bid=\"(\w+)\"", html)
    assert sorted(controls) == ["context", "point", "question"]
    assert set(controls) <= set(re.findall(r'<label[^>]* for="(\w+)"', html))


def _html() -> str:
    return load_page().html


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_it_answers_its_example(toy: Any, serve: Callable[[Any], str], tmp_path: Path) -> None:
    url = serve(create_app(toy, Settings(budget_ms=27)))
    dom = subprocess.run(
        [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert '<p class="answer" id="answer">Valerios Stais</p>' in dom
    assert "<mark><span" in dom
    assert "Layer 6" in dom
    assert 'id="gmacs">3.81<' in dom  # the last point within the default budget
    assert '<p class="error" id="error" role="alert" hidden="">' in dom
    assert "ms at 121 tokens" in dom
    assert toy.batches[0][0].budget.lengths == (384, 384, 384, 384, 128, 48)
