"""Videos at servers that make them without a connection: the work is looked at until it has finished."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from backends.base import Upstream
from backends.http.response import UpstreamResponse
from catalog.errors import InvalidRequest, RoundhouseError, TotalTimeout, UpstreamError, UpstreamProtocolError
from catalog.types import Json

LONGEST = 6 * 3600.0
"""Seconds after which a video is given up."""
TROUBLE = 120.0
"""Seconds for which looks may fail without the work being given up."""
FIRST = 1.0
"""Seconds until the second look, if the longest distance between two allows it."""
_GROWTH = 1.5
_REFUSALS = ("moderation", "safety", "content", "policy", "blocked", "filtered", "invalid")
"""Parts of the codes with which servers say that a video is not made for what it was to show."""


async def looks(look: Callable[[], Awaitable[Json]], upstream: Upstream, *, every: float) -> AsyncGenerator[Json]:
    """A server's reports on its work, again and again, at distances that grow up to ``every`` seconds.

    A look that fails, and may pass by itself, is tried again for :data:`TROUBLE` seconds. Raises the failure, and
    TotalTimeout after :data:`LONGEST` seconds.
    """
    loop = asyncio.get_running_loop()
    began, failing = loop.time(), None
    wait = min(FIRST, every)
    while True:
        rest = wait
        try:
            told = await look()
        except RoundhouseError as error:
            failing = failing or loop.time()
            if not error.retryable or loop.time() - failing > TROUBLE:
                raise
            rest = max(wait, error.retry_after or 0.0)
        else:
            failing = None
            yield told
        if loop.time() - began > LONGEST:
            raise TotalTimeout(f"The endpoint '{upstream.endpoint}' made no video in {LONGEST / 3600:g} hours.")
        await asyncio.sleep(rest)
        wait = min(every, wait * _GROWTH)


async def pieces(response: UpstreamResponse, upstream: Upstream) -> AsyncGenerator[bytes]:
    """The bytes of a video. Raises UpstreamProtocolError for an answer that is text by its content type."""
    kind = response.media_type
    if kind.startswith("text/") or kind == "application/json":
        raise UpstreamProtocolError(
            f"The endpoint '{upstream.endpoint}' answered with '{kind[:80]}' where a video was asked for."
        )
    async for piece in response.iter_bytes():
        yield piece


def not_made(upstream: Upstream, code: object, message: object) -> RoundhouseError:
    """The error of a video that its server did not make, with the server's own code.

    What it refuses to show is the request's fault, and any other failure the server's.
    """
    name = code[:100] if isinstance(code, str) and code else "video_failed"
    text = message[:2000] if isinstance(message, str) and message else "It does not say why."
    told = f"'{upstream.model}' did not make the video: {text}"
    refused = any(part in name.lower() for part in _REFUSALS)
    error: RoundhouseError = InvalidRequest(told, param="prompt") if refused else UpstreamError(told)
    error.code = name
    return error
