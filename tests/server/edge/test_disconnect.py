"""A client's disconnect at any moment cancels its call. Real sockets throughout."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from catalog.errors import WorkerFailed
from tests.garbage import left_in_cycles
from tests.loop_time import within
from tests.server.api.test_chat import BODY, PATH
from tests.server.conftest import Gateway, Start
from tests.server.fakes import chunk


async def connect(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw connection to the gateway."""
    url = gateway.client.base_url
    assert url.port is not None
    return await asyncio.open_connection(url.host, url.port)


def post(path: str, body: Any) -> bytes:
    """A request as bytes."""
    data = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n%s" % (len(data), data)


async def until(event: asyncio.Event) -> None:
    """Wait for what must happen within a quarter of a second of virtual time."""
    await within(0.25, event.wait())


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that still comes until the connection ends, however it does."""
    answer = b""
    async with asyncio.timeout(30):
        try:
            while piece := await reader.read(1 << 16):
                answer += piece
        except ConnectionError:
            pass
    return answer


async def idle(gateway: Gateway) -> None:
    """Wait until the gateway has nothing at work."""
    async with asyncio.timeout(30):
        while gateway.services.in_flight.count or gateway.services.in_flight.works:
            await asyncio.sleep(0)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_while_the_model_loads(serve: Start, stream: bool) -> None:
    async with serve() as gateway:
        gateway.dispatcher.gate = asyncio.Event()
        _, writer = await connect(gateway)
        writer.write(post(PATH, {**BODY, "stream": stream}))
        await gateway.dispatcher.waiting.wait()
        writer.close()
        await until(gateway.dispatcher.left)
        await idle(gateway)
        assert not gateway.backend.requests


async def test_leaving_while_the_model_loads_and_the_headers_have_left(serve: Start) -> None:
    async with serve(server={"streams": {"headers_after": 0.02}}) as gateway:
        gateway.dispatcher.gate = asyncio.Event()
        reader, writer = await connect(gateway)
        writer.write(post(PATH, {**BODY, "stream": True}))
        assert b": waiting for the model" in await reader.readuntil(b": waiting for the model\n\n")
        writer.close()
        await until(gateway.dispatcher.left)
        await idle(gateway)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_in_the_middle_of_an_answer(serve: Start, stream: bool) -> None:
    async with serve() as gateway:
        gateway.backend.script = (chunk("Hel"), asyncio.Event(), chunk("lo"))
        reader, writer = await connect(gateway)
        writer.write(post(PATH, {**BODY, "stream": stream}))
        await gateway.backend.started.wait()
        if stream:
            await reader.readuntil(b"Hel")
        writer.close()
        await until(gateway.backend.closed)
        await until(gateway.dispatcher.left)
        await idle(gateway)


async def test_leaving_in_the_middle_of_speech(serve: Start) -> None:
    async with serve() as gateway:
        gateway.backend.audio = (b"RIFF", asyncio.Event())
        reader, writer = await connect(gateway)
        writer.write(post("/v1/audio/speech", {"model": "songbird", "input": "Hi"}))
        await reader.readuntil(b"RIFF")
        writer.close()
        await until(gateway.backend.closed)
        await idle(gateway)


async def test_leaving_in_the_middle_of_the_body(serve: Start) -> None:
    async with serve() as gateway:
        _, writer = await connect(gateway)
        writer.write(post(PATH, BODY)[:-10])
        async with asyncio.timeout(30):
            while not gateway.services.in_flight.count:
                await asyncio.sleep(0)
        writer.close()
        await idle(gateway)
        assert not gateway.backend.requests


async def test_a_reader_that_does_not_read_is_cut_and_its_upstream_closed(serve: Start) -> None:
    big = chunk("x" * 200_000)
    async with serve(server={"timeouts": {"send": 0.2}, "streams": {"buffer": 4}}) as gateway:
        gateway.backend.script = (big,) * 500
        reader, writer = await connect(gateway)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(post(PATH, {**BODY, "stream": True}))
        async with asyncio.timeout(30):
            await gateway.dispatcher.left.wait()
        await idle(gateway)
        neighbour = await gateway.client.get("/health")
        assert neighbour.status_code == 200
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert b"[DONE]" not in await rest(reader)
        writer.close()


async def test_an_error_in_the_middle_of_audio_cuts_the_connection(serve: Start) -> None:
    async with serve() as gateway:
        gateway.backend.audio = (b"RIFF", WorkerFailed("It died."))
        reader, writer = await connect(gateway)
        writer.write(post("/v1/audio/speech", {"model": "songbird", "input": "Hi"}))
        answer = await rest(reader)
        writer.close()
        assert not answer.endswith(b"0\r\n\r\n"), "a chunked answer that is complete would pass for whole audio"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answered_request_leaves_nothing_to_the_garbage_collector(serve: Start, stream: bool) -> None:
    async with serve() as gateway:

        async def ask() -> None:
            reader, writer = await connect(gateway)
            writer.write(post(PATH, {**BODY, "stream": stream}))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head
            writer.close()
            await rest(reader)
            await idle(gateway)

        await ask()
        with left_in_cycles() as left:
            await ask()
    assert left == []
