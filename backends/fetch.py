"""Fetches pictures and videos by the URLs in a chat request. Off unless the operator lists hosts.

A remote provider fetches URLs from its own network: its backend passes them on unread, but for a video that a
model gets as frames. A local worker never fetches. So only this module opens connections that a caller asked for,
guarded against request forgery (SSRF):

- the URL is matched against a strict grammar, smaller than any client's, so that no two parsers can disagree about
  its host; an IP address in any notation is refused;
- the host and the port are on the operator's lists;
- the name is looked up once, all its IP addresses must be public, and the connection goes to those addresses, not
  to the result of a second lookup (DNS rebinding);
- redirects are refused, bytes and seconds are bounded, and the body must be a picture or a video.

Source of the special-purpose ranges: the IANA registries of IPv4 and IPv6 special-purpose addresses.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple
from urllib.parse import unquote

from backends.base import Timeouts, Upstream
from backends.http import HttpClient
from backends.settings import BackendSettings, FetchSettings
from backends.wire.pictures import checked_picture
from catalog.errors import InvalidRequest, PayloadTooLarge, RoundhouseError, UndecodableMedia, UpstreamError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Looks up a host and port; returns IP addresses as text. Raises OSError when the name has none."""

_Kind = Literal["image", "video"]
_NOUNS: Mapping[_Kind, str] = {"image": "picture", "video": "video"}
MAX_URL = 2048
MAX_HEAD = 4096
"""Characters of an address in which its host stands."""
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)+)"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<rest>/[!-\[\]-~]*)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_REFUSED = tuple(
    ipaddress.ip_network(net)
    for net in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's metadata and DNS, on a public address
        "::/8", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16",
        "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/9", "ff00::/8",
    )
)  # fmt: skip
_UNICAST6 = ipaddress.ip_network("2000::/3")


