"""Callers: the identity that a key stands for, and where a job comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from starlette.datastructures import Headers
from starlette.requests import Request

from catalog.errors import NotAuthenticated
from routing.accounts.virtual_keys import KeyInfo
from server.scope import CALLER, TRACE

MAX_KEY = 512


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. ``id`` names the key in logs, limits and spend; it is never the key.

    ``key`` is the virtual key's record, with the models and limits that it is bound to.
    """

    id: str
    admin: bool = False
    key: KeyInfo | None = None

    def allows(self, model: str) -> bool:
        """Whether this caller may use the model with this id."""
        return self.key is None or self.key.allows(model)


ANONYMOUS = Caller(id="anonymous", admin=True)
"""The caller where no keys are set: this machine's own user, on loopback."""


@dataclass(slots=True)
class Origin:
    """Where a job comes from: its caller, its trace id, and the headers that may state an intent."""

    caller: Caller
    trace: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Authenticator(Protocol):
    """Maps keys to callers. ``authenticate`` is on every request's path, so it reads memory only."""

    def authenticate(self, key: str | None) -> Caller:
        """The caller that ``key`` belongs to. Raises NotAuthenticated."""
        ...


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
        raise NotAuthenticated("The API key is not known here, or no longer good.")
    return key


def caller_of(request: Request) -> Caller:
    """The caller that the gate authenticated."""
    caller: Caller = request.scope[CALLER]
    return caller


def origin_of(request: Request) -> Origin:
    """The origin of the job that a request asks for."""
    scope = request.scope
    return Origin(scope[CALLER], scope[TRACE], request.headers)
