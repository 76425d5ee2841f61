"""Error responses: a status and one sentence, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from quala.errors import QualaError


class Refusal(Exception):
    """A request that is not answered; its message is one sentence for the client.

    `retry_after` is the number of seconds after which the same request may succeed.
    """

    def __init__(self, status: int, sentence: str, *, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after

    def response(self) -> JSONResponse:
        """Return the refusal as a response."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return error_response(self.status, str(self), headers=headers)


def error_response(
    status: int, sentence: str, *, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return `{"error": sentence}`; characters that are not valid Unicode are replaced."""
    text = sentence.encode("utf-8", "replace").decode("utf-8")
    return JSONResponse({"error": text}, status_code=status, headers=dict(headers or {}))


TAGS = ("body", "one", "many")
SENTENCES = {
    400: "The body is not JSON in UTF-8.",
    404: "There is nothing at this address; /docs lists what there is.",
    405: "This address does not take that method; /docs lists what there is.",
}


def add_handlers(app: FastAPI) -> None:
    """Turn every exception of the app into `{"error": sentence}`."""
    app.add_exception_handler(QualaError, _mistake)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def sentence_of(error: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors as a sentence that names the field."""
    where = _place(error["loc"])
    kind = error["type"]
    if kind == "json_invalid":
        place = f"at character {error['loc'][-1]}"
        return f"The body is not valid JSON: {error['ctx']['error']} {place}."
    if kind == "missing":
        return f"`{where}` is missing." if where else "The body is empty; it must be JSON."
    if kind == "extra_forbidden":
        return f"`{where}` is not a field; /docs lists the fields."
    if kind == "string_unicode":
        return "A name in the body is not valid Unicode."
    if not where:
        return "The body must be a JSON object."
    message = str(error["msg"])
    return f"`{where}`: {message[:1].lower()}{message[1:]}."


def _place(location: tuple[int | str, ...]) -> str:
    parts = list(location)
    while parts and parts[0] in TAGS:
        del parts[0]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")[:100]


async def _mistake(request: Request, error: Exception) -> Response:
    return error_response(422, str(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if "json" not in request.headers.get("content-type", "") and error.body:
        return error_response(415, "The request needs `Content-Type: application/json`.")
    first = error.errors()[0]
    return error_response(400 if first["type"] == "json_invalid" else 422, sentence_of(first))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = SENTENCES.get(error.status_code, f"{error.detail}.")
    return error_response(error.status_code, sentence, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    return error_response(500, "The service failed; the reason is in its log.")
