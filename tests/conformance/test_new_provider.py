"""A provider with a wire of its own is one class and one row of the registry: server and routing do not change.

The toy's wire is lines of JSON, not OpenAI's and no event stream, with the key in a header of its own. The gateway
over it is the real one.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import structlog
from aiohttp import web
from fastapi import FastAPI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from backends import registry
from backends.base import Chat, Discover, Upstream
from backends.http import HttpClient, UpstreamResponse
from backends.parameters import refuse_forbidden
from backends.registry import Provider
from backends.streams.chunks import ChunkWriter, usage
from backends.streams.sse import SSEReader
from backends.translation import Dropped, given, reading, restrict
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.media import text_of
from catalog.discovery import discovered_row
from catalog.errors import ConfigurationError, StreamBroken, UpstreamProtocolError
from catalog.model import Endpoint, Model
from catalog.types import Json
from server.app import VERSION, create_app
from server.observability.logging import configure_logging
from server.observability.settings import LogSettings, TelemetrySettings
from server.observability.spans import Spans
from server.settings import Settings
from tests.fakes.server import Call, FakeServer, Fault, Route

KEY = "planted-toy-key-0123456789abcdef"
KEY_ENV = "ROUNDHOUSE_TEST_TOY_KEY"
PATH = "/v1/chat/completions"

# ---- the provider: all that would be written for a real one


class ToyBackend:
    """Toy's wire: a JSON object to ``/talk``, answered in lines of JSON; the key is in ``x-toy-key``."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        return _translate(request, upstream)[1] if isinstance(request, ChatRequest) else ()

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncGenerator[Json]:
        """See :class:`backends.base.Chat`."""
        body, _ = _translate(request, upstream)
        writer = ChunkWriter(id="chatcmpl-toy", model=upstream.model, created=int(time.time()))
        async with self._http.open(upstream, "POST", "/talk", json=body, key_header="x-toy-key") as response:
            yield writer.delta({"role": "assistant", "content": ""})
            async with aclosing(_lines(response)) as lines:
                async for line in lines:
                    with reading("Toy"):
                        if "say" in line:
                            yield writer.text(line["say"])
                        else:
                            yield writer.delta({}, finish_reason="stop")
                            yield writer.usage(usage(prompt=line["heard"], completion=line["said"]))
                            return
        raise StreamBroken("Toy's answer ended before its last line.")

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
        """See :class:`backends.base.Discover`."""
        listed = await self._http.get_json(upstream, "/parrots", key_header="x-toy-key")
        with reading("Toy"):
            rows = [discovered_row(server, name) for name in listed["parrots"]]
        return [row for row in rows if row is not None]


def _translate(request: ChatRequest, upstream: Upstream) -> tuple[Json, tuple[str, ...]]:
    refuse_forbidden(request)
    dropped = Dropped()
    request = restrict(request, upstream.parameters, dropped)
    lines = [{"by": message.role, "text": text_of(message)} for message in request.messages]
    body: Json = {"parrot": upstream.model, "lines": lines}
    if request.temperature is not None:
        body["warmth"] = request.temperature
    dropped.add(*(name for name in given(request) if name != "temperature"))
    return body, dropped.as_tuple()


async def _lines(response: UpstreamResponse) -> AsyncGenerator[Json]:
    held = b""
    async for chunk in response.iter_bytes():
        *whole, held = (held + chunk).split(b"\n")
        for line in whole:
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError:
                raise UpstreamProtocolError("A line of Toy's answer is not JSON.") from None


# ---- its server


class FakeToy(FakeServer):
    """Says every word of its reply in a line of its own."""

    words = ("Polly", " wants", " a", " cracker.")

    def routes(self) -> list[Route]:
        return [("POST", "/talk", self.talk), ("GET", "/parrots", self.parrots)]

    def error(self, status: int, message: str, *, code: str | None = None, kind: str | None = None) -> Json:
        return {"detail": message}

    async def talk(self, request: web.Request, call: Call) -> web.StreamResponse:
        if call.headers.get("x-toy-key") != KEY:
            return self.refused(call, 401, f"{call.headers.get('x-toy-key')} is not the key")
        said: list[Json] = [{"say": word} for word in self.words]
        lines = [*said, {"heard": len(call.body["lines"]), "said": len(said)}]
        return await self.stream(
            request, call, (orjson.dumps(line) + b"\n" for line in lines), content_type="application/x-ndjson"
        )

    async def parrots(self, request: web.Request, call: Call) -> web.StreamResponse:
        return await self.document(request, call, {"parrots": ["polly", "coco"]})


# ---- the gateway


@dataclass
class Gateway:
    """A gateway over the toy. Its spans are complete once it has stopped."""

    app: FastAPI
    client: httpx.AsyncClient
    toy: FakeToy
    exporter: InMemorySpanExporter

    async def ask(self, model: str = "one/polly", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
        return await self.client.post(PATH, json=body)


OpenGateway = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logging(LogSettings(format="json", level="debug"), stream)
    yield stream
    structlog.reset_defaults()


def endpoint(name: str, toy: FakeToy, **fields: Any) -> dict[str, Any]:
    return {"id": name, "protocol": "toy", "base_url": toy.origin, "key_env": [KEY_ENV], **fields}


def row(name: str) -> dict[str, Any]:
    source = {"kind": "upstream", "endpoint": name, "model": "polly"}
    return {"id": f"{name}/polly", "capabilities": ["chat"], "source": source, "price": {"input": 1, "output": 2}}


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenGateway:
    """``async with gateway() as g``: two rows at two endpoints of one fake toy."""
    monkeypatch.setenv(KEY_ENV, KEY)
    toys = {"toy": Provider(f"{__name__}.ToyBackend", genai_name="toy.parrots")}
    monkeypatch.setattr(registry, "PROVIDERS", {**registry.PROVIDERS, **toys})

    @asynccontextmanager
    async def opened(**changes: Any) -> AsyncIterator[Gateway]:
        async with FakeToy() as toy:
            exporter = InMemorySpanExporter()
            settings = Settings.model_validate(
                {
                    "data_dir": tmp_path,
                    "endpoint": [endpoint(name, toy, **changes) for name in ("one", "two")],
                    "model": [row(name) for name in ("one", "two")],
                }
            )
            app = create_app(settings, telemetry=Spans(TelemetrySettings(), exporter, version=VERSION))
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client,
            ):
                yield Gateway(app, client, toy, exporter)

    return opened


