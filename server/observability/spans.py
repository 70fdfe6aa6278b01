"""OpenTelemetry spans: one of kind server per request, one of kind client per attempt.

The attributes follow the GenAI conventions (semantic-conventions-genai, status: development) and those of HTTP
servers; attributes without a convention begin with ``roundhouse.``. A span contains no prompt, answer, key or
error message.

An attempt's span is written when its outcome is known. Its id is generated earlier, because ``traceparent`` (W3C
Trace Context) carries it to the upstream while the attempt runs. Attempts of one request never overlap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from backends.registry import genai_name
from catalog.errors import RoundhouseError
from catalog.model import Capability, Endpoint
from routing.outcomes import Outcome, Result
from server.observability.settings import TelemetrySettings
from server.observability.telemetry import EndpointOf
from server.scope import CALLER, REQUEST_ID, STATUS, TRACE

Attribute = str | int | float | bool | list[str]

UNTRACED = frozenset({"/health", "/ready", "/metrics"})
"""Probes and scrapes, which would be most of the spans."""

OPERATIONS = {
    Capability.CHAT: "chat",
    Capability.COMPLETION: "text_completion",
    Capability.EMBED: "embeddings",
    Capability.RERANK: "rerank",
    Capability.CLASSIFY: "classify",
    Capability.MODERATE: "moderate",
    Capability.TRANSCRIBE: "transcribe",
    Capability.DIARIZE: "diarize",
    Capability.TRANSLATE: "translate",
    Capability.SPEAK: "speak",
    Capability.IMAGE: "generate_content",
    Capability.VIDEO: "generate_content",
    Capability.REALTIME: "realtime",
}
"""``gen_ai.operation.name``: the conventions' name where there is one, else the capability's."""

OUTPUTS = {
    Capability.SPEAK: "speech",
    Capability.IMAGE: "image",
    Capability.VIDEO: "video",
    Capability.REALTIME: "speech",
}

_current: ContextVar[_TracedRequest | None] = ContextVar("traced_request", default=None)


@dataclass(slots=True)
class _TracedRequest:
    """The request that the current task serves; ``attempt`` is the span id of its next attempt."""

    span: Span
    attempt: int


class _PresetIds(RandomIdGenerator):
    """Random ids, unless ``trace`` or ``span`` presets the next one."""

    def __init__(self) -> None:
        self.trace: int | None = None
        self.span: int | None = None

    def generate_trace_id(self) -> int:
        preset, self.trace = self.trace, None
        return preset or super().generate_trace_id()

    def generate_span_id(self) -> int:
        preset, self.span = self.span, None
        return preset or super().generate_span_id()


def otlp_exporter(endpoint: str) -> SpanExporter:
    """An exporter over OTLP/HTTP to a collector's base URL, or to a URL that ends in ``/v1/traces``.

    OpenTelemetry's own environment variables set its headers and certificates (``OTEL_EXPORTER_OTLP_HEADERS``).
    """
    address = endpoint.rstrip("/")
    return OTLPSpanExporter(address if address.endswith("/v1/traces") else address + "/v1/traces", timeout=5)


class Spans:
    """Implements :class:`~server.observability.telemetry.Telemetry` with a tracer provider of its own."""

    def __init__(self, settings: TelemetrySettings, exporter: SpanExporter, *, version: str) -> None:
        self._settings = settings
        self._exporter = exporter
        self._ids = _PresetIds()
        resource = Resource.create({"service.name": settings.service_name, "service.version": version})
        sampler = ParentBased(TraceIdRatioBased(settings.sample))
        self._provider = TracerProvider(
            sampler=sampler, resource=resource, id_generator=self._ids, shutdown_on_exit=False
        )
        self._tracer = self._provider.get_tracer("roundhouse", version)
        self._propagator = TraceContextTextMapPropagator()
        self._endpoint: EndpointOf | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Export from a background thread while the block runs."""
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        try:
            yield
        finally:
            await asyncio.to_thread(self._provider.shutdown)

    def set_endpoint_lookup(self, endpoint: EndpointOf) -> None:
        self._endpoint = endpoint

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Wrap the gate, which puts the request's id, caller and status into the scope."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] in UNTRACED:
                await app(scope, receive, send)
                return
            request = self._begin(scope)
            token = _current.set(request)
            context = request.span.get_span_context()
            ids = structlog.contextvars.bind_contextvars(
                trace_id=f"{context.trace_id:032x}", span_id=f"{context.span_id:016x}"
            )
            try:
                await app(scope, receive, send)
            finally:
                structlog.contextvars.reset_contextvars(**ids)
                _current.reset(token)
                _end_request_span(request.span, scope)

        return traced

    def _begin(self, scope: Scope) -> _TracedRequest:
        """Start the request's span. Without a ``traceparent`` its trace id is that of ``x-roundhouse-trace``."""
        headers = Headers(scope=scope)
        carrier = {name: value for name in ("traceparent", "tracestate") if (value := headers.get(name))}
        parent = self._propagator.extract(carrier, context=Context())
        own = self._ids.generate_trace_id()
        scope[TRACE] = f"{own:032x}"
        self._ids.trace = own
        span = self._tracer.start_span(scope["method"], context=parent, kind=SpanKind.SERVER)
        self._ids.trace = None  # unused when there is a parent
        return _TracedRequest(span, self._ids.generate_span_id())

    def headers(self) -> Mapping[str, str]:
        """``traceparent`` and ``tracestate``, with the attempt's span as the parent of the upstream's."""
        request = _current.get()
        carrier: dict[str, str] = {}
        if request is None or not self._settings.propagate:
            return carrier
        here = request.span.get_span_context()
        attempt = SpanContext(here.trace_id, request.attempt, False, here.trace_flags, here.trace_state)
        self._propagator.inject(carrier, context=set_span_in_context(NonRecordingSpan(attempt), Context()))
        return carrier

    def record(self, outcome: Outcome) -> None:
        """Write the attempt's span; an attempt without a request starts its own trace."""
        request = _current.get()
        context = Context()
        if request is not None:
            if not request.span.get_span_context().trace_flags.sampled:
                return
            context = set_span_in_context(request.span, context)
            self._ids.span, request.attempt = request.attempt, self._ids.generate_span_id()
        attributes = attempt_attributes(outcome)
        span = self._tracer.start_span(
            f"{_operation(outcome)} {outcome.model}",
            context=context,
            kind=SpanKind.CLIENT,
            attributes={**attributes, **self._endpoint_attributes(outcome.endpoint)},
            start_time=_nanoseconds(outcome.at - outcome.duration),
        )
        if "error.type" in attributes:
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(outcome.at))

    def _endpoint_attributes(self, name: str) -> dict[str, Attribute]:
        endpoint = self._endpoint_named(name)
        if endpoint is None:
            return {"gen_ai.provider.name": "roundhouse" if name == "local" else name}
        attributes: dict[str, Attribute] = {"gen_ai.provider.name": genai_name(endpoint)}
        address = urlsplit(endpoint.base_url)
        if address.hostname:
            attributes["server.address"] = address.hostname
            attributes["server.port"] = address.port or (443 if address.scheme == "https" else 80)
        return attributes

    def _endpoint_named(self, name: str) -> Endpoint | None:
        if self._endpoint is None or name == "local":
            return None
        try:
            return self._endpoint(name)
        except RoundhouseError:  # its row was removed during the call
            return None


