"""Deadlines hold against an upstream that keeps sending bytes that are no answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from backends.base import Timeouts, Upstream
from backends.http import HttpClient, UpstreamResponse
from backends.http.connection import Connection
from backends.http.deadlines import Deadlines
from backends.settings import BackendSettings
from catalog.errors import FirstByteTimeout, IdleTimeout, TotalTimeout, UpstreamError, UpstreamTimeout
from tests.backends.http.test_client import listening
from tests.loop_time import virtual_time

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
EVENT = b'data: {"a": 1}\n\n'
COMMENT = b": processing\n\n"


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


async def read(http: HttpClient, address: str, **times: float) -> None:
    upstream = Upstream("noisy", "openai", address, "m", timeouts=Timeouts(**times))
    async with http.open(upstream, "POST", "/chat/completions", json={}) as response:
        async for _ in response.events():
            pass


CASES = [
    pytest.param(b"", {"first_byte": 1.0, "idle": 9.0, "total": 9.0}, FirstByteTimeout, 1.0, id="first byte"),
    pytest.param(EVENT, {"first_byte": 9.0, "idle": 1.0, "total": 9.0}, IdleTimeout, 1.0, id="idle"),
    pytest.param(EVENT, {"first_byte": 9.0, "idle": 9.0, "total": 2.0}, TotalTimeout, 2.0, id="total"),
]


@pytest.mark.parametrize(("begin", "times", "error", "after"), CASES)
async def test_comments_extend_no_deadline(
    http: HttpClient, begin: bytes, times: dict[str, float], error: type[UpstreamTimeout], after: float
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM + begin)
        with suppress(ConnectionError):
            while not writer.is_closing():
                await asyncio.sleep(0.3)
                writer.write(COMMENT)

    async with listening(serve) as address:
        with virtual_time() as now:
            began = now()
            with pytest.raises(error):
                await read(http, address, **times)
            assert now() - began == pytest.approx(after, abs=0.01)


@pytest.mark.parametrize(
    ("piece", "error"), [(COMMENT, IdleTimeout), (EVENT, TotalTimeout)], ids=["comments", "events"]
)
async def test_a_deadline_rings_although_bytes_arrive_in_every_iteration_of_the_loop(
    piece: bytes, error: type[UpstreamTimeout]
) -> None:
    loop = asyncio.get_running_loop()
    upstream = Upstream("noisy", "openai", "http://x", "m", timeouts=Timeouts(idle=1.0, total=2.0))
    with virtual_time() as clock:
        connection = Connection(loop)
        connection.connection_made(Mock(is_closing=lambda: False))
        connection.send(b"", None)
        connection.data_received(STREAM + EVENT)
        left = 1000

        def pump() -> None:
            nonlocal left
            left -= 1
            clock._now += 0.01
            connection.data_received(piece)
            if left:
                loop.call_soon(pump)

        pump()
        response = UpstreamResponse(connection, upstream, Deadlines(upstream), BackendSettings())
        with pytest.raises(error):
            async for _ in response.events():
                pass
        assert left > 700, "the deadline rang late"
        left = 1


async def stepping(http: HttpClient, address: str, *, uds: str | None, times: Timeouts, pause: float = 0.0) -> int:
    """How many events a stream has whose reader pauses once, after the first."""
    upstream = Upstream("steps", "openai" if uds is None else "worker", address, "m", uds=uds, timeouts=times)
    read = 0
    async with http.open(upstream, "POST", "/images/generations", json={}) as response:
        async for _ in response.events():
            read += 1
            if read == 1:
                await asyncio.sleep(pause)
    return read


async def with_comments(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(STREAM + EVENT)
    for _ in range(5):
        await asyncio.sleep(0.6)
        writer.write(COMMENT)
    writer.write(EVENT)
    writer.close()


async def test_a_worker_of_this_machine_that_reports_its_steps_is_not_idle(
    http: HttpClient, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    async with listening(with_comments, path) as address:
        with virtual_time():
            times = Timeouts(first_byte=1.0, idle=1.0, total=9.0)
            assert await stepping(http, address, uds=str(path), times=times) == 2
            with pytest.raises(TotalTimeout):
                await stepping(http, address, uds=str(path), times=Timeouts(idle=1.0, total=2.0))


async def test_comments_after_a_slow_reader_are_no_idle_upstream(http: HttpClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM + EVENT)
        await asyncio.sleep(0.1)
        writer.write(COMMENT)
        await asyncio.sleep(5.0)
        writer.write(EVENT)
        writer.close()

    async with listening(serve) as address:
        with virtual_time():
            times = Timeouts(first_byte=1.0, idle=1.0, total=90.0)
            assert await stepping(http, address, uds=None, times=times, pause=5.0) == 2


async def test_a_head_that_drips_ends_at_the_first_byte_deadline(http: HttpClient) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        with suppress(ConnectionError):
            while not writer.is_closing():
                await asyncio.sleep(0.1)
                writer.write(b"x: y\r\n")

    async with listening(drip) as address:
        with virtual_time() as now:
            began = now()
            with pytest.raises(FirstByteTimeout):
                await read(http, address, first_byte=1.0, idle=9.0, total=9.0)
            assert now() - began == pytest.approx(1.0, abs=0.01)


async def test_the_body_of_an_error_that_drips_holds_a_call_no_longer_than_a_first_byte(http: HttpClient) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n")
        with suppress(ConnectionError):
            while not writer.is_closing():
                await asyncio.sleep(0.1)
                writer.write(b"x")

    async with listening(drip) as address:
        with virtual_time() as now:
            began = now()
            with pytest.raises(UpstreamError):
                await read(http, address, first_byte=1.0, idle=9.0, total=60.0)
            assert now() - began == pytest.approx(1.0, abs=0.01)
