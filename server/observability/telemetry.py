"""The interface to OpenTelemetry, without importing its SDK.

:mod:`server.observability.spans` implements it, and is imported only when ``[telemetry] endpoint`` is set.
``docs/reference/traces.md`` lists the attributes of the spans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Protocol

from starlette.types import ASGIApp

from catalog.model import Endpoint
from routing.outcomes import Outcome

EndpointOf = Callable[[str], Endpoint]
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Telemetry(Protocol):
    """Makes spans of requests and attempts."""

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """The app with a server span around each request."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Export spans while the block runs; its end sends those that remain."""
        ...

    def set_endpoint_lookup(self, endpoint: EndpointOf) -> None:
        """Use ``endpoint`` to find the address and provider of the endpoints that outcomes name."""
        ...

    def record(self, outcome: Outcome) -> None:
        """Write the span of an attempt that ended; see :class:`routing.outcomes.OutcomeSink`."""
        ...

    def headers(self) -> Mapping[str, str]:
        """Trace headers for an upstream call of the current request."""
        ...


class TelemetryProxy:
    """Forwards outcomes to telemetry once attached; a no-op before."""

    def __init__(self, endpoint: EndpointOf) -> None:
        self._endpoint = endpoint
        self._target: Telemetry | None = None

    def attach(self, target: Telemetry) -> None:
        """Forward to ``target`` from now on."""
        target.set_endpoint_lookup(self._endpoint)
        self._target = target

    def record(self, outcome: Outcome) -> None:
        """Forward one outcome; see :class:`routing.outcomes.OutcomeSink`."""
        if self._target is not None:
            self._target.record(outcome)

    def headers(self) -> Mapping[str, str]:
        """Headers that :class:`backends.http.HttpClient` adds to every call."""
        return _NO_HEADERS if self._target is None else self._target.headers()