def attempt_attributes(outcome: Outcome) -> dict[str, Attribute]:
    """The attributes of an attempt's span, without those of its endpoint."""
    facts, usage = outcome.facts, outcome.usage
    known: dict[str, Attribute | None] = {
        "gen_ai.operation.name": _operation(outcome),
        "gen_ai.request.model": outcome.model,
        "gen_ai.request.stream": facts.stream or None,
        "gen_ai.request.max_tokens": facts.output_tokens,
        "gen_ai.output.type": OUTPUTS.get(facts.capability),
        "gen_ai.response.time_to_first_chunk": outcome.first_chunk,
        "gen_ai.response.finish_reasons": [outcome.finish_reason] if outcome.finish_reason else None,
        "error.type": _error_type(outcome),
        "http.response.status_code": outcome.status,
        "roundhouse.trace": outcome.trace,
        "roundhouse.attempt": outcome.attempt,
        "roundhouse.endpoint": outcome.endpoint,
        "roundhouse.task": facts.task.value,
        "roundhouse.result": outcome.result.value,
        "roundhouse.queue_seconds": outcome.queued,
        "roundhouse.cost_dollars": outcome.cost,
    }
    if outcome.first_chunk is not None:
        known["gen_ai.response.model"] = outcome.model
    if usage.known:
        known |= {
            "gen_ai.usage.input_tokens": usage.input,
            "gen_ai.usage.output_tokens": usage.output,
            "gen_ai.usage.cache_read.input_tokens": usage.cached or None,
            "gen_ai.usage.cache_write.input_tokens": usage.cache_write or None,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning or None,
        }
    return {name: value for name, value in known.items() if value is not None}


def _operation(outcome: Outcome) -> str:
    capability = outcome.facts.capability
    return "tokenize" if outcome.facts.tokens_only else OPERATIONS.get(capability, capability.value)


def _error_type(outcome: Outcome) -> str | None:
    """The error's code. A refusal and a client's disconnect are not errors."""
    if outcome.result in (Result.SUCCESS, Result.REFUSAL, Result.CANCELLED):
        return None
    return outcome.error or outcome.result.value


def _end_request_span(span: Span, scope: Scope) -> None:
    """End a request's span with the attributes that the gate has put into the scope."""
    if span.is_recording():
        route = getattr(scope.get("route"), "path", "")
        status: int = scope.get(STATUS, 0)
        if route:
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute("http.route", route)
        span.set_attributes(
            {
                "http.request.method": scope["method"],
                "url.scheme": scope.get("scheme", "http"),
                "url.path": scope["path"][:200],
                "roundhouse.trace": scope[TRACE],
            }
        )
        if CALLER in scope:
            span.set_attribute("roundhouse.key", scope[CALLER].id)
            span.set_attribute("roundhouse.request_id", scope[REQUEST_ID])
        if status:
            span.set_attribute("http.response.status_code", status)
        if status == 0 or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            span.set_attribute("error.type", str(status or 500))
            span.set_status(Status(StatusCode.ERROR))
    span.end()


def _nanoseconds(wall: float) -> int:
    return int(wall * 1e9)
