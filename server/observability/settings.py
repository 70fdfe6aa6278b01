"""Settings of logs and traces."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from catalog.validation.fields import split_address
from catalog.validation.section import Section


class LogSettings(Section):
    """Logs on standard error."""

    format: Literal["console", "json"] = Field(
        default="console", description="lines for a terminal, or one JSON object per line"
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lowest level that is logged"
    )
    access: bool = Field(default=True, description="log one line per request")
    prompts: bool = Field(
        default=False,
        description="log bodies (first 10,000 characters) and exception messages; false: no prompt is logged",
    )


class TelemetrySettings(Section):
    """OpenTelemetry traces, sent when ``endpoint`` is set. Needs the extra ``otel``."""

    endpoint: str | None = Field(
        default=None,
        description="URL of the collector (OTLP over HTTP); without one no traces are sent",
        examples=["http://localhost:4318"],
    )
    service_name: str = Field(default="roundhouse", min_length=1, description="service.name of the spans")
    sample: float = Field(
        default=1.0, ge=0, le=1, description="fraction of traces kept, unless the caller's traceparent decides"
    )
    propagate: bool = Field(default=True, description="send traceparent and tracestate to upstreams")

    @field_validator("endpoint")
    @classmethod
    def _a_url(cls, url: str | None) -> str | None:
        if url is not None:
            split_address(url)
        return url