_OF_NETWORKS = frozenset(
    {
        *("localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "corp", "private"),
        *("ip6-localhost", "ip6-loopback", "home.arpa", "cluster.local"),
    }
)
"""Names that lead to a machine or network of one's own, alone or at the end of a name (RFC 6761, 6762, 8375)."""
_SINGLE = re.compile(r"(?!localhost)[a-z_-][a-z0-9_-]*(?::.*)?|")
_AUTHORITY = re.compile(r"https?:/*([^/?#]*)")


class Target(NamedTuple):
    """The parts of a URL that may be fetched."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        return self.origin + self.path

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def target_of(url: str, settings: FetchSettings) -> Target:
    """Parse a URL. Raises InvalidRequest unless the grammar and the operator's lists allow it."""
    if not settings.hosts:
        raise InvalidRequest(
            "This server does not fetch pictures by address, nor videos. Send the data itself as a data: URL "
            "('data:image/png;base64,...'), or have the operator list hosts in [backends.fetch].",
            param="messages",
        )
    found = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    if found is None:
        raise InvalidRequest("An address must be plain: http or https, a host name, and a path.", param="messages")
    scheme, host = found["scheme"].lower(), found["host"].lower()
    port = int(found["port"] or {"http": 80, "https": 443}[scheme])
    if _NUMBER.fullmatch(host.rpartition(".")[2]) or not _listed(host, settings.hosts):
        raise InvalidRequest("Nothing is fetched from this host.", param="messages")
    if port not in settings.ports:
        raise InvalidRequest("Nothing is fetched from this port.", param="messages")
    return Target(scheme, host, port, found["rest"] or "/")


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet: in no private, local, shared, translated or reserved range."""
    if any(address in net for net in _REFUSED if net.version == address.version):
        return False
    return address.is_global and (address.version == 4 or address in _UNICAST6)


def leads_inside(url: str, listed: Sequence[str] = ()) -> bool:
    """Whether a URL names a host that is not on the public internet, in any notation that some client reads.

    Names are not looked up: one without a dot, or of a domain for networks of one's own, leads inside. ``listed``
    are hosts that may be named, as in :class:`FetchSettings`.
    """
    plain = unicodedata.normalize("NFKC", unquote(url[:MAX_HEAD])).lower().replace("\\", "/")
    found = _AUTHORITY.match("".join(letter for letter in plain if letter.isprintable() and not letter.isspace()))
    if found is None:
        return False
    # Parsers disagree about "@": what stands before it may be the host, too, but names of users have no dot.
    *before, last = found[1].split("@")
    parts = [last, *(part for part in before if not _SINGLE.fullmatch(part))]
    return any(_is_inside(part) and not _listed(_host_of(part), listed) for part in parts)


def _host_of(authority: str) -> str:
    """The host of a host and port, without the dots at its end."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].partition("%")[0]
    return authority.partition(":")[0].rstrip(".")


def _is_inside(authority: str) -> bool:
    host = _host_of(authority)
    if authority.startswith("[") or authority.count(":") > 1:
        try:
            return not is_public(ipaddress.IPv6Address(host if authority.startswith("[") else authority))
        except ValueError:
            return authority.startswith("[")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return not is_public(ipaddress.IPv4Address(socket.inet_aton(host)))
        except (OSError, UnicodeError):
            return True
    return "." not in host or any(host == name or host.endswith("." + name) for name in _OF_NETWORKS)


async def look_up(host: str, port: int) -> Sequence[str]:
    """Look a host up with the system's resolver, as :data:`Resolve`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class Fetcher:
    """Fetches pictures and videos."""

    def __init__(
        self, settings: FetchSettings, *, resolve: Resolve = look_up, public: Callable[[Address], bool] = is_public
    ) -> None:
        """``resolve`` looks names up, and ``public`` says which of their addresses may be connected to."""
        self._settings = settings
        self._resolve = resolve
        self._public = public
        self._http = HttpClient(BackendSettings(keepalive=0))  # no proxy, and no connection is reused

    async def fetch(self, url: str) -> str:
        """Fetch a picture; returns it as a ``data:`` URL.

        Raises InvalidRequest (not allowed, or the fetch failed), UndecodableMedia, PayloadTooLarge.
        """
        data = await self._fetched(url, "image", self._settings.max_bytes)
        picture = checked_picture(data)
        return f"data:image/{picture.kind};base64,{base64.b64encode(data).decode()}"

    async def fetch_video(self, url: str) -> bytes:
        """Fetch a video; returns its bytes, which nobody has looked at. Raises as :meth:`fetch`."""
        return await self._fetched(url, "video", self._settings.max_video_bytes)

    async def _fetched(self, url: str, kind: _Kind, limit: int) -> bytes:
        target = target_of(url, self._settings)
        try:
            async with asyncio.timeout(self._settings.timeout):
                addresses = await self._checked(target)
                return await self._read(target, addresses, kind, limit)
        except (TimeoutError, OSError, UpstreamError):
            # No cause: a caller must not learn from it whether a host is down, closed or slow (port scanning).
            raise InvalidRequest(f"The {_NOUNS[kind]} could not be fetched.", param="messages") from None

    async def _checked(self, target: Target) -> tuple[Address, ...]:
        found = await self._resolve(target.host, target.port)
        addresses = tuple(ipaddress.ip_address(text.partition("%")[0]) for text in found)
        if not addresses or not all(self._public(address) for address in addresses):
            raise InvalidRequest("Nothing is fetched from this host.", param="messages")
        return addresses

    async def _read(self, target: Target, addresses: tuple[Address, ...], kind: _Kind, limit: int) -> bytes:
        seconds = self._settings.timeout
        upstream = Upstream(
            endpoint="pictures",
            protocol="http",
            base_url=target.origin,
            model="",
            addresses=tuple(map(str, addresses)),
            timeouts=Timeouts(connect=seconds, first_byte=seconds, idle=seconds, total=seconds),
        )
        headers = {"accept": f"{kind}/*"}
        noun = _NOUNS[kind]
        try:
            async with self._http.open(upstream, "GET", target.path, headers=headers, errors=_refusal) as response:
                if response.status != 200:
                    raise _refusal(response.status)
                if not response.media_type.startswith(f"{kind}/") or "content-encoding" in response.headers:
                    raise UndecodableMedia(f"The {noun}'s address does not lead to a {noun}.", param="messages")
                data = bytearray()
                async for piece in response.iter_bytes(sys.maxsize):
                    data += piece
                    if len(data) > limit:
                        raise PayloadTooLarge(f"The {noun} at the address is too large.", param="messages")
                return bytes(data)
        finally:
            self._http.close_idle()


def _refusal(status: int, *_: object) -> RoundhouseError:
    return InvalidRequest(
        f"It could not be fetched: its server answered {status}. Redirects are not followed.",
        param="messages",
    )


def _listed(host: str, hosts: Sequence[str]) -> bool:
    return any(host == entry or (entry.startswith("*.") and fnmatchcase(host, entry)) for entry in hosts)
