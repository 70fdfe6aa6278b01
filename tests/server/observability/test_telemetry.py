"""Spans of the real runtime over a fake provider: attributes, parents, and no prompt, answer or key in them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from catalog.errors import ConfigurationError
from server.app import VERSION, create_app
from server.observability.open_telemetry import open_telemetry
from server.observability.settings import TelemetrySettings
from server.observability.spans import Spans
from server.settings import Settings
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault

PROMPT = "planted-prompt-Qy92"
KEY = "planted-key-Zx81"
PATH = "/v1/chat/completions"
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


@dataclass
class Traced:
    """A gateway whose spans are recorded; they are complete once it has stopped."""

    client: httpx.AsyncClient
    provider: FakeOpenAI
    exporter: InMemorySpanExporter

    async def ask(self, *, stream: bool = False, **headers: str) -> httpx.Response:
        body = {"model": "auto", "messages": [{"role": "user", "content": PROMPT}], "stream": stream}
        return await self.client.post(PATH, json=body, headers={"authorization": f"Bearer {KEY}", **headers})

    def spans(self, kind: SpanKind) -> list[ReadableSpan]:
        found = [span for span in self.exporter.get_finished_spans() if span.kind is kind]
        return sorted(found, key=lambda span: span.start_time or 0)

    def traceparent(self, number: int = 0) -> tuple[str, str, bool]:
        """Trace id, parent span and sampled flag in the ``traceparent`` of the provider's nth request."""
        _, trace, span, flags = self.provider.calls[number].headers["traceparent"].split("-")
        return trace, span, bool(int(flags, 16) & 1)


Trace = Callable[..., AbstractAsyncContextManager[Traced]]


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """Start a gateway with two rows at two endpoints, both served by one fake provider."""

    @asynccontextmanager
    async def tracing(**telemetry: Any) -> AsyncIterator[Traced]:
        exporter = InMemorySpanExporter()
        async with FakeOpenAI() as provider:
            settings = Settings.model_validate(
                {
                    "data_dir": tmp_path,
                    "admin_keys": KEY,
                    "log": {"access": False},
                    "endpoint": [{"id": name, "base_url": provider.base_url} for name in ("one", "two")],
                    "model": [row(name) for name in ("one", "two")],
                }
            )
            spans = Spans(TelemetrySettings(**telemetry), exporter, version=VERSION)
            app = create_app(settings, telemetry=spans)
            async with app.router.lifespan_context(app):
                transport = httpx.ASGITransport(app=app)
                async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                    yield Traced(client, provider, exporter)

    return tracing


def row(name: str) -> dict[str, Any]:
    source = {"kind": "upstream", "endpoint": name, "model": "fake-chat"}
    return {"id": f"{name}/chat", "capabilities": ["chat"], "source": source, "price": {"input": 1, "output": 2}}


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    assert span.attributes is not None
    return span.attributes


