"""The description of the API as a page."""

from __future__ import annotations

import re

from starlette.testclient import TestClient


def test_every_address_and_field_is_there_and_nothing_is_loaded(client: TestClient) -> None:
    html = client.get("/docs").text
    for part in ("POST /answer", "GET /health", "GET /metrics", "budget_macs", "ReplyOut"):
        assert part in html
    assert "The queue is full" in html
    assert not re.search(r"https?://", html)
    assert "<script" not in html


def test_links_between_types_lead_somewhere(client: TestClient) -> None:
    html = client.get("/docs").text
    assert set(re.findall(r'href="#(\w+)"', html)) <= set(re.findall(r'id="(\w+)"', html))
