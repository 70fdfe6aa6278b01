"""The caller and the origin of an HTTP request."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request

from catalog.errors import NotAuthenticated
from server.callers import Caller, Origin
from server.scope import CALLER, TRACE

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
    return Origin(scope[CALLER], scope[TRACE], request.headers)
