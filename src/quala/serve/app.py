"""The application: routes, the demo page, and the texts of the API page."""

from __future__ import annotations

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
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi import Request as HttpRequest
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse, Response

from quala import __version__
from quala.errors import QualaError
from quala.serve.dispatcher import Dispatcher, Model
from quala.serve.docs import docs_html
from quala.serve.errors import add_handlers
from quala.serve.middleware import CheckHost, CountRequests, LimitBodies, Metrics
from quala.serve.routes import add_routes, service_of
from quala.serve.schema import HealthOut, StatusOut
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


TAKES = "The service takes requests."


def _stopping(model: type[StatusOut]) -> dict[int | str, dict[str, Any]]:
    return {503: {"model": model, "description": "The service is stopping."}}


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


def create_app(model: Model, settings: Settings) -> FastAPI:
    """Return the service. A server stops it by closing `app.state.dispatcher`.

    Raises QualaError for a task that is not served, and for a default budget that the model has
    no times for.
    """
    service = service_of(model.card)
    if settings.budget_ms and not all(point.get("ms") for point in model.card["front"]):
        raise QualaError("`--budget-ms` needs an export with times, this one holds none.")
    metrics = Metrics()
    dispatcher = Dispatcher(model, settings=settings, metrics=metrics)
    app = FastAPI(
        title="quala",
        summary=service.summary,
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
    for route in service.routes:
        app.add_middleware(CountRequests, metrics=metrics, path=route.path)
    if settings.allowed_hosts:
        app.add_middleware(CheckHost, hosts=settings.allowed_hosts)
    add_handlers(app)
    add_routes(app, service, model, dispatcher)
    _add_facts(app, model, dispatcher)
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


def _add_facts(app: FastAPI, model: Model, dispatcher: Dispatcher) -> None:
    def status(response: Response) -> str:
        response.status_code = 503 if dispatcher.closed else 200
        return "stopping" if dispatcher.closed else "ok"

    @app.get("/livez", response_description="The process answers.")
    async def livez() -> StatusOut:
        """Say that the process answers, also while it stops; where it does not, restart it."""
        return StatusOut(status="ok")

    @app.get("/readyz", response_description=TAKES, responses=_stopping(StatusOut))
    async def readyz(response: Response) -> StatusOut:
        """Say whether requests are taken: the model is loaded, and the service is not stopping."""
        return StatusOut(status=status(response))

    @app.get("/health", response_description=TAKES, responses=_stopping(HealthOut))
    async def health(response: Response) -> HealthOut:
        """Say whether requests are taken, for which model, and how much waits."""
        return HealthOut(
            status=status(response),
            model=str(model.card.get("name", "")),
            waiting=dispatcher.depth,
        )

    @app.get("/card", response_description="The facts.")
    async def card() -> dict[str, Any]:
        """Return the facts of the model, the points of its front, and the default budget."""
        return dict(model.card) | {"budget_ms": dispatcher.settings.budget_ms}


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
