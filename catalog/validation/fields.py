"""Checks of single fields of rows and settings: names, addresses, headers, origins. Each raises ValueError."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

_SPACE = re.compile(r"[\s\x00-\x1f\x7f]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""The name of a header (RFC 9110, section 5.6.2)."""
_OF_KEYS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "api-key", "x-api-key", "x-goog-api-key", "xi-api-key"}
)
_OF_THE_CALL = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"}
)
_SECRET_PARAMETERS = frozenset(
    {
        "key",
        "api_key",
        "api-key",
        "apikey",
        "token",
        "access_token",
        "secret",
        "sig",
        "signature",
        "password",
        "code",
    }
)
_KEY_SHAPE = re.compile(
    r"(?:sk|pk|rk|gsk|xai|hf|pplx|nvapi|ghp|csk)[-_][\w*.-]{8,}|(?:Bearer|Basic) \S{8,}|AIza[\w-]{10,}"
)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@*A-Z]+")
_PATH = re.compile(r"(?:/[\w.~-]+)+", re.ASCII)
_HOST = re.compile(r"\w(?:[\w-]{0,61}\w)?(?:\.\w(?:[\w-]{0,61}\w)?)*\.?", re.ASCII)
_LONGEST_HOST = 253
_USUAL_PORTS = {"http": ":80", "https": ":443"}
_ADVICE = "a key does not belong in a row; put it into an environment variable, and name that in key_env"


def check_name(name: str) -> str:
    """The name of a model, which callers send."""
    if not name or name != name.strip():
        raise ValueError("a name must not be empty, and not begin or end with a space")
    return name


def split_address(url: str) -> SplitResult:
    """The parts of a URL of HTTP: with a host, and no space or password."""
    if _SPACE.search(url):
        raise ValueError("it must not contain spaces or line breaks")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 -- raises for one that is no number
    except ValueError:
        parts = urlsplit("")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a key or password does not belong in a URL; name its variable in key_env")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it must be a URL such as https://api.example.com/v1")
    return parts


def check_headers(headers: Mapping[str, str]) -> None:
    """Headers that a row adds to every call: whole lines, none of a call's own, and no key."""
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or any(ord(letter) < 32 and letter != "\t" for letter in value):
            raise ValueError(f"{name[:80]!r} is no header of one line")
        if name.lower() in _OF_THE_CALL:
            raise ValueError(f"'{name}' is made for each call; remove it")
        if name.lower() in _OF_KEYS or _KEY_SHAPE.search(value):
            raise ValueError(f"'{name}': {_ADVICE}")


def check_query(query: Mapping[str, str]) -> None:
    """Parameters that a row adds to every address: no key."""
    for name, value in query.items():
        if value and (name.lower() in _SECRET_PARAMETERS or _KEY_SHAPE.search(value)):
            raise ValueError(f"'{name}': {_ADVICE}")


def check_origin(origin: str) -> None:
    """An origin as browsers send it (RFC 6454, section 6.1), or ``*``."""
    if origin in ("*", "null"):
        return
    scheme, _, rest = origin.partition("://")
    if not _ORIGIN.fullmatch(origin) or rest.endswith(_USUAL_PORTS.get(scheme, "\0")):
        raise ValueError(
            f"no browser sends {origin[:100]!r} as its origin: write scheme://host[:port] in lower case, "
            "without a path, a wildcard or the scheme's usual port, such as https://app.example"
        )


def check_host(host: str) -> str:
    """An IP address or a name of a host to listen on (RFC 1123, section 2.1; underscores as in many networks)."""
    if is_host(host):
        return host
    if not host:
        raise ValueError("it must not be empty: write 0.0.0.0 or :: for every address of this machine")
    raise ValueError(
        f"{host[:100]!r} is no IP address and no name of a host: write one such as 127.0.0.1, without a scheme, "
        "brackets or a port"
    )


def check_host_pattern(pattern: str) -> str:
    """A host as the Host header names it, ``*.`` and the end of its name, or ``*``; returns it in lower case."""
    if pattern != "*" and not is_host(pattern.removeprefix("*.")):
        raise ValueError(
            f"no Host header names {pattern[:100]!r}: write a host without a scheme and a port, such as "
            "models.example.com or *.example.com"
        )
    return pattern.lower()


def is_host(text: str) -> bool:
    """Whether a text is an IP address without brackets, or the name of a host."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return len(text) <= _LONGEST_HOST and _HOST.fullmatch(text) is not None
    return True


def check_network(network: str) -> None:
    """An IP address, or a network as ``10.0.0.0/8``."""
    try:
        ipaddress.ip_network(network)
    except ValueError:
        raise ValueError(
            f"{network[:100]!r} is no IP address and no network: write one such as 10.0.0.7 or 10.0.0.0/8"
        ) from None


def check_path(path: str) -> str:
    """The beginning of a URL's path, without a slash at its end; empty for none."""
    path = path.rstrip("/")
    if path and not is_path(path):
        raise ValueError("it must be a path of plain letters and digits, such as /llm")
    return path


def is_path(text: str) -> bool:
    """Whether a text is a path that can begin every URL of a server: no other host, no query, no dots alone."""
    return _PATH.fullmatch(text) is not None and not {".", ".."} & set(text.split("/"))


def check_apart(own: tuple[str, int], admin: tuple[str | None, int | None]) -> None:
    """Check that a server can listen on both of its addresses. The admin routes' host is else the other's."""
    host, port = admin
    if port is None:
        if host is not None:
            raise ValueError("admin_host needs admin_port")
        return
    same = host in (None, own[0]) or not _EVERY_ADDRESS.isdisjoint((own[0], host))
    if port and port == own[1] and same:  # port 0 is any that is free
        raise ValueError(f"port and admin_port are both {port}: the admin routes need a port of their own")


_EVERY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104
