"""Heads of requests: ids, and the checks of Host and Origin."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Collection
from secrets import token_hex

from starlette.datastructures import Headers
from starlette.types import Scope

from catalog.errors import InvalidRequest, NotPermitted
from server.scope import FORWARDED_FAULT
from server.settings import ServerSettings

_PAGE = 4096
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_PORT = re.compile(r":\d{0,5}", re.ASCII)
_SIMPLE_TYPES = frozenset({"", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"})
"""Types of bodies that a page of any origin may send. Source: the Fetch standard, CORS-safelisted headers."""


class RandomHex:
    """Random hexadecimal text, from random bytes read from the system a page at a time.

    A request has two ids; a system call for each took a twentieth of a plain request's time.
    """

    __slots__ = ("_at", "_page")

    def __init__(self) -> None:
        self._page = ""
        self._at = 0

    def __call__(self, size: int) -> str:
        """``size`` random bytes, at most a page, as text of twice that length."""
        end = self._at + 2 * size
        if end > len(self._page):
            self._page = os.urandom(_PAGE).hex()
            self._at, end = 0, 2 * size
        text = self._page[self._at : end]
        self._at = end
        return text


def request_id(given: str | None, random: Callable[[int], str] = token_hex) -> str:
    """The caller's own id if it is well-formed, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return f"req_{random(12)}"


def check_forwarded(scope: Scope) -> None:
    """Raises InvalidRequest for a request whose reverse proxy sent a malformed header."""
    fault = scope.get(FORWARDED_FAULT)
    if fault is not None:
        raise InvalidRequest(f"The reverse proxy's header {fault} is malformed. Correct the proxy's settings.")


def check_host(host: str | None, settings: ServerSettings) -> None:
    """Accept only names of this server, so that a web page cannot reach it by DNS rebinding.

    Raises InvalidRequest or NotPermitted.
    """
    if "*" in settings.allowed_hosts:
        return
    if host is None:
        raise InvalidRequest("The Host header is missing.")
    name = _host_name(host)
    own = ("localhost", settings.host.lower(), (settings.admin_host or "localhost").lower())
    if name in own or name in settings.allowed_hosts:
        return
    if any(allowed.startswith("*.") and name.endswith(allowed[1:]) for allowed in settings.allowed_hosts):
        return
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        address = None
    if address is not None and (address.is_loopback or settings.host in ("0.0.0.0", "::")):  # noqa: S104
        return
    raise NotPermitted("This server does not answer to that Host. Add it to allowed_hosts in [server].")


def check_origin(origin: str, headers: Headers, allowed: Collection[str]) -> None:
    """Refuse what any web page could send here without being asked by its browser first (CORS's simple requests).

    A body of another type makes the browser ask, as does another method than POST. Raises NotPermitted.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _SIMPLE_TYPES or origin_allowed(origin, headers, allowed):
        return
    raise NotPermitted("This request comes from a page of another origin. Add that to origins in [server.cors].")


def origin_allowed(origin: str, headers: Headers, allowed: Collection[str]) -> bool:
    """Whether a page of this origin is this server's own, or one that the settings allow."""
    if origin in allowed or "*" in allowed:
        return True
    return origin.partition("://")[2].lower() == (headers.get("host") or "").lower()


def _host_name(host: str) -> str:
    """The name or address of a Host header in lower case, without its port; empty for one that is malformed."""
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
    else:
        name, colon, rest = host.partition(":")
        port = colon + rest
    return name.lower() if not port or _PORT.fullmatch(port) else ""
