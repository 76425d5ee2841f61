"""The demo page: self-contained, and, where there is a Chromium, alive."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from predicting import ToyPredictor
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from quala.runtime.card import Budget
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


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(theme: int) -> None:
    """The contrast of every color of text is 4.5 and more (WCAG 2.2, AA)."""
    block = _html().split(":root {")[1 + theme].partition("}")[0]
    color = {
        name: "".join(2 * digit for digit in value) if len(value) == 3 else value
        for name, value in re.findall(r"--([\w-]+): #(\w+);", block)
    }
    pairs = [("on-accent", "accent"), ("ink", "mark")]
    pairs += [
        (text, behind)
        for text in ("ink", "soft", "gone", "accent", "bad")
        for behind in ("paper", "card")
    ]
    low = {pair: _contrast(*map(color.__getitem__, pair)) for pair in pairs}
    assert {pair: value for pair, value in low.items() if value < 4.5} == {}


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear))


def _dom(url: str, folder: Path) -> str:
    """Return the page after its script has run in a browser."""
    profile, patience = f"--user-data-dir={folder}", "--virtual-time-budget=10000"
    command = [str(CHROMIUM), *FLAGS, profile, patience, "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert '<p class="error" id="error" role="alert" hidden="">' in done.stdout
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_it_answers_its_example(toy: Any, serve: Callable[[Any], str], tmp_path: Path) -> None:
    dom = _dom(serve(create_app(toy, Settings(budget_ms=27))), tmp_path)
    assert '<p class="answer" id="answer">Valerios Stais</p>' in dom
    assert "<mark><span" in dom
    assert "Layer 6" in dom
    assert 'id="gmacs">3.81<' in dom  # the point that the default budget bought for this text
    assert "ms at 121 tokens" in dom
    ((query,),) = toy.batches
    assert (query.budget.ms, query.budget.lengths) == (27, None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize(
    ("task", "answer", "parts"),
    [
        (
            "classification",
            "negative",
            [">positive</span>", ">67 %</span>", "4 of 29", "Accuracy, test set"],
        ),
        ("embedding", "0.816", ["The two texts", 'class="gone"', "2 of 20"]),
        ("token-classification", "6 found", ["Stais</span><small>NAME</small></mark>"]),
    ],
)
def test_it_shows_what_other_tasks_say(
    serve: Callable[[Any], str], tmp_path: Path, task: str, answer: str, parts: list[str]
) -> None:
    dom = _dom(serve(create_app(ToyPredictor(task), Settings(budget_ms=4))), tmp_path)
    assert f'<p class="answer" id="answer">{answer}</p>' in dom
    assert 'id="gmacs">0.20<' in dom  # 4 ms buy the cheapest point
    assert [part for part in parts if part not in dom] == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_it_says_that_there_is_no_answer(
    toy: Any, serve: Callable[[Any], str], tmp_path: Path
) -> None:
    app = create_app(toy, Settings())

    @app.middleware("http")
    async def unanswerable(request: Any, call_next: Callable[[Any], Any]) -> Any:
        response = await call_next(request)
        if request.url.path != "/answer":
            return response
        reply = json.loads(b"".join([part async for part in response.body_iterator]))
        return JSONResponse(reply | {"answers": [], "no_answer": 0.93})

    dom = _dom(serve(app), tmp_path)
    assert '<p class="answer" id="answer">No answer (probability 93 %)</p>' in dom


CONTEXT = "🎵 Ada Bell sings in Rome."
GOOD = {"question": "Who sings?", "context": CONTEXT}
JSON = {"Content-Type": "application/json"}


def _error(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    sentence = response.json()["error"]
    assert sentence.endswith(".")
    assert "Traceback" not in sentence
    return str(sentence)


def test_an_answer(client: TestClient) -> None:
    response = client.post("/answer", json=GOOD)
    assert response.status_code == 200
    reply = response.json()
    (answer,) = reply.pop("answers")
    assert CONTEXT[answer["start"] : answer["end"]] == answer["text"] == "Ada Bell"
    assert (answer["score"], answer["probability"]) == (9.0, 0.86)
    assert reply == {
        "lengths": None,
        "units": None,
        "windows": 1,
        "milliseconds": 12.34,
        "note": None,
        "layers": [],
        "no_answer": None,
    }


def test_more_answers_and_survivors(client: TestClient) -> None:
    wanted = GOOD | {"top_k": 2, "survivors": True, "lengths": [384, 8]}
    reply = client.post("/answer", json=wanted).json()
    assert [answer["text"] for answer in reply["answers"]] == ["Ada Bell", "Rome"]
    assert reply["lengths"] == [384, 8]
    first, last = reply["layers"]
    assert len(first["spans"]) > len(last["spans"]) == 1
    assert last["kept"] < last["tokens"]


def test_a_note_says_where_the_budget_could_not_be_kept(client: TestClient) -> None:
    assert client.post("/answer", json=GOOD | {"budget_ms": 0.5}).json()["note"]


def test_a_batch_has_a_reply_for_each_in_order(client: TestClient) -> None:
    queries = [GOOD, {"question": "Where?", "context": "In Paris.", "keep": 0.5}]
    replies = client.post("/answer", json={"queries": queries}).json()["replies"]
    assert [reply["answers"][0]["text"] for reply in replies] == ["Ada Bell", "In Paris"]


@pytest.mark.parametrize(
    ("named", "budget"),
    [
        ({}, {"ms": 7.0}),
        ({"strict": True}, {"ms": 7.0, "strict": True}),
        ({"budget_ms": 3}, {"ms": 3.0}),
        ({"budget_macs": 1e9}, {"macs": 1e9}),
        ({"keep": 1}, {"keep": 1.0}),
        ({"lengths": [9, 8]}, {"lengths": (9, 8)}),
        ({"lengths": [9, 8], "layers": "6x7"}, {"lengths": (9, 8), "layers": "6x7"}),
    ],
)
def test_budgets_reach_the_model(toy: Any, named: dict[str, Any], budget: dict[str, Any]) -> None:
    with TestClient(create_app(toy, Settings(budget_ms=7))) as client:
        assert client.post("/answer", json=GOOD | named).status_code == 200
    seen = toy.batches[0][0].budget
    assert {key: getattr(seen, key) for key in budget} == budget
    assert sum(getattr(seen, key) is not None for key in ("ms", "macs", "keep", "lengths")) == 1


def test_layers_alone_take_the_place_of_the_services_budget(toy: Any) -> None:
    with TestClient(create_app(toy, Settings(budget_ms=7))) as client:
        assert client.post("/answer", json=GOOD | {"layers": "6x7"}).status_code == 200
        both = client.post("/answer", json=GOOD | {"layers": "6x7", "keep": 0.5})
    assert toy.batches[0][0].budget == Budget(layers="6x7")
    assert both.status_code == 422
    assert "got keep, layers" in both.json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"question": "q"}, 422, "`context` is missing"),
        ({"question": 1, "context": "c"}, 422, "`question`: input should be a valid string"),
        (GOOD | {"top_k": "2"}, 422, "`top_k`: input should be a valid integer"),
        (GOOD | {"top_k": 0}, 422, "`top_k`"),
        (GOOD | {"top_k": 10**30}, 422, "`top_k`"),
        (GOOD | {"keep": True}, 422, "`keep`"),
        (GOOD | {"lengths": [1.5]}, 422, "`lengths[0]`"),
        (GOOD | {"bugdet": 1}, 422, "`bugdet` is not a field"),
        (GOOD | {"keep": 2}, 422, "at most 1, got 2"),
        (GOOD | {"keep": 0.5, "budget_ms": 1}, 422, "got ms, keep"),
        (GOOD | {"question": " "}, 422, "The question is empty"),
        (GOOD | {"question": "refuse"}, 422, "The toy refuses"),
        ({"queries": []}, 422, "`queries`"),
        ({"queries": [GOOD, {"question": "q"}]}, 422, "`queries[1].context` is missing"),
        ({"queries": [GOOD, GOOD | {"context": ""}]}, 422, "`queries[1]`: The context is empty"),
        ({"queries": [GOOD] * 65}, 413, "at most 64 windows of the model, got 65"),
        ({"queries": [1] * 9999}, 422, "`queries[0]`"),
        ({"queries": GOOD}, 422, "`queries`"),
        ([GOOD], 422, "must be a JSON object"),
        (None, 422, "JSON"),
        (3, 422, "must be a JSON object"),
    ],
)
def test_wrong_fields_get_a_sentence(
    client: TestClient, body: object, status: int, part: str
) -> None:
    response = client.post("/answer", content=json.dumps(body), headers=JSON)
    assert part in _error(response, status)


@pytest.mark.parametrize(
    ("content", "status", "part"),
    [
        (b"{", 400, "not valid JSON"),
        (b"", 422, "body is empty"),
        (b'{"question": "\xff", "context": "c"}', 400, "UTF-8"),
        (
            b'{"question": "\\ud800", "context": "c"}',
            422,
            "The question is not valid Unicode at character 0.",
        ),
        (b'{"\\ud800": 1, "question": "q", "context": "c"}', 422, "not valid Unicode"),
        (b'{"question": "q", "context": "c", "keep": NaN}', 422, "above 0, got nan"),
        (b'{"question": "q", "context": "c", "keep": 1e999}', 422, "above 0, got inf"),
        (b'{"question": "q", "context": "c", "keep": ' + b"9" * 5000 + b"}", 400, "JSON"),
        (b"[" * 100_000, 400, "JSON"),
        (b'{"a":' * 50_000, 400, "JSON"),
        (b'{"question": "q", "context": "c", "question": "r"}', 422, "the key `question` twice"),
        (b'{"question": "q", "context": "c", "x": {"\\ud800": 1, "\\ud800": 2}}', 422, "twice"),
        (b'{"question": "q", "context": "c", "top_k": 1e400}', 422, "`top_k`"),
    ],
    ids=[
        "cut",
        "none",
        "bytes",
        "surrogate",
        "key",
        "nan",
        "infinite",
        "digits",
        "deep",
        "deep objects",
        "twice",
        "half twice",
        "huge",
    ],
)
def test_malformed_bodies_get_a_sentence(
    client: TestClient, content: bytes, status: int, part: str
) -> None:
    assert part in _error(client.post("/answer", content=content, headers=JSON), status)


def test_a_body_must_be_declared_as_json(client: TestClient) -> None:
    response = client.post("/answer", content=json.dumps(GOOD), headers={"Content-Type": "a/b"})
    assert "Content-Type: application/json" in _error(response, 415)


def test_other_addresses_and_methods_get_a_sentence(client: TestClient) -> None:
    assert "nothing at this address" in _error(client.get("/nowhere"), 404)
    assert "method" in _error(client.get("/answer"), 405)


def test_a_failure_of_the_model_is_logged_and_survived(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    sentence = _error(client.post("/answer", json=GOOD | {"question": "fail"}), 500)
    assert "secret" not in sentence
    assert "a secret of the toy" in caplog.text
    assert client.post("/answer", json=GOOD).status_code == 200


def test_a_failure_of_the_service_is_a_sentence(client: TestClient, toy: Any) -> None:
    toy.card = {"name": object(), "front": object()}
    assert "the reason is in its log" in _error(client.get("/card"), 500)


def test_a_full_queue_says_when_to_come_back(toy: Any) -> None:
    app = create_app(toy, Settings(queue=1, batch_wait_ms=60_000, max_batch=8))
    with TestClient(app) as client:
        # the queue's one place is taken by a query that waits for others
        future = client.portal.start_task_soon(app.state.dispatcher.submit, [_waiting()])
        response = client.post("/answer", json=GOOD)
        assert "queue is full" in _error(response, 429)
        assert response.headers["Retry-After"] == "1"
        client.portal.call(app.state.dispatcher.close)
        assert len(future.result()) == 1


def _waiting() -> Any:
    from quala.runtime.card import Query

    return Query(question="q", context="c")


def test_the_time_limit_is_told(toy: Any) -> None:
    toy.gate.clear()
    with TestClient(create_app(toy, Settings(timeout_s=0.05))) as client:
        assert "within 0.05 s" in _error(client.post("/answer", json=GOOD), 504)
        toy.gate.set()


def test_a_stopping_service_refuses_and_says_so(toy: Any) -> None:
    app = create_app(toy, Settings())
    with TestClient(app) as client:
        client.portal.call(app.state.dispatcher.close)
        assert "stopping" in _error(client.post("/answer", json=GOOD), 503)
        assert client.get("/health").status_code == 503
        assert client.get("/health").json()["status"] == "stopping"


def test_health_and_card(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok", "model": "toy-minilm", "waiting": 0}
    card = client.get("/card").json()
    assert (card["precision"], card["budget_ms"], len(card["front"])) == ("int8", None, 6)


def test_the_description_names_every_error(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    responses = api["paths"]["/answer"]["post"]["responses"]
    assert {"200", "400", "413", "422", "429", "500", "503", "504"} <= responses.keys()
    assert "HTTPValidationError" not in api["components"]["schemas"]
