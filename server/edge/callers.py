"""The caller and the origin of an HTTP request, and the stand-in for the model that it names."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import Request

from catalog.errors import NotAuthenticated
from server.callers import Caller, Origin
from server.edge.services import services_of
from server.scope import CALLER, STAND_IN, TRACE

M = TypeVar("M", bound=BaseModel)
MAX_KEY = 512


def presented_key(headers: Headers) -> str | None:
    """The key of a request: ``Authorization: Bearer``, else ``x-api-key`` (Anthropic) or ``api-key`` (Azure).

    Raises NotAuthenticated for a key that is too long to be one.
    """
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        key: str | None = value.strip()
    else:
        key = headers.get("x-api-key") or headers.get("api-key")
    if key is not None and len(key) > MAX_KEY:
        raise NotAuthenticated("The API key is unknown, expired or revoked.")
    return key


def caller_of(request: Request) -> Caller:
    """The caller that the gate authenticated."""
    caller: Caller = request.scope[CALLER]
    return caller


def origin_of(request: Request) -> Origin:
    """The origin of the job that a request asks for."""
    scope = request.scope
    return Origin(scope[CALLER], scope[TRACE], request.headers, scope.get(STAND_IN))


def with_stand_in(request: Request, body: M) -> M:
    """The body, or one that names the stand-in, of which the request's origin then tells. Raises ModelNotFound."""
    runtime = services_of(request).runtime
    if runtime is None or not runtime.stand_ins:
        return body
    body, found = runtime.replaced(body)
    if found is not None:
        request.scope[STAND_IN] = found
    return body
