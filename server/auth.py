"""Who is calling: one path for every way of sending a key, and one seam for every place that knows keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import Request

from catalog.errors import NotAuthenticated, NotPermitted

MAX_KEY = 512


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who may call. ``id`` names the key in logs, limits and spend; it is never the key.

    ``models`` are the only models it may name; ``None`` is all.
    """

    id: str
    admin: bool = False
    models: frozenset[str] | None = None
    concurrency: int | None = None


ANONYMOUS = Caller(id="anonymous", admin=True)
"""Everybody, where no keys are set: this machine's own user, on loopback."""


class Authenticator(Protocol):
    """Knows keys."""

    async def authenticate(self, key: str | None) -> Caller:
        """The caller that ``key`` belongs to. Raises NotAuthenticated."""
        ...


class SettingsKeys:
    """The keys of the settings, kept as SHA-256 digests only.

    Looking up the digest in a mapping leaks nothing of the key in its time; the comparison of what was
    found is constant-time besides. No keys at all lets everybody in, which is only started on loopback.
    """

    def __init__(self, keys: Iterable[SecretStr], admin_keys: Iterable[SecretStr] = ()) -> None:
        self._callers: Mapping[bytes, Caller] = {
            **{digest(key.get_secret_value()): _caller(key, admin=False) for key in keys},
            **{digest(key.get_secret_value()): _caller(key, admin=True) for key in admin_keys},
        }

    async def authenticate(self, key: str | None) -> Caller:
        if not self._callers:
            return ANONYMOUS
        if not key:
            raise NotAuthenticated("No API key was given. Send it as 'Authorization: Bearer KEY'.")
        wanted = digest(key)
        for known, caller in self._callers.items():
            if hmac.compare_digest(known, wanted):
                return caller
        raise NotAuthenticated("The API key is not known here.")


def digest(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _caller(key: SecretStr, *, admin: bool) -> Caller:
    return Caller(id=f"key_{digest(key.get_secret_value()).hex()[:12]}", admin=admin)


def presented_key(headers: Headers) -> str | None:
    """The key of a request: ``Authorization: Bearer``, else ``x-api-key`` (Anthropic) or ``api-key`` (Azure)."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        key: str | None = value.strip()
    else:
        key = headers.get("x-api-key") or headers.get("api-key")
    if key is not None and len(key) > MAX_KEY:
        raise NotAuthenticated("The API key is not known here.")
    return key


def caller_of(request: Request) -> Caller:
    """The caller that the gate authenticated."""
    caller: Caller = request.scope["roundhouse.caller"]
    return caller


def require_admin(request: Request) -> Caller:
    """Raises NotPermitted unless the key is an administrator's."""
    caller = caller_of(request)
    if not caller.admin:
        raise NotPermitted("This needs an admin key (admin_keys in the settings).")
    return caller
