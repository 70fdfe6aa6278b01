"""Authentication by the keys of the settings and by virtual keys."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping

from pydantic import SecretStr
from starlette.requests import Request

from catalog.errors import NotAuthenticated, NotFound, NotPermitted
from routing.accounts.virtual_keys import VirtualKeys, digest_of
from server.callers import ANONYMOUS, Caller
from server.edge.callers import caller_of
from server.edge.errors import NOTHING_HERE
from server.edge.services import services_of
from server.scope import ADMIN_LISTENER
from server.settings import Settings


class Keys:
    """The keys of the settings, stored as SHA-256 digests only, and the virtual keys.

    Digests are compared whole and in constant time, so timing reveals nothing about a similar key. With no key at
    all, every caller is anonymous if ``allow_anonymous`` is set, which
    :func:`server.configuration.exposure.may_allow_anonymous` allows on loopback only. A revoked virtual key still
    keeps the door closed.
    """

    def __init__(
        self,
        settings: Settings,
        virtual: Callable[[], VirtualKeys | None] = lambda: None,
        *,
        allow_anonymous: bool = True,
    ) -> None:
        self._callers: Mapping[str, Caller] = {
            **_callers(settings.metrics_keys, metrics=True),
            **_callers(settings.api_keys),
            **_callers(settings.admin_keys, admin=True),
        }
        self._closed = any(not caller.metrics for caller in self._callers.values())
        self._virtual = virtual
        self._allow_anonymous = allow_anonymous

    def with_settings(self, settings: Settings) -> Keys:
        """The same virtual keys with new keys of the settings."""
        return Keys(settings, self._virtual, allow_anonymous=self._allow_anonymous)

    def authenticate(self, key: str | None) -> Caller:
        virtual = self._virtual()
        if key:
            wanted = digest_of(key)
            for digest, caller in self._callers.items():
                if hmac.compare_digest(digest, wanted):
                    return caller
            info = virtual.authenticate(key) if virtual is not None else None
            if info is not None:
                return Caller(id=info.id, admin=info.admin, metrics=info.metrics, key=info)
        if self._allow_anonymous and not self._closed and (virtual is None or not virtual.any_calls):
            return ANONYMOUS
        if not key:
            raise NotAuthenticated("No API key was given. Send it as 'Authorization: Bearer KEY'.")
        raise NotAuthenticated("The API key is unknown, expired or revoked.")

    def holder(self, name: str) -> Caller | None:
        """The caller with this id, without an administrator's rights; ``None`` once its key is gone."""
        for caller in self._callers.values():
            if caller.id == name:
                return Caller(id=name)
        virtual = self._virtual()
        if name == ANONYMOUS.id:
            open_door = self._allow_anonymous and not self._closed and (virtual is None or not virtual.any_calls)
            return Caller(id=name) if open_door else None
        info = None if virtual is None else virtual.holder(name)
        return None if info is None else Caller(id=info.id, key=info)


def _callers(keys: Iterable[SecretStr], *, admin: bool = False, metrics: bool = False) -> dict[str, Caller]:
    digests = (digest_of(key.get_secret_value()) for key in keys)
    return {digest: Caller(id=f"settings-{digest[:12]}", admin=admin, metrics=metrics) for digest in digests}


def settings_ids(settings: Settings) -> frozenset[str]:
    """The ids of the keys of the settings, of which metrics keys call no model."""
    return frozenset(caller.id for caller in _callers((*settings.api_keys, *settings.admin_keys)).values())


def require_admin(request: Request) -> Caller:
    """The calling administrator.

    Raises NotPermitted for any other key, and NotFound when administration has an address of its own and the
    request came to another.
    """
    if services_of(request).settings.server.admin_elsewhere and not request.scope.get(ADMIN_LISTENER):
        raise NotFound(NOTHING_HERE)
    caller = caller_of(request)
    if not caller.admin:
        raise NotPermitted("This needs an admin key (admin_keys in the settings).")
    return caller
