"""HTTP clients without a network: one takes a backend's request, one gives a backend an answer that came before.

Between them lies a provider's batch: the backend that translates ordinary calls translates those of batches, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from backends.base import Upstream
from backends.deferred.api import Recorded
from backends.http import HttpClient, UpstreamResponse
from backends.http.connection import Connection
from backends.http.deadlines import Deadlines
from backends.http.errors import ErrorReader, read_error
from backends.settings import BackendSettings
from catalog.errors import RoundhouseError, UpstreamError
from catalog.types import Json


class Captured(RoundhouseError):
    """Carries the request that a backend would have sent, and ends its call."""

    def __init__(self, upstream: Upstream, path: str, body: Json, headers: Mapping[str, str]) -> None:
        super().__init__("The request goes into a batch.")
        self.upstream = upstream
        self.path = path
        self.body = body
        self.sent_headers = headers


class CapturingClient(HttpClient):
    """Raises :class:`Captured` instead of sending a request."""

    def open(
        self,
        upstream: Upstream,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        **others: Any,
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        del method, others
        raise Captured(upstream, path, json, headers or {})


class ReplayingClient(HttpClient):
    """Answers the next request with ``recorded``, once."""

    def __init__(self, settings: BackendSettings | None = None) -> None:
        super().__init__(settings)
        self.recorded: Recorded | None = None

    def open(
        self,
        upstream: Upstream,
        method: str,
        path: str,
        *,
        errors: ErrorReader = read_error,
        **others: Any,
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Raises UpstreamError for a second request: a model that pauses its turn goes on in no batch."""
        del method, path, others
        recorded, self.recorded = self.recorded, None
        if recorded is None:
            raise UpstreamError(f"The answer of '{upstream.model}' in the batch is not complete.")
        return _Replayed(recorded, upstream, self.settings, errors)


class _Replayed(AbstractAsyncContextManager[UpstreamResponse]):
    def __init__(
        self, recorded: Recorded, upstream: Upstream, settings: BackendSettings, errors: ErrorReader
    ) -> None:
        self._recorded = recorded
        self._upstream = upstream
        self._settings = settings
        self._errors = errors
        self._deadlines: Deadlines | None = None

    async def __aenter__(self) -> UpstreamResponse:
        status, media_type, body = self._recorded
        headers = {"content-type": media_type}
        if not 200 <= status < 300:
            raise self._errors(status, headers, body[: self._settings.max_error_bytes], self._upstream)
        self._deadlines = Deadlines(self._upstream)
        connection = _Body(status, headers, body)
        return UpstreamResponse(connection, self._upstream, self._deadlines, self._settings)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._deadlines is not None:
            self._deadlines.close()


class _Body(Connection):
    """A connection on which the whole answer has come."""

    __slots__ = ("_body",)

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(asyncio.get_running_loop())
        self.status = status
        self.headers = headers
        self._body = body

    @property
    def at_end(self) -> bool:
        return not self._body

    def take(self) -> bytes:
        body, self._body = self._body, b""
        return body
