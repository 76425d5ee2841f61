"""Which addresses a task has, and what goes in and out of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import export_of
from predicting import METRICS, ToyPredictor
from starlette.testclient import TestClient

from quala.errors import QualaError
from quala.runtime.answerer import load
from quala.runtime.prediction import TextQuery
from quala.serve.app import create_app
from quala.serve.settings import Settings

__all__ = ["export_of"]

TASKS = sorted(METRICS)
GOOD = {"text": "🎵 A joy, not thin."}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def classifier() -> Iterator[ToyPredictor]:
    """A toy whose gate is open, and is open again at the end."""
    toy = ToyPredictor("classification")
    yield toy
    toy.gate.set()


def _client(model: Any, **limits: Any) -> TestClient:
    return TestClient(create_app(model, Settings(**limits)), raise_server_exceptions=False)


def _error(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    sentence = response.json()["error"]
    assert sentence.endswith(".")
    return str(sentence)


def test_a_label_of_a_text(classifier: ToyPredictor) -> None:
    with _client(classifier) as client:
        response = client.post("/predict", json=GOOD | {"top_k": 2})
    assert response.status_code == 200
    reply = response.json()
    scores = reply.pop("scores")
    assert [score["label"] for score in scores] == ["positive", "negative"]
    assert list(scores[0]) == ["label", "probability"]
    assert reply == {
        "label": "positive",
        "lengths": None,
        "units": None,
        "windows": 1,
        "milliseconds": 2.5,
        "note": None,
        "layers": [],
        "pair_layers": [],
    }


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ("regression", {"value": 0.0}),
        (
            "token-classification",
            {"tags": [{"label": "NAME", "start": 2, "end": 5, "text": "Ada", "probability": 0.9}]},
        ),
        ("embedding", {"embedding": [1.0, 0.0, 0.0, 0.0, 0.0]}),
    ],
)
def test_what_other_tasks_say(task: str, field: dict[str, Any]) -> None:
    with _client(ToyPredictor(task)) as client:
        one = client.post("/predict", json={"text": "🎵 Ada"}).json()
        many = client.post(
            "/predict", json={"queries": [{"text": "🎵 Ada"}, {"text": "b"}]}
        ).json()
    assert {key: one[key] for key in field} == field
    assert next(iter(one)) == next(iter(field))  # what was asked for comes first
    assert [reply["windows"] for reply in many["replies"]] == [1, 1]
    assert many["replies"][0] == one


@pytest.mark.parametrize("task", [*TASKS, "question-answering"])
def test_the_description_fits_the_task(task: str, toy: Any) -> None:
    """Each example is a request that gets a reply, and the page lists every address."""
    with _client(toy if task == "question-answering" else ToyPredictor(task)) as client:
        api, html = client.get("/openapi.json").json(), client.get("/docs").text
        works = {path: post["post"] for path, post in api["paths"].items() if "post" in post}
        for path, operation in works.items():
            assert f"POST {path}" in html
            assert operation["description"] in html
            for example in _examples(api, operation["requestBody"]):
                assert client.post(path, json=example).status_code == 200, example
    own = {
        "classification": {"/predict", "/rank"},
        "regression": {"/predict", "/rank"},
        "embedding": {"/predict", "/rank"},
        "question-answering": {"/answer"},
    }
    assert works.keys() == own.get(task, {"/predict"})
    fields = api["components"]["schemas"]["BatchIn"]["properties"]["queries"]["items"]["$ref"]
    assert ("top_k" in json.dumps(api["components"]["schemas"][fields.rpartition("/")[2]])) == (
        task in ("classification", "question-answering")
    )


def _examples(api: dict[str, Any], body: dict[str, Any]) -> list[Any]:
    schema = body["content"]["application/json"]["schema"]
    names = [one["$ref"].rpartition("/")[2] for one in schema.get("oneOf", [schema])]
    found = [
        example
        for name in names
        for example in api["components"]["schemas"][name].get("examples", ())
    ]
    assert found
    return found


@pytest.mark.parametrize(
    ("task", "path", "instead"),
    [
        ("question-answering", "/predict", "/answer."),
        ("classification", "/answer", "/predict or /rank."),
        ("embedding", "/answer", "/predict or /rank."),
        ("token-classification", "/rank", "/predict."),
    ],
)
def test_an_address_of_another_task_says_where_to_go(
    toy: Any, task: str, path: str, instead: str
) -> None:
    with _client(toy if task == "question-answering" else ToyPredictor(task)) as client:
        for response in (client.post(path, json=GOOD), client.get(path)):
            sentence = _error(response, 404)
            assert sentence == (
                f"{path} is not for the task of this model: send requests to {instead}"
            )


def test_a_task_that_is_not_served(classifier: ToyPredictor) -> None:
    classifier.card["task"] = "captions"
    with pytest.raises(QualaError, match="this model's task is captions"):
        create_app(classifier, Settings())


@pytest.mark.parametrize(
    ("path", "body", "status", "part"),
    [
        ("/predict", {}, 422, "`text` is missing"),
        ("/predict", {"text": " "}, 422, "The text is empty"),
        ("/predict", GOOD | {"pair": ""}, 422, "The pair is empty"),
        ("/predict", GOOD | {"top_k": -1}, 422, "`top_k`"),
        ("/predict", GOOD | {"texts": ["a"]}, 422, "`texts` is not a field"),
        ("/predict", {"text": "refuse"}, 422, "The toy refuses"),
        ("/predict", {"text": "fail"}, 500, "The model failed"),
        ("/predict", {"text": "\ud800"}, 422, "The text is not valid Unicode at character 0"),
        ("/predict", {"queries": [GOOD, {"text": ""}]}, 422, "`queries[1]`: The text is empty"),
        ("/predict", {"queries": [GOOD, {"pair": "b"}]}, 422, "`queries[1].text` is missing"),
        ("/predict", {"queries": [GOOD] * 65}, 413, "at most 64 windows"),
        ("/rank", {"query": 3, "passages": ["a"]}, 422, "`query`: input should be a valid string"),
        ("/rank", {"query": " ", "passages": ["a"]}, 422, "The query is empty"),
        ("/rank", {"query": "q", "passages": []}, 422, "`passages`"),
        ("/rank", {"query": "q", "passages": ["a", ""]}, 422, "`passages[1]`: The pair is empty"),
        ("/rank", {"query": "q", "passages": ["a"], "label": "x"}, 422, "no label `x`"),
        ("/rank", {"query": "q", "passages": ["a"] * 65}, 413, "at most 64 windows"),
    ],
)
def test_wrong_fields_get_a_sentence(
    classifier: ToyPredictor, path: str, body: dict[str, Any], status: int, part: str
) -> None:
    with _client(classifier) as client:
        response = client.post(path, content=json.dumps(body), headers=JSON)
        assert part in _error(response, status)
        assert not classifier.batches or body == {"text": "fail"}  # refused before any work
        assert client.post("/predict", json=GOOD).status_code == 200


@pytest.mark.parametrize("task", ["embedding", "token-classification"])
def test_a_model_of_one_text_takes_no_pair(task: str) -> None:
    with _client(ToyPredictor(task)) as client:
        body = GOOD | {"pair": "b"}
        assert "`pair` is not a field" in _error(client.post("/predict", json=body), 422)


def test_survivors_of_a_text_and_its_pair(classifier: ToyPredictor) -> None:
    body = {"text": "🎵 Ada sings in Rome", "pair": "Some é words", "survivors": True}
    with _client(classifier) as client:
        reply = client.post("/predict", json=body | {"lengths": [64, 64, 8]}).json()
    kept = [
        [text[slice(*span)] for span in reply[key][0]["spans"]]
        for text, key in ((body["text"], "layers"), (body["pair"], "pair_layers"))
    ]
    assert kept == [["Ada", "sings", "in", "Rome"], ["Some", "é", "words"]]
    assert len(reply["layers"]) == len(reply["pair_layers"]) == 3
    assert len(reply["layers"][2]["spans"]) < 4


def test_the_default_budget_holds_for_every_address(classifier: ToyPredictor) -> None:
    with _client(classifier, budget_ms=4) as client:
        one = client.post("/predict", json=GOOD).json()
        named = client.post("/predict", json=GOOD | {"keep": 1}).json()
        client.post("/rank", json={"query": "q", "passages": ["a"]})
    assert one["lengths"] == [64, 24, 8]
    assert named["lengths"] is None
    assert classifier.budgets[0].ms == classifier.budgets[2].ms == 4


def test_passages_come_back_best_first(classifier: ToyPredictor) -> None:
    passages = ["bad", "good", "neither", "the best joy", "thin " * 70]
    with _client(classifier) as client:
        body = {"query": "q", "passages": passages, "keep": 0.5}
        reply = client.post("/rank", json=body).json()
        best = client.post("/rank", json=body | {"top_k": 1, "label": "positive"}).json()
    assert [one["place"] for one in reply["ranking"]] == [3, 1, 2, 0, 4]
    scores = [one["score"] for one in reply["ranking"]]
    assert scores == sorted(scores, reverse=True)
    assert best["ranking"] == reply["ranking"][:1]
    assert [one["note"] for one in reply["ranking"]] == [None] * 4 + ["The text was cut."]
    assert {budget.keep for budget in classifier.budgets} == {0.5}


def test_requests_of_several_clients_run_together(classifier: ToyPredictor) -> None:
    with _client(classifier, batch_wait_ms=5000, max_batch=3) as client:
        submit = client.app.state.dispatcher.submit  # type: ignore[attr-defined]
        first = client.portal.start_task_soon(submit, [TextQuery(text="other")])
        body = {"query": "q", "passages": ["a", "b"]}
        assert len(client.post("/rank", json=body).json()["ranking"]) == 2
        first.result()
    assert sorted(classifier.batches[0]) == ["other", "q", "q"]


def test_a_short_text_does_not_wait_for_a_long_list(
    classifier: ToyPredictor, until: Callable[[Callable[[], bool]], None]
) -> None:
    classifier.gate.clear()
    app = create_app(classifier, Settings(max_batch=2))
    with TestClient(app) as client:
        submit = app.state.dispatcher.submit
        many = [TextQuery(text="many", pair="word " * 200) for _ in range(9)]
        client.portal.start_task_soon(submit, many)
        until(lambda: len(classifier.batches) == 1)
        short = client.portal.start_task_soon(submit, [TextQuery(text="short")])
        until(lambda: app.state.dispatcher.depth == 8)
        classifier.gate.set()
        short.result()
    assert "short" in classifier.batches[1]


def test_work_is_limited_and_counted(classifier: ToyPredictor) -> None:
    app = create_app(classifier, Settings(queue=4, batch_wait_ms=60_000, timeout_s=30))
    with TestClient(app) as client:
        waits = client.portal.start_task_soon(
            app.state.dispatcher.submit, [TextQuery(text="a"), TextQuery(text="b")]
        )
        full = client.post("/rank", json={"query": "q", "passages": ["a"] * 3})
        assert "2 of 4 windows wait, too many for 3 more" in _error(full, 429)
        assert full.headers["Retry-After"] == "1"
        assert client.post("/rank", json={"query": "q", "passages": ["a"] * 5}).status_code == 413
        client.portal.call(app.state.dispatcher.close)
        waits.result()
        assert _error(client.post("/predict", json=GOOD), 503)
        counts = client.get("/metrics").text
    for status in (413, 429, 503):
        assert f'quala_requests_total{{status="{status}"}} 1.0' in counts
    assert "quala_batch_size_sum 2.0" in counts


def test_the_time_limit_is_told(classifier: ToyPredictor) -> None:
    classifier.gate.clear()
    with _client(classifier, timeout_s=0.05) as client:
        assert "within 0.05 s" in _error(client.post("/predict", json=GOOD), 504)
        classifier.gate.set()


def test_who_leaves_takes_the_passages_along(classifier: ToyPredictor) -> None:
    """A client that disconnects is counted as 499, and what waits of it is not run."""

    async def scene() -> None:
        app = create_app(classifier, Settings(batch_wait_ms=60_000, max_batch=64))
        body = json.dumps({"query": "q", "passages": ["a"] * 9}).encode()
        messages = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]
        scope = {
            "type": "http", "method": "POST", "path": "/rank", "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if messages else await asyncio.sleep(60, {})

        async def send(message: Any) -> None:
            pass

        async with app.router.lifespan_context(app):
            await app(scope, receive, send)
            assert app.state.dispatcher.depth == 0

    asyncio.run(scene())
    assert not classifier.batches


EXAMPLES = ["the cat sat", "a 🎵 é tune", "x " * 200]


def test_a_real_classifier_over_http(export_of: Callable[[str], Path]) -> None:
    model: Any = load(export_of("classification"))
    with _client(model) as client:
        card = client.get("/card").json()
        cheapest = card["front"][-1]["lengths"]
        query = {"text": EXAMPLES[1], "pair": "the dog", "top_k": 0, "survivors": True}
        queries = [query, query | {"lengths": cheapest}, {"text": EXAMPLES[2], "budget_ms": 1e9}]
        response = client.post("/predict", json={"queries": queries})
        assert response.status_code == 200, response.text
        full, short, long = response.json()["replies"]
        ranking = client.post(
            "/rank", json={"query": "cat", "passages": EXAMPLES, "label": "good"}
        ).json()
        unknown = client.post("/rank", json={"query": "cat", "passages": ["a"]})
    assert (card["task"], card["labels"]) == ("classification", ["bad", "fair", "good"])
    assert {score["label"] for score in full["scores"]} == set(card["labels"])
    assert sum(score["probability"] for score in full["scores"]) == pytest.approx(1)
    assert full["label"] == full["scores"][0]["label"]
    assert short["lengths"] == cheapest
    found = "".join(query["pair"][slice(*span)] for span in full["pair_layers"][0]["spans"])
    assert found == "thedog"
    assert "tokens, of which the model reads" in long["note"]
    expected = model.rank("cat", EXAMPLES, label="good")
    assert [one["place"] for one in ranking["ranking"]] == [one.place for one in expected]
    assert ranking["ranking"][0]["score"] == pytest.approx(expected[0].score, abs=1e-6)
    assert "give `label`" in _error(unknown, 422)


def test_a_real_regressor_over_http(export_of: Callable[[str], Path]) -> None:
    model: Any = load(export_of("regression"))
    with _client(model) as client:
        value = client.post("/predict", json={"text": EXAMPLES[0], "pair": "a dog"}).json()[
            "value"
        ]
        assert value == pytest.approx(model.predict(EXAMPLES[0], "a dog").value, abs=1e-6)
        reply = client.post("/rank", json={"query": "a dog", "passages": EXAMPLES}).json()
        label = client.post("/rank", json={"query": "a", "passages": ["b"], "label": "good"})
    places = [one.place for one in model.rank("a dog", EXAMPLES)]
    assert [one["place"] for one in reply["ranking"]] == places
    assert "`label` is not a field" in _error(label, 422)


def test_a_real_embedder_over_http(export_of: Callable[[str], Path]) -> None:
    model: Any = load(export_of("embedding"))
    with _client(model) as client:
        queries = [{"text": text} for text in ("a dog", *EXAMPLES)]
        query, *own = client.post("/predict", json={"queries": queries}).json()["replies"]
        body = {"query": "a dog", "passages": EXAMPLES}
        reply = client.post("/rank", json=body).json()["ranking"]
        empty = client.post("/rank", json={"query": "a", "passages": ["b", " "]})
    cosines = [np.dot(query["embedding"], one["embedding"]) for one in own]
    assert [one["place"] for one in reply] == np.argsort(cosines)[::-1].tolist()
    assert [one["score"] for one in reply] == pytest.approx(sorted(cosines)[::-1], abs=1e-6)
    assert [one["note"] is None for one in sorted(reply, key=itemgetter("place"))] == [
        True, True, False,
    ]  # fmt: skip
    assert "`passages[1]`: The text is empty" in _error(empty, 422)


def test_a_real_tagger_over_http(export_of: Callable[[str], Path]) -> None:
    model: Any = load(export_of("token-classification"))
    text = "Anna 🎵 saw Paris, " * 20
    with _client(model) as client:
        reply = client.post("/predict", json={"text": text, "survivors": True}).json()
    assert reply["windows"] > 2
    assert reply["note"] is None
    assert reply["tags"]
    for one, other in zip(reply["tags"], model.predict(text).tags, strict=True):
        assert one["text"] == text[one["start"] : one["end"]] == other.text
        assert one["label"] == other.label in ("PER", "LOC")
