"""A real export behind the service."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from quala.runtime.answerer import QuestionAnswerer, load
from quala.serve.app import create_app
from quala.serve.settings import Settings

CONTEXT = "Ada Bell sings in Rome. " * 20


def test_it_answers_over_http(export_folder: Path) -> None:
    app = create_app(load(export_folder), Settings())
    query = {"question": "Who sings?", "context": CONTEXT, "survivors": True, "top_k": 3}
    with TestClient(app) as client:
        cheapest = client.get("/card").json()["front"][-1]["lengths"]
        queries = [query, query | {"lengths": cheapest}, query | {"keep": 0.7}]
        response = client.post("/answer", json={"queries": queries})
        assert response.status_code == 200, response.text
        full, short, _ = response.json()["replies"]
        refused = client.post("/answer", json=query | {"lengths": [3, 3, 3]})
    assert short["lengths"] == cheapest != full["lengths"]
    assert [len(reply["layers"]) for reply in (full, short)] == [2, 2]
    assert short["layers"][1]["kept"] < full["layers"][1]["kept"]
    for answer in full["answers"]:
        assert CONTEXT[answer["start"] : answer["end"]] == answer["text"]
    assert refused.status_code == 422
    assert "Expected 2 lengths" in refused.json()["error"]


def test_a_question_that_is_cut_is_said(export_folder: Path) -> None:
    with TestClient(create_app(load(export_folder), Settings())) as client:
        response = client.post("/answer", json={"question": "who " * 70, "context": CONTEXT})
    assert response.json()["note"] == (
        "The question has 70 tokens, of which the model reads the first 64."
    )


def test_a_model_that_gives_nan_is_an_error_of_the_service(
    export_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: QuestionAnswerer = load(export_folder)
    monkeypatch.setattr(
        model.engine,
        "logits",
        lambda inputs, lengths: np.full((*inputs["input_ids"].shape, 2), np.nan, np.float32),
    )
    with TestClient(create_app(model, Settings())) as client:
        response = client.post("/answer", json={"question": "Who sings?", "context": CONTEXT})
    assert response.status_code == 500
    assert response.json() == {
        "error": "The model gives logits that are NaN or infinite: it cannot answer."
    }
