"""OpenTelemetry, when it is wanted: the part that every gateway loads, which knows nothing of the SDK.

The spans themselves are made in :mod:`server.observability.spans`, imported only when ``[telemetry] endpoint``
is set. ``deploy/TRACES.md`` lists their attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Protocol

from starlette.types import ASGIApp

from catalog.errors import ConfigurationError
from catalog.installing import install_command
from catalog.model import Endpoint
from routing.outcomes import Outcome
from server.settings import TelemetrySettings

EndpointOf = Callable[[str], Endpoint]
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Telemetry(Protocol):
    """Somebody who makes spans of requests and attempts."""

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """The app with a server span around each request."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Export while the block runs; what is left is sent when it ends."""
        ...

    def describe_with(self, endpoint: EndpointOf) -> None:
        """Where to look up the endpoints that outcomes name."""
        ...

    def record(self, outcome: Outcome) -> None:
        """One attempt ended; see :class:`routing.outcomes.OutcomeSink`."""
        ...

    def headers(self) -> Mapping[str, str]:
        """What an upstream called now, for the present request, is told of the trace."""
        ...


class TelemetryProxy:
    """Stands where outcomes and upstream calls pass; nobody listens until :meth:`attach`."""

    def __init__(self, endpoint: EndpointOf) -> None:
        self._endpoint = endpoint
        self._listener: Telemetry | None = None

    def attach(self, listener: Telemetry) -> None:
        """Pass everything on to ``listener`` from now on."""
        listener.describe_with(self._endpoint)
        self._listener = listener

    def record(self, outcome: Outcome) -> None:
        """Makes this an :class:`routing.outcomes.OutcomeSink`."""
        if self._listener is not None:
            self._listener.record(outcome)

    def headers(self) -> Mapping[str, str]:
        """What :class:`backends.http.HttpClient` adds to every call."""
        return _NOTHING if self._listener is None else self._listener.headers()


def open_telemetry(settings: TelemetrySettings, *, version: str) -> Telemetry | None:
    """The maker of spans, or ``None`` when the settings name no collector.

    Raises ConfigurationError when it is wanted and its packages are missing.
    """
    if settings.endpoint is None:
        return None
    try:
        from server.observability.spans import Spans, otlp_exporter
    except ImportError as error:
        raise ConfigurationError(
            f"telemetry.endpoint is set, but traces need more packages: {install_command('otel')}"
        ) from error
    return Spans(settings, otlp_exporter(settings.endpoint), version=version)
