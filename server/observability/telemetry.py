"""The seam to OpenTelemetry that every gateway loads; it does not import the SDK.

The spans themselves are made in :mod:`server.observability.spans`, imported only when ``[telemetry] endpoint``
is set. ``deploy/TRACES.md`` lists their attributes.
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
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Telemetry(Protocol):
    """Makes spans of requests and attempts."""

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """The app with a server span around each request."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Export while the block runs; what is left is sent when it ends."""
        ...

    def describe_with(self, endpoint: EndpointOf) -> None:
        """Look up the endpoints that outcomes name with ``endpoint``."""
        ...

    def record(self, outcome: Outcome) -> None:
        """One attempt ended; see :class:`routing.outcomes.OutcomeSink`."""
        ...

    def headers(self) -> Mapping[str, str]:
        """Trace headers for an upstream called now, for the current request."""
        ...


class TelemetryProxy:
    """Forwards outcomes to telemetry once attached; a no-op before."""

    def __init__(self, endpoint: EndpointOf) -> None:
        self._endpoint = endpoint
        self._listener: Telemetry | None = None

    def attach(self, listener: Telemetry) -> None:
        """Forward to ``listener`` from now on."""
        listener.describe_with(self._endpoint)
        self._listener = listener

    def record(self, outcome: Outcome) -> None:
        """Forward one outcome; see :class:`routing.outcomes.OutcomeSink`."""
        if self._listener is not None:
            self._listener.record(outcome)

    def headers(self) -> Mapping[str, str]:
        """Headers that :class:`backends.http.HttpClient` adds to every call."""
        return _NOTHING if self._listener is None else self._listener.headers()
