"""Reverse proxies in front of the server: what their headers say of a request, and the path that they serve under.

Only headers of the proxies that ``server.proxies`` names are believed, and only of the one kind that they set: a
client could send the other kind itself. The client is the address nearest to us that is no such proxy, so that
what a client put before it changes nothing.

A request with a malformed header of a proxy is refused by the gate, as one with a malformed Host header is:
addresses in its answer would be wrong.

Sources: RFC 7239; the X-Forwarded-* headers of nginx, Apache, Traefik and HAProxy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from catalog.validation.fields import is_path
from server.scope import FORWARDED_FAULT
from server.settings import ServerSettings

_HOST = re.compile(r"(?:[\w.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::\d{1,5})?", re.ASCII)
_PAIR = re.compile(r'\s*([\w-]{1,32})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]+))\s*([;,]|$)', re.ASCII)
_ESCAPED = re.compile(r"\\(.)")
_HIDDEN = re.compile(r"unknown|_[\w.-]{1,253}", re.ASCII | re.IGNORECASE)
"""A client that a proxy does not name (RFC 7239, section 6)."""
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
"""The scheme of HTTP for each that proxies name: some tell that of a WebSocket."""


def behind_proxies(app: ASGIApp, settings: ServerSettings) -> ASGIApp:
    """The app behind the proxies of the settings; the app itself if there are none."""
    return BehindProxies(app, settings) if settings.proxies or settings.root_path else app


@dataclass(frozen=True, slots=True)
class Hop:
    """A proxy's account of the request that it got; a field that it does not tell is empty."""

    client: str = ""
    scheme: str = ""
    host: str = ""


class BehindProxies:
    """The layer before every other: it puts the client, the scheme, the host and the path into the scope.

    ``root_path`` is where the proxies serve this server: requests come with it or without it, and addresses in
    answers begin with it. Routes see the path without it.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._networks: Sequence[IPv4Network | IPv6Network] = [ip_network(proxy) for proxy in settings.proxies]
        self._hops = _forwarded if settings.forwarded == "forwarded" else _x_forwarded
        self._takes_prefix = settings.forwarded == "x-forwarded"
        self._root = settings.root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            root = self._root
            peer = scope.get("client")
            if peer is not None and self._is_proxy(peer[0]):
                root = self._believe(scope) or root
            if root and scope["path"] == root and scope.get("method") in ("GET", "HEAD"):
                # Pages name their files relative to the folder that they are in.
                await RedirectResponse(f"{root}/")(scope, receive, send)
                return
            if root:
                _serve_under(root, scope)
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope) -> str:
        """Put into the scope what its proxy says; returns the path that it serves under, if it says one.

        Of a malformed header it puts the name there, and believes nothing.
        """
        headers = Headers(scope=scope)
        try:
            hop = self._outermost(self._hops(headers))
            prefix = headers.get("x-forwarded-prefix", "").rstrip("/") if self._takes_prefix else ""
            if prefix and not is_path(prefix):
                raise _Malformed("X-Forwarded-Prefix")
            if hop is not None:
                self._check(hop)
        except _Malformed as error:
            scope[FORWARDED_FAULT] = error.header
            return ""
        if hop is not None:
            if hop.client:
                scope["client"] = (hop.client, 0)
            if hop.scheme:
                scheme = _SCHEMES[hop.scheme]
                scope["scheme"] = scheme if scope["type"] == "http" else _WEBSOCKETS[scheme]
            if hop.host:
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope["headers"] = [(b"host", hop.host.encode("ascii")), *others]
        return prefix

    def _check(self, hop: Hop) -> None:
        """Raises _Malformed for a value that names no client, scheme or host."""
        if hop.scheme and hop.scheme not in _SCHEMES:
            raise _Malformed("X-Forwarded-Proto" if self._takes_prefix else "Forwarded")
        if hop.host and not _HOST.fullmatch(hop.host):
            raise _Malformed("X-Forwarded-Host" if self._takes_prefix else "Forwarded")
        if hop.client and not _HIDDEN.fullmatch(hop.client) and _parsed(hop.client) is None:
            raise _Malformed("X-Forwarded-For" if self._takes_prefix else "Forwarded")

    def _outermost(self, hops: Sequence[Hop]) -> Hop | None:
        """The hop of the client: the last that is no proxy of ours, else the first."""
        for hop in reversed(hops):
            if not self._is_proxy(hop.client):
                return hop
        return hops[0] if hops else None

    def _is_proxy(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._networks)


class _Malformed(ValueError):
    """A header of a proxy cannot be read; ``header`` is its name."""

    def __init__(self, header: str) -> None:
        super().__init__(header)
        self.header = header


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address)
    except ValueError:
        return None


_WEBSOCKETS = {"http": "ws", "https": "wss"}


def _serve_under(root: str, scope: Scope) -> None:
    """Take the path that the proxies serve under off the request's, and keep it for addresses in answers."""
    path: str = scope["path"]
    if path == root or path.startswith(f"{root}/"):
        scope["path"] = path[len(root) :] or "/"
        raw: bytes | None = scope.get("raw_path")
        if raw is not None and raw.startswith(root.encode("ascii")):
            scope["raw_path"] = raw[len(root) :] or b"/"
    scope["root_path"] = root


def _x_forwarded(headers: Headers) -> list[Hop]:
    """The hops of X-Forwarded-For, -Proto and -Host.

    A list as long as that of the clients has a value for each; of any other, the last proxy's value is meant.
    """
    clients = _listed(headers, "x-forwarded-for")
    count = max(1, len(clients))
    schemes = _for_each(_listed(headers, "x-forwarded-proto"), count)
    hosts = _for_each(_listed(headers, "x-forwarded-host"), count)
    addresses = [_address(client) for client in clients] or [""]
    return [
        Hop(client, scheme.lower(), host)
        for client, scheme, host in zip(addresses, schemes, hosts, strict=True)
        if client or scheme or host
    ]


def _listed(headers: Headers, name: str) -> list[str]:
    values = ",".join(headers.getlist(name)).split(",")
    return [value.strip() for value in values if value.strip()]


def _for_each(values: list[str], count: int) -> list[str]:
    return values if len(values) == count else [values[-1] if values else ""] * count


def _forwarded(headers: Headers) -> list[Hop]:
    """The hops of Forwarded (RFC 7239, section 4). Raises _Malformed."""
    text = ",".join(headers.getlist("forwarded"))
    hops: list[Hop] = []
    fields: dict[str, str] = {}
    at = 0
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            raise _Malformed("Forwarded")
        name, quoted, token, end = pair.groups()
        fields[name.lower()] = token if quoted is None else _ESCAPED.sub(r"\1", quoted)
        at = pair.end()
        if end != ";" or at == len(text):
            hops.append(
                Hop(_address(fields.get("for", "")), fields.get("proto", "").lower(), fields.get("host", ""))
            )
            fields = {}
    return hops


def _address(node: str) -> str:
    """The address of a node without its port: ``192.0.2.1:4711``, ``[2001:db8::1]:4711``, ``_hidden``."""
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.partition(":")[0] if node.count(":") == 1 else node
