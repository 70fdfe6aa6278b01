"""The app around an engine: an exception that one request causes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.base import Upstream
from backends.http.errors import read_error
from backends.workers.program.app import build_app, json_response, stream_response
from backends.workers.program.threads import WorkerStats
from backends.workers.spec import WorkerSpec
from catalog.errors import RequestFailed


class Fragile:
    """Raises for the text "poison", at once or after a first event."""

    stats = WorkerStats()

    def load(self) -> None: ...

    def close(self) -> None: ...

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/ask", self._ask, methods=["POST"]), Route("/stream", self._stream, methods=["POST"])]

    async def _ask(self, http: Request) -> Response:
        if await http.body() == b"poison":
            raise IndexError("list index out of range")
        return json_response({})

    async def _stream(self, http: Request) -> Response:
        poison = await http.body() == b"poison"

        async def events() -> AsyncGenerator[bytes, None]:
            yield b"data: {}\n\n"
            if poison:
                raise IndexError("list index out of range")

        return await stream_response(http, events(), media_type="text/event-stream")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    spec = WorkerSpec(engine="fragile", model_id="m", socket="unused", api_key="k")
    app: Starlette = build_app(spec, Fragile())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://worker", headers={"authorization": "Bearer k"}
    ) as opened:
        yield opened


async def test_what_one_request_makes_the_engine_raise_is_its_own_error(client: httpx.AsyncClient) -> None:
    answer = await client.post("/ask", content=b"poison")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "request_failed")
    upstream = Upstream("worker/m", "worker", "http://worker/v1", "m", engine="fragile")
    assert isinstance(read_error(500, {}, answer.content, upstream), RequestFailed)
    assert (await client.post("/ask", content=b"fine")).status_code == 200


async def test_within_a_stream_it_is_an_event(client: httpx.AsyncClient) -> None:
    answer = await client.post("/stream", content=b"poison")
    assert '"code":"request_failed"' in answer.text
    assert (await client.post("/stream", content=b"fine")).text == "data: {}\n\n"
