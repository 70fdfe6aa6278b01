"""Pictures that a server names by an address, as some do whatever they are asked for: they are fetched at once.

The caller gets the bytes, or an address of this gateway. A server's own address may lead inside its network, or
need its key, and ends when the server likes. Fetched is from the server itself, and from public hosts over HTTPS.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from yarl import URL

from backends.base import Upstream
from backends.fetch import Fetcher
from backends.http import HttpClient
from catalog.errors import RoundhouseError, UpstreamProtocolError
from catalog.types import Json


async def with_bytes(
    events: AsyncGenerator[Json], upstream: Upstream, http: HttpClient, *, key_header: str
) -> AsyncGenerator[Json]:
    """These events of pictures with the bytes in the place of each ``url``.

    Raises UpstreamProtocolError for a picture that cannot be fetched.
    """
    async with aclosing(events):
        async for event in events:
            url = event.pop("url", None)
            if isinstance(url, str) and not event.get("b64_json"):
                event["b64_json"] = await _fetched(url, upstream, http, key_header)
            yield event


async def _fetched(url: str, upstream: Upstream, http: HttpClient, key_header: str) -> str:
    if url.startswith("data:"):
        return url.partition(",")[2]
    try:
        place, own = URL(url), URL(upstream.base_url).origin()
        if place.origin() == own:
            data = await _from_server(place, replace(upstream, base_url=str(own)), http, key_header)
            return base64.b64encode(data).decode()
        if place.scheme == "https":
            public = http.settings.fetch.model_copy(update={"hosts": (place.host,), "ports": (443,)})
            return (await Fetcher(public).fetch(url)).partition(",")[2]
    except (RoundhouseError, ValueError):
        pass  # its message is of no use to the caller, who named no address
    raise UpstreamProtocolError(
        f"The endpoint '{upstream.endpoint}' answered with the address of a picture that cannot be fetched."
    )


async def _from_server(place: URL, server: Upstream, http: HttpClient, key_header: str) -> bytes:
    """The bytes at a place of the server that was asked. Raises ValueError for too many, and as ``open`` does."""
    data = bytearray()
    async with http.open(server, "GET", place.raw_path_qs, key_header=key_header) as response:
        async for piece in response.iter_bytes():
            data += piece
            if len(data) > http.settings.fetch.max_bytes:
                raise ValueError("too large")
    return bytes(data)
