"""The addresses that take work: which of them a task has, and what goes in and out as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Body, FastAPI
from fastapi import Request as HttpRequest
from pydantic import Discriminator, Tag, create_model

from quala.errors import QualaError
from quala.runtime.texts import of_passages
from quala.serve import schema
from quala.serve.dispatcher import Asked, Dispatcher, Model, Said
from quala.serve.errors import Refusal

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
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.ErrorOut, "description": text} for status, text in REFUSALS.items()
}


@dataclass(frozen=True, slots=True)
class Route:
    """An address: the types of what it takes and returns, and the steps from these to the work."""

    path: str
    about: str
    takes: Any
    returns: Any
    queries: Callable[[Any, Any, float | None], list[Asked]]
    """To a model, of a body, at a default budget in milliseconds."""
    reply: Callable[[Any, Any, Sequence[Any]], Any]
    """Of a model, to a body, from what it says of the queries."""


@dataclass(frozen=True, slots=True)
class Service:
    """What a model of some task does over HTTP."""

    summary: str
    routes: tuple[Route, ...]


def _named(batch: Any, item: Any) -> Any:
    """Return a batch of some items under its plain name: a service has one kind of batch."""
    return create_model(batch.__name__, __base__=batch[item], __doc__=batch.__doc__)


def _one_or_many(path: str, about: str, takes: Any, returns: Any) -> Route:
    """Return the route of a query, or of several as `{"queries": [...]}`."""
    batch, replies = _named(schema.BatchIn, takes), _named(schema.BatchOut, returns)

    def kind(body: Any) -> str:
        many = "queries" in body if isinstance(body, dict) else isinstance(body, batch)
        return "many" if many else "one"

    def queries(_: Any, body: Any, default_ms: float | None) -> list[Asked]:
        if not isinstance(body, batch):
            return [body.query(default_ms)]
        return schema.each("queries", body.queries, lambda one: one.query(default_ms))

    def reply(_: Any, body: Any, said: Sequence[Any]) -> Any:
        found = [returns.model_validate(one) for one in said]
        return replies(replies=found) if isinstance(body, batch) else found[0]

    either = Annotated[takes, Tag("one")] | Annotated[batch, Tag("many")]  # type: ignore[valid-type]
    return Route(
        path, about, Annotated[either, Discriminator(kind)], returns | replies, queries, reply
    )


def _predict(about: str, takes: Any, returns: Any) -> Route:
    return _one_or_many("/predict", f"{about}, or several at once.", takes, returns)


def _rank(takes: type[schema.RankIn]) -> Route:
    """Return the route of one query with many passages."""

    def queries(model: Any, body: Any, default_ms: float | None) -> list[Asked]:
        model.scorer(_label(body))  # a wrong label is refused before the work
        return list(body.compared(default_ms))

    def reply(model: Any, body: Any, said: Sequence[Any]) -> Any:
        scores = model.scorer(_label(body))(said)
        own = enumerate(of_passages(said, len(scores)))
        found = [
            schema.RankedOut(place=place, score=score, note=one.note)
            for score, (place, one) in zip(scores, own, strict=True)
        ]
        found.sort(key=lambda one: -one.score)
        return schema.RankOut(ranking=found[: body.top_k])

    about = "Compare one query with many passages; the best comes first."
    return Route("/rank", about, takes, schema.RankOut, queries, reply)


def _label(body: schema.RankIn) -> str | None:
    return body.label if isinstance(body, schema.LabelRankIn) else None


SERVICES: Mapping[str, Service] = {
    "question-answering": Service(
        "Answers to questions about a text, at any budget.",
        (
            _one_or_many(
                "/answer",
                "Answer one question, or several at once.",
                schema.QueryIn,
                schema.ReplyOut,
            ),
        ),
    ),
    "classification": Service(
        "Labels of texts and pairs, at any budget.",
        (
            _predict("Classify a text or a pair", schema.LabeledIn, schema.ClassOut),
            _rank(schema.LabelRankIn),
        ),
    ),
    "regression": Service(
        "Values of texts and pairs, at any budget.",
        (_predict("Score a text or a pair", schema.PairIn, schema.ValueOut), _rank(schema.RankIn)),
    ),
    "token-classification": Service(
        "Entities in texts, at any budget.",
        (_predict("Find the entities of a text", schema.TextIn, schema.TagsOut),),
    ),
    "embedding": Service(
        "Embeddings of texts, at any budget.",
        (
            _predict("Embed a text", schema.TextIn, schema.EmbeddingOut),
            _rank(schema.TextRankIn),
        ),
    ),
}
PATHS = sorted({route.path for service in SERVICES.values() for route in service.routes})


def service_of(card: Mapping[str, Any]) -> Service:
    """Return what a model does over HTTP. Raises QualaError for a task that is not served."""
    task = str(card.get("task"))
    if task not in SERVICES:
        raise QualaError(f"`quala serve` has {', '.join(SERVICES)}; this model's task is {task}.")
    return SERVICES[task]


def add_routes(app: FastAPI, service: Service, model: Model, dispatcher: Dispatcher) -> None:
    """Add the addresses of a service, and those of other tasks, which say where to go (404)."""
    for route in service.routes:
        _add(app, route, model, dispatcher)
    own = [route.path for route in service.routes]
    why = f"is not for the task of this model: send requests to {' or '.join(own)}."
    for path in PATHS:
        if path not in own:
            _refuse(app, path, why)


def _add(app: FastAPI, route: Route, model: Model, dispatcher: Dispatcher) -> None:
    async def work(request: HttpRequest, body: Any) -> Any:
        queries = route.queries(model, body, dispatcher.settings.budget_ms)
        return route.reply(model, body, await _unless_gone(request, dispatcher, queries))

    work.__annotations__["body"] = Annotated[route.takes, Body()]
    app.add_api_route(
        route.path,
        work,
        methods=["POST"],
        name=route.path.removeprefix("/"),
        description=route.about,
        response_model=route.returns,
        response_description="The reply.",
        responses=RESPONSES,
    )


def _refuse(app: FastAPI, path: str, why: str) -> None:
    async def elsewhere() -> None:
        raise Refusal(404, f"{path} {why}")

    app.add_api_route(path, elsewhere, methods=["GET", "POST"], include_in_schema=False)


async def _unless_gone(
    request: HttpRequest, dispatcher: Dispatcher, queries: list[Asked]
) -> list[Said]:
    """Return what the model says; when the client disconnects, its queries leave the queue."""
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
