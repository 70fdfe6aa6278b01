"""The Roundhouse servers that a request came through, so that one whose endpoint leads back to itself is refused.

Their ids travel in the header CDN-Loop (RFC 8586). The providers of the built-in catalogue do not get it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from secrets import token_hex

from backends.base import Upstream
from catalog.errors import Unavailable
from catalog.model import Endpoint
from catalog.toml_rows import builtin_rows

HEADER = "cdn-loop"
_PROTOCOLS = frozenset({"openai", "anthropic", "ollama"})
"""Those that a Roundhouse answers in."""
_ID = re.compile(r"roundhouse-[0-9a-f]{16}")
_MOST = 16
"""Servers in a row; more is a loop through servers that have lost their own ids."""

_passed: ContextVar[str] = ContextVar("hops", default="")


class Hops:
    """Adds this server's id to calls, and refuses requests that carry it."""

    def __init__(self) -> None:
        self._own = f"roundhouse-{token_hex(8)}"

    @contextmanager
    def passing(self, header: str) -> Iterator[None]:
        """Have the calls in the block carry the ids of a request's header, too. Raises Unavailable for a loop."""
        ids = list(dict.fromkeys(_ID.findall(header)))
        if self._own in ids or len(ids) > _MOST:
            raise Unavailable(
                "This request came through this server before: an endpoint leads back to it. Correct the base_url "
                "of that endpoint, here or in the server that it names."
            )
        token = _passed.set(", ".join(ids))
        try:
            yield
        finally:
            _passed.reset(token)

    def headers_of(self, endpoint: Endpoint) -> Mapping[str, str]:
        """The headers of every call to an endpoint."""
        if endpoint.protocol not in _PROTOCOLS or endpoint.base_url in _providers():
            return endpoint.headers
        return {**endpoint.headers, HEADER: self._own}

    def marked(self, upstream: Upstream) -> Upstream:
        """The upstream of a call, with the ids that the request brought."""
        passed = _passed.get()
        own = upstream.headers.get(HEADER) if passed else None
        if own is None:
            return upstream
        return replace(upstream, headers={**upstream.headers, HEADER: f"{passed}, {own}"})


@cache
def _providers() -> frozenset[str]:
    return frozenset(endpoint.base_url for endpoint in builtin_rows()[1])
