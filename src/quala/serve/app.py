"""The application: routes, the demo page, and the texts of the API page."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException
from fastapi import Request as HttpRequest
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse, Response

from quala import __version__
from quala.errors import QualaError
from quala.runtime.card import Query, Reply
from quala.serve.dispatcher import Answerer, Dispatcher
from quala.serve.docs import docs_html
from quala.serve.errors import Refusal, add_handlers
from quala.serve.middleware import CheckHost, CountRequests, LimitBodies, Metrics
from quala.serve.schema import BatchIn, BatchOut, ErrorOut, HealthOut, QueryIn, ReplyOut, Request
from quala.serve.settings import Settings


@dataclass(frozen=True, slots=True)
class Page:
    """The page and the headers that it is served with."""

    html: str
    headers: dict[str, str]


def load_page() -> Page:
    """Read the demo page; its policy allows only its own script and style."""
    html = (files("quala.serve") / "page.html").read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; script-src {_hashes(html, 'script')}; "
        f"style-src {_hashes(html, 'style')}"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Page(html, headers)


def _hashes(html: str, tag: str) -> str:
    """Return the policy's names for the contents of the page's `tag` elements."""
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
    digests = (hashlib.sha256(content.encode()).digest() for content in contents)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


ANSWER = "/answer"
STOPPING: dict[str, Any] = {"model": HealthOut, "description": "The service is stopping."}
REFUSALS = {
    400: "The body is not JSON in UTF-8.",
    408: "The request arrived too slowly.",
    413: "The request is too large, or needs more windows of the model than a request may.",
    421: "The service does not answer for this host.",
    415: "The request is not declared as JSON.",
    422: "A field is wrong, or the model refuses the input.",
    429: "The queue is full; `Retry-After` says after how many seconds to retry.",
    500: "The model failed.",
    503: "The service is stopping.",
    504: "There was no answer within the time limit.",
}


class StrictRequest(HttpRequest):
    """A request whose JSON may have each key once."""

    async def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(await self.body(), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((key, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise HTTPException(422, f"The body has the key `{key[:100]}` twice")
    return found


class StrictRoute(APIRoute):
    """Reads requests as `StrictRequest`."""

    def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
        """Return the handler, for requests with strict JSON."""
        handle = super().get_route_handler()

        async def strict(request: HttpRequest) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


def create_app(answerer: Answerer, settings: Settings) -> FastAPI:
    """Return the service. A server stops it by closing `app.state.dispatcher`.

    Raises QualaError for a default budget that the model has no times for.
    """
    if settings.budget_ms and not all(point.get("ms") for point in answerer.card["front"]):
        raise QualaError("`--budget-ms` needs an export with times, this one holds none.")
    metrics = Metrics()
    dispatcher = Dispatcher(answerer, settings=settings, metrics=metrics)
    app = FastAPI(
        title="quala",
        summary="Answers to questions about a text, at any budget.",
        version=__version__,
        lifespan=_lifespan(dispatcher),
        docs_url=None,
        redoc_url=None,
    )
    app.state.dispatcher = dispatcher
    app.router.route_class = StrictRoute
    app.add_middleware(
        LimitBodies,
        limit=settings.max_request_bytes,
        seconds=settings.timeout_s,
        admit=dispatcher.admit,
    )
    app.add_middleware(CountRequests, metrics=metrics, path=ANSWER)
    if settings.allowed_hosts:
        app.add_middleware(CheckHost, hosts=settings.allowed_hosts)
    add_handlers(app)
    _add_answer(app, dispatcher)
    _add_facts(app, answerer, dispatcher)
    _add_pages(app, metrics)
    return app


def _lifespan(
    dispatcher: Dispatcher,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        dispatcher.start()
        yield
        await dispatcher.stop()

    return running


def _add_answer(app: FastAPI, dispatcher: Dispatcher) -> None:
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorOut, "description": text} for status, text in REFUSALS.items()
    }

    @app.post(ANSWER, response_description="The reply.", responses=responses)
    async def answer(
        request: HttpRequest, body: Annotated[Request, Body()]
    ) -> ReplyOut | BatchOut:
        """Answer one question, or several at once."""
        queries = _queries(body, dispatcher.settings.budget_ms)
        found = await _unless_gone(request, dispatcher, queries)
        replies = [ReplyOut.model_validate(reply) for reply in found]
        return BatchOut(replies=replies) if isinstance(body, BatchIn) else replies[0]


def _add_facts(app: FastAPI, answerer: Answerer, dispatcher: Dispatcher) -> None:
    @app.get(
        "/health", response_description="The service takes requests.", responses={503: STOPPING}
    )
    async def health(response: Response) -> HealthOut:
        """Say whether the service takes requests."""
        response.status_code = 503 if dispatcher.closed else 200
        return HealthOut(
            status="stopping" if dispatcher.closed else "ok",
            model=str(answerer.card.get("name", "")),
            waiting=dispatcher.depth,
        )

    @app.get("/card", response_description="The facts.")
    async def card() -> dict[str, Any]:
        """Return the facts of the model, the points of its front, and the default budget."""
        return dict(answerer.card) | {"budget_ms": dispatcher.settings.budget_ms}


def _add_pages(app: FastAPI, metrics: Metrics) -> None:
    page = load_page()

    @app.get("/metrics", response_class=Response, response_description="The counts.")
    async def counts() -> Response:
        """Return what the service counts, in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def demo() -> HTMLResponse:
        return HTMLResponse(page.html, headers=page.headers)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_html(app.openapi()))


def _queries(body: QueryIn | BatchIn, default_ms: float | None) -> list[Query]:
    if isinstance(body, QueryIn):
        return [body.query(default_ms)]
    queries = []
    for number, one in enumerate(body.queries):
        try:
            queries.append(one.query(default_ms))
        except QualaError as error:
            raise QualaError(f"`queries[{number}]`: {error}") from error
    return queries


async def _unless_gone(
    request: HttpRequest, dispatcher: Dispatcher, queries: list[Query]
) -> list[Reply]:
    """Return the replies; when the client disconnects, its queries leave the queue."""
    answering = asyncio.ensure_future(dispatcher.submit(queries))
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise Refusal(499, "The client left.")
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


async def _gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
