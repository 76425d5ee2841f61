"""Why a request gets no answer: a status and one sentence, as JSON."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse


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
    """Return `{"error": sentence}`; text that is no valid Unicode is made so."""
    text = sentence.encode("utf-8", "replace").decode("utf-8")
    return JSONResponse({"error": text}, status_code=status, headers=dict(headers or {}))