def test_its_capabilities_are_its_types() -> None:
    backend = ToyBackend(HttpClient())
    assert isinstance(backend, Chat)
    assert isinstance(backend, Discover)


async def test_a_plain_answer_is_a_chat_completion(gateway: OpenGateway) -> None:
    async with gateway() as here:
        response = await here.ask(temperature=0.5)
    answer = ChatCompletion.model_validate(response.json())
    assert answer.choices[0].message.content == "".join(FakeToy.words)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 4)
    assert response.headers["x-roundhouse-model"] == "one/polly"
    sent = here.toy.calls[0]
    assert sent.body == {"parrot": "polly", "lines": [{"by": "user", "text": "Hello"}], "warmth": 0.5}
    assert sent.headers["x-toy-key"] == KEY


async def test_a_streamed_answer_is_chunks_and_then_done(gateway: OpenGateway) -> None:
    async with gateway() as here:
        response = await here.ask(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done = SSEReader().feed(response.content)
    assert done.done
    chunks = [ChatCompletionChunk.model_validate(event.json()) for event in events]
    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert tuple(texts) == FakeToy.words
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5


async def test_a_parameter_that_it_does_not_take_is_named_or_refused_by_strict(gateway: OpenGateway) -> None:
    async with gateway() as here:
        response = await here.ask(seed=5, top_k=3)
        assert response.status_code == 200
        assert response.headers["x-roundhouse-dropped"] == "seed, top_k"
        refused = await here.ask(seed=5, routing={"strict": True})
    assert refused.status_code == 400
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == ("unsupported_parameter", "seed")
    assert len(here.toy.calls) == 1


async def test_a_rate_limit_is_followed_by_another_candidate(gateway: OpenGateway) -> None:
    async with gateway() as here:
        here.toy.script(Fault(status=429, headers={"retry-after": "7"}))
        response = await here.ask("auto")
    assert response.status_code == 200
    assert response.headers["x-roundhouse-attempts"] == "2"
    assert "upstream_rate_limited" in response.headers["x-roundhouse-reason"]
    assert len(here.toy.calls) == 2


async def test_an_answer_that_breaks_off_is_an_error_event_and_never_done(gateway: OpenGateway) -> None:
    async with gateway() as here:
        for fault in (Fault(cut_after=2), Fault(die_after=2), Fault(malformed_after=2)):
            here.toy.script(fault)
            response = await here.ask(stream=True)
            assert '"error"' in response.text
            assert "[DONE]" not in response.text


async def test_its_name_is_in_the_span_and_its_key_is_nowhere(gateway: OpenGateway, logs: io.StringIO) -> None:
    seen: list[str] = []
    async with gateway() as here:
        for fault in (
            Fault(),
            Fault(status=400, message=f"What is {KEY}?"),
            Fault(status=500, message=KEY),
            Fault(status=401, message=f"{KEY} is not the key"),
        ):
            here.toy.fault = fault
            response = await here.ask()
            seen += [response.text, str(response.headers)]
        seen += [
            (await here.client.get(path)).raise_for_status().text
            for path in ("/metrics", "/v1/models", "/v1/admin/report")
        ]
    attempts = [
        span.attributes or {} for span in here.exporter.get_finished_spans() if span.kind is SpanKind.CLIENT
    ]
    assert {attempt["gen_ai.provider.name"] for attempt in attempts} == {"toy.parrots"}
    assert {attempt["error.type"] for attempt in attempts if "error.type" in attempt} == {
        "invalid_request",
        "upstream_error",
        "upstream_rejected_key",
    }
    seen += [span.to_json() for span in here.exporter.get_finished_spans()]
    assert logs.getvalue()
    assert not [text for text in (*seen, logs.getvalue()) if KEY in text]


async def test_its_models_are_listed_where_its_endpoint_asks_for_it(gateway: OpenGateway) -> None:
    async with gateway(discover=True) as here, asyncio.timeout(10):
        wanted = {"one/polly", "one/coco", "two/coco"}
        while not wanted <= {model["id"] for model in (await here.client.get("/v1/models")).json()["data"]}:
            await asyncio.sleep(0.01)
        response = await here.ask("one/coco")
    assert response.status_code == 200
    assert here.toy.calls[-1].body["parrot"] == "coco"


async def test_a_protocol_without_a_provider_stops_the_start_and_a_reload(gateway: OpenGateway) -> None:
    async with gateway() as here:
        runtime = here.app.state.services.runtime
        changed = Settings.model_validate({"endpoint": [endpoint("three", here.toy, protocol="tyo")]})
        with pytest.raises(ConfigurationError, match=r"'three'.*'tyo'.*toy"):
            await runtime.reload(changed)
        assert (await here.ask()).status_code == 200
    with pytest.raises(ConfigurationError, match="'tyo'"):
        async with gateway(protocol="tyo"):
            pass
