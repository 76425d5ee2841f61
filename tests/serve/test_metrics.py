"""The counts, as Prometheus reads them."""

from __future__ import annotations

from starlette.testclient import TestClient


def test_counts(client: TestClient) -> None:
    good = {"question": "q", "context": "Ada"}
    client.post("/answer", json=good)
    client.post("/answer", json={"queries": [good, good]})
    client.post("/answer", json={"question": "q"})
    client.get("/health")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    for line in (
        'quala_requests_total{status="200"} 2.0',
        'quala_requests_total{status="422"} 1.0',
        "quala_request_seconds_count 3.0",
        "quala_batch_size_count 2.0",
        "quala_batch_size_sum 3.0",
        "quala_queue_depth 0.0",
    ):
        assert line in lines
