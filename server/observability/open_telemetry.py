"""Enables OpenTelemetry when the settings name a collector."""

from __future__ import annotations

from catalog.errors import ConfigurationError
from catalog.installing import install_command
from server.observability.settings import TelemetrySettings
from server.observability.telemetry import Telemetry


def open_telemetry(settings: TelemetrySettings, *, version: str) -> Telemetry | None:
    """Create the telemetry, or return ``None`` when the settings name no collector.

    Raises ConfigurationError when its packages are missing.
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
