"""Draining: readiness becomes false, new requests are refused, running ones end by the deadline."""

from __future__ import annotations

import asyncio

from tests.server.api.test_chat import BODY, PATH, events
from tests.server.conftest import Start
from tests.server.fakes import chunk, usage_chunk
from tests.server.test_bad_input import error


async def test_draining_refuses_new_requests_and_lets_streams_end(serve: Start) -> None:
    async with serve() as gateway:
        go_on = asyncio.Event()
        gateway.backend.script = (chunk("Hello"), go_on, chunk(finish="stop"), usage_chunk())
        stream = asyncio.create_task(gateway.client.post(PATH, json={**BODY, "stream": True}))
        await gateway.backend.started.wait()
        drained = asyncio.create_task(gateway.services.in_flight.drained(30))
        await asyncio.sleep(0)

        error(await gateway.client.get("/ready"), 503, "draining")
        assert (await gateway.client.get("/health")).status_code == 200
        refused = await gateway.client.post(PATH, json=BODY)
        error(refused, 503, "draining")
        assert refused.headers["retry-after"]

        go_on.set()
        assert events((await stream).text)[-1] == "[DONE]"
        assert await drained is True


async def test_past_the_deadline_every_stream_gets_an_error_event(serve: Start) -> None:
    async with serve() as gateway:
        gateway.backend.script = (chunk("Hello"), asyncio.Event())
        streams = [
            asyncio.create_task(gateway.client.post(PATH, json={**BODY, "stream": True})) for _ in range(10)
        ]
        plain = asyncio.create_task(gateway.client.post(PATH, json=BODY))
        async with asyncio.timeout(30):
            while len(gateway.backend.requests) < 11:
                await asyncio.sleep(0)
        assert await gateway.services.in_flight.drained(0.05) is False
        for stream in streams:
            answer = await stream
            assert events(answer.text)[-1]["error"]["code"] == "draining"
            assert "[DONE]" not in answer.text
        error(await plain, 503, "draining")
        assert gateway.services.in_flight.count == 0


async def test_past_the_deadline_a_request_that_waits_for_a_load_is_refused(serve: Start) -> None:
    async with serve() as gateway:
        gateway.dispatcher.gate = asyncio.Event()
        waiting = asyncio.create_task(gateway.client.post(PATH, json={**BODY, "stream": True}))
        await gateway.dispatcher.waiting.wait()
        assert await gateway.services.in_flight.drained(0.05) is False
        error(await waiting, 503, "draining")
        assert gateway.dispatcher.left.is_set()


async def test_begin_drain_is_available_on_the_state_of_the_app(serve: Start) -> None:
    async with serve() as gateway:
        assert (await gateway.client.get("/ready")).status_code == 200
        gateway.app.state.begin_drain()
        assert (await gateway.client.get("/ready")).status_code == 503
