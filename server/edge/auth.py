"""Who is calling: one path for every way of sending a key, and one seam for every place that knows keys."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import Request

from catalog.errors import NotAuthenticated, NotFound, NotPermitted
from routing.accounts.virtual_keys import KeyInfo, VirtualKeys, digest_of
from server.edge.errors import NOTHING_HERE
from server.services import services_of

MAX_KEY = 512
ADMIN_DOOR = "roundhouse.admin_door"
"""In the scope of a request that came to the address of administration."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who may call. ``id`` names the key in logs, limits and spend; it is never the key.

    ``key`` is the virtual key's record, with the models and limits it is bound to.
    """

    id: str
    admin: bool = False
    key: KeyInfo | None = None

    def allows(self, model: str) -> bool:
        """Whether this caller may use the model of this id."""
        return self.key is None or self.key.allows(model)


ANONYMOUS = Caller(id="anonymous", admin=True)
"""Everybody, where no keys are set: this machine's own user, on loopback."""


class Authenticator(Protocol):
    """Knows keys. ``authenticate`` is on every request's path: memory only."""

    def authenticate(self, key: str | None) -> Caller:
        """The caller that ``key`` belongs to. Raises NotAuthenticated."""
        ...


class Keys:
    """The keys of the settings, kept as SHA-256 digests only, and the virtual keys.

    Digests are compared whole and in constant time, so the time taken tells nothing about a key that is near.
    Without any key at all everybody is let in where ``open_door`` says so, which
    :func:`server.settings.may_be_open` allows on loopback only. A virtual key that was revoked still keeps the
    door closed.
    """

    def __init__(
        self,
        keys: Iterable[SecretStr],
        admin_keys: Iterable[SecretStr],
        virtual: Callable[[], VirtualKeys | None] = lambda: None,
        *,
        open_door: bool = True,
    ) -> None:
        self._callers: Mapping[str, Caller] = {**_callers(keys, admin=False), **_callers(admin_keys, admin=True)}
        self._virtual = virtual
        self._open_door = open_door

    def with_settings(self, keys: Iterable[SecretStr], admin_keys: Iterable[SecretStr]) -> Keys:
        """The same virtual keys beside other keys of the settings."""
        return Keys(keys, admin_keys, self._virtual, open_door=self._open_door)

    def authenticate(self, key: str | None) -> Caller:
        virtual = self._virtual()
        if key:
            wanted = digest_of(key)
            for digest, caller in self._callers.items():
                if hmac.compare_digest(digest, wanted):
                    return caller
            info = virtual.authenticate(key) if virtual is not None else None
            if info is not None:
                return Caller(id=info.id, admin=info.admin, key=info)
        if self._open_door and not self._callers and (virtual is None or not virtual.list()):
            return ANONYMOUS
        if not key:
            raise NotAuthenticated("No API key was given. Send it as 'Authorization: Bearer KEY'.")
        raise NotAuthenticated("The API key is not known here, or no longer good.")


def _callers(keys: Iterable[SecretStr], *, admin: bool) -> dict[str, Caller]:
    digests = (digest_of(key.get_secret_value()) for key in keys)
    return {digest: Caller(id=f"settings-{digest[:12]}", admin=admin) for digest in digests}


def presented_key(headers: Headers) -> str | None:
    """The key of a request: ``Authorization: Bearer``, else ``x-api-key`` (Anthropic) or ``api-key`` (Azure)."""
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
    caller: Caller = request.scope["roundhouse.caller"]
    return caller


def require_admin(request: Request) -> Caller:
    """The administrator who calls.

    Raises NotPermitted for any other key; and NotFound when administration has an address of its own and this
    is not it, as if there were no such route.
    """
    if services_of(request).settings.server.admin_elsewhere and not request.scope.get(ADMIN_DOOR):
        raise NotFound(NOTHING_HERE)
    caller = caller_of(request)
    if not caller.admin:
        raise NotPermitted("This needs an admin key (admin_keys in the settings).")
    return caller
