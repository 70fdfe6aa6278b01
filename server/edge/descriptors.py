"""The limit of open files: raised at the start, and kept from being reached without a word.

Every connection takes a file descriptor, and the system gives the lowest free number: a new connection with a high
number tells that few are left, without counting them. The last ones are a reserve for calls of upstreams.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import time
from collections.abc import Callable
from typing import Any

import structlog

NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
SHARE = 4
"""One descriptor in so many is reserved."""
QUIET = 60.0
"""Seconds between two warnings."""


def raise_limit() -> None:
    """Raise this process's limit of open files to the highest that it may set; its workers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS refuses "unlimited" here
            structlog.get_logger("server.edge.descriptors").info("limit of open files not raised", limit=soft)


class DescriptorReserve:
    """Tells whether a new connection is served, by its descriptor, and warns at most once a minute."""

    def __init__(self, limit: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``limit`` defaults to that of this process."""
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
        bounded = 0 < self._limit < 2**31
        self._first_reserved = self._limit - self._limit // SHARE if bounded else 2**31
        self._last = self._limit - self._limit // (4 * SHARE) if bounded else 2**31
        self._clock = clock
        self._warned: float | None = None

    def exhausts(self, descriptor: int) -> bool:
        """Whether a connection with this descriptor is to be refused."""
        return descriptor >= self._first_reserved

    def is_last(self, descriptor: int) -> bool:
        """Whether not even a refusal can wait for the connection's request."""
        return descriptor >= self._last

    def warn(self) -> None:
        """Log that connections are refused."""
        now = self._clock()
        if self._warned is not None and now - self._warned < QUIET:
            return
        self._warned = now
        structlog.get_logger("server.edge.descriptors").warning(
            "connections refused: the limit of open files is nearly reached",
            limit=self._limit,
            remedy="raise it: ulimit -n, LimitNOFILE= of systemd, or --ulimit nofile= of Docker",
        )

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an exception of the event loop: want of descriptors is this warning, without a traceback."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in NO_DESCRIPTORS:
            self.warn()
        else:
            loop.default_exception_handler(context)