def identity(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


async def test_a_request_is_a_server_span_and_its_attempt_a_client_span_below_it(trace: Trace) -> None:
    async with trace() as gateway:
        answer = await gateway.ask()
        assert answer.status_code == 200
    (server,), (attempt,) = gateway.spans(SpanKind.SERVER), gateway.spans(SpanKind.CLIENT)
    assert server.name == f"POST {PATH}"
    assert server.parent is None
    assert identity(server)[0] == answer.headers["x-roundhouse-trace"]
    assert attributes(server) == {
        "http.route": PATH,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": PATH,
        "roundhouse.trace": answer.headers["x-roundhouse-trace"],
        "roundhouse.request_id": answer.headers["x-request-id"],
        "roundhouse.key": attributes(server)["roundhouse.key"],
    }
    assert server.status.status_code is StatusCode.UNSET
    assert parent_of(attempt) == identity(server)[1]
    assert identity(attempt)[0] == identity(server)[0]
    assert attempt.start_time is not None
    assert attempt.end_time is not None
    assert attempt.end_time > attempt.start_time
    assert server.resource.attributes["service.name"] == "roundhouse"


async def test_an_attempt_is_described_by_the_genai_conventions(trace: Trace) -> None:
    async with trace() as gateway:
        answer = await gateway.ask(stream=True)
    (attempt,) = gateway.spans(SpanKind.CLIENT)
    model = answer.headers["x-roundhouse-model"]
    said = attributes(attempt)
    assert attempt.name == f"chat {model}"
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == model.partition("/")[0]
    assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == model
    assert said["gen_ai.request.stream"] is True
    assert said["gen_ai.response.finish_reasons"] == ("stop",)
    assert 0 < said["gen_ai.response.time_to_first_chunk"] < 60
    assert said["gen_ai.usage.input_tokens"] > 0
    assert said["gen_ai.usage.output_tokens"] > 0
    assert said["server.address"] == "127.0.0.1"
    assert said["server.port"] == int(gateway.provider.origin.rpartition(":")[2])
    assert said["roundhouse.cost_dollars"] > 0
    assert "error.type" not in said


async def test_each_upstream_gets_the_span_of_its_own_attempt_after_a_fallback(trace: Trace) -> None:
    async with trace() as gateway:
        gateway.provider.script(Fault(status=500))
        answer = await gateway.ask()
        assert answer.headers["x-roundhouse-attempts"] == "2"
    (server,) = gateway.spans(SpanKind.SERVER)
    failed, answered = gateway.spans(SpanKind.CLIENT)
    assert {parent_of(failed), parent_of(answered)} == {identity(server)[1]}
    assert gateway.traceparent(0) == (*identity(failed), True)
    assert gateway.traceparent(1) == (*identity(answered), True)
    assert failed.status.status_code is StatusCode.ERROR
    assert attributes(failed)["error.type"].startswith("upstream_")
    assert attributes(failed)["http.response.status_code"] == 500
    assert (attributes(failed)["roundhouse.attempt"], attributes(answered)["roundhouse.attempt"]) == (1, 2)
    assert server.status.status_code is StatusCode.UNSET


async def test_the_callers_trace_is_continued(trace: Trace) -> None:
    async with trace() as gateway:
        answer = await gateway.ask(traceparent=f"{CALLER}-01", tracestate="vendor=value")
    (server,), (attempt,) = gateway.spans(SpanKind.SERVER), gateway.spans(SpanKind.CLIENT)
    _, caller_trace, caller_span = CALLER.split("-")
    assert identity(server)[0] == identity(attempt)[0] == caller_trace
    assert parent_of(server) == caller_span
    assert gateway.provider.calls[0].headers["tracestate"] == "vendor=value"
    assert attributes(attempt)["roundhouse.trace"] == answer.headers["x-roundhouse-trace"] != caller_trace


async def test_two_requests_of_one_callers_trace_keep_traces_of_their_own_here(trace: Trace) -> None:
    async with trace() as gateway:
        answers = [await gateway.ask(traceparent=f"{CALLER}-01") for _ in range(2)]
    assert len({answer.headers["x-roundhouse-trace"] for answer in answers}) == 2


async def test_a_trace_that_the_caller_does_not_sample_is_dropped_here_and_at_upstreams(trace: Trace) -> None:
    async with trace() as gateway:
        assert (await gateway.ask(traceparent=f"{CALLER}-00")).status_code == 200
    assert gateway.exporter.get_finished_spans() == ()
    trace_id, _, sampled = gateway.traceparent()
    assert (trace_id, sampled) == (CALLER.split("-")[1], False)


@pytest.mark.parametrize("broken", ["", "nonsense", "00-0-0-01", f"ff-{CALLER[3:]}-01"])
async def test_a_broken_traceparent_begins_a_trace_of_its_own(trace: Trace, broken: str) -> None:
    async with trace() as gateway:
        answer = await gateway.ask(traceparent=broken)
    (server,) = gateway.spans(SpanKind.SERVER)
    assert server.parent is None
    assert identity(server)[0] == answer.headers["x-roundhouse-trace"]


async def test_a_share_of_none_keeps_nothing(trace: Trace) -> None:
    async with trace(sample=0.0) as gateway:
        assert (await gateway.ask()).status_code == 200
    assert gateway.exporter.get_finished_spans() == ()


async def test_upstreams_get_no_traceparent_when_propagation_is_off(trace: Trace) -> None:
    async with trace(propagate=False) as gateway:
        await gateway.ask(traceparent=f"{CALLER}-01")
    assert "traceparent" not in gateway.provider.calls[0].headers
    assert len(gateway.spans(SpanKind.CLIENT)) == 1


async def test_a_stream_that_breaks_is_an_error_of_its_attempt(trace: Trace) -> None:
    async with trace() as gateway:
        gateway.provider.fault = Fault(die_after=3)
        answer = await gateway.ask(stream=True)
    assert "[DONE]" not in answer.text
    (attempt,) = gateway.spans(SpanKind.CLIENT)
    assert attempt.status.status_code is StatusCode.ERROR
    assert attributes(attempt)["roundhouse.result"] == "failed"


async def test_an_error_of_ours_is_an_error_of_the_request_and_a_callers_is_not(trace: Trace) -> None:
    async with trace() as gateway:
        gateway.provider.fault = Fault(status=500)
        assert (await gateway.ask()).status_code >= 500
        assert (await gateway.client.get("/nothing", headers={"x-api-key": KEY})).status_code == 404
        assert (await gateway.client.get("/v1/models")).status_code == 401
    ours, *callers = gateway.spans(SpanKind.SERVER)
    assert ours.status.status_code is StatusCode.ERROR
    assert attributes(ours)["error.type"] == str(attributes(ours)["http.response.status_code"])
    assert [span.status.status_code for span in callers] == [StatusCode.UNSET] * 2
    assert [attributes(span)["http.response.status_code"] for span in callers] == [404, 401]


async def test_probes_and_scrapes_make_no_spans(trace: Trace) -> None:
    async with trace() as gateway:
        while (await gateway.client.get("/ready")).status_code == 503:  # until its sources have been looked at
            await asyncio.sleep(0.01)
        for path in ("/health", "/ready", "/metrics"):
            assert (await gateway.client.get(path, headers={"x-api-key": KEY})).status_code == 200
    assert gateway.exporter.get_finished_spans() == ()


async def test_neither_prompt_nor_answer_nor_key_is_in_any_span(trace: Trace) -> None:
    async with trace() as gateway:
        gateway.provider.reply = "planted-answer-Wk33"
        for fault in (
            Fault(),
            Fault(status=400, message=PROMPT),
            Fault(status=500, message=KEY),
            Fault(die_after=2),
        ):
            gateway.provider.fault = fault
            await gateway.ask(stream=True)
            await gateway.ask()
    everything = "".join(span.to_json() for span in gateway.exporter.get_finished_spans())
    assert everything.count('"gen_ai.operation.name"') >= 8
    for planted in (PROMPT, KEY, "planted-answer"):
        assert planted not in everything


def test_without_the_setting_neither_sdk_nor_exporter_is_loaded() -> None:
    code = (
        "import sys, server.assembly; from server.app import create_app; from server.settings import Settings;"
        "create_app(Settings()); print(*(name for name in sys.modules if name.startswith('opentelemetry.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.split()  # FastAPI loads the API alone, which does nothing by itself
    assert not [name for name in loaded if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "server.observability.spans")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigurationError, match=r"pip install .*\[otel\]"):
        open_telemetry(TelemetrySettings(endpoint="http://localhost:4318"), version="1")


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://collector", "http://user:secret@collector"])
def test_an_endpoint_that_is_no_plain_address_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        TelemetrySettings(endpoint=endpoint)
