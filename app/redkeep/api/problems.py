"""Answers that are no success: one shape, one sentence, and which of them a route may give."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Response, status
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse


class Problem(BaseModel):
    """What was wrong, and what to do."""

    detail: str = Field(description="One sentence; never the value of a secret")


def _document(description: str, **headers: str) -> dict[str, Any]:
    documented = {name.replace("_", "-"): {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    return {"model": Problem, "description": description, **({"headers": documented} if documented else {})}


INVALID: Final[dict[int | str, dict[str, Any]]] = {422: _document("A parameter is missing or wrong")}
LIMITED: Final[dict[int | str, dict[str, Any]]] = {
    429: _document("Too many requests from this address", Retry_After="Whole seconds until the next request is accepted")
}
KEYED: Final[dict[int | str, dict[str, Any]]] = {
    401: _document("No API key, or a wrong one", WWW_Authenticate="The scheme, and the header that carries the key"),
    **LIMITED,
    **INVALID,
}
REFUSED: Final[dict[int | str, dict[str, Any]]] = {409: _document("This deployment does not allow it")}
UNAVAILABLE: Final[dict[int | str, dict[str, Any]]] = {503: _document("Redis is not available now")}


class Route(APIRoute):
    """A route whose 422 is one sentence that names the parameter, in whichever application; what was sent is not repeated."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def sentence(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                name = first["loc"][-1] if len(first["loc"]) > 1 else "request"
                return JSONResponse({"detail": f"{name}: {first['msg']}"}, status.HTTP_422_UNPROCESSABLE_CONTENT)

        return sentence


async def internal_error(request: Request, error: Exception) -> JSONResponse:
    """500 without a word of what happened: that is in the log."""
    return JSONResponse({"detail": "internal error; see the log"}, 500)
