"""The end of a server's life breaks the calls to it, though its connections stay silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from backends.base import Life, Upstream
from backends.http import HttpClient
from backends.settings import BackendSettings
from catalog.errors import StreamBroken, UpstreamUnreachable

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"


@asynccontextmanager
async def silent_after(begun: bytes) -> AsyncIterator[str]:
    """A server that sends ``begun`` and nothing more, and closes nothing."""
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begun)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for writer in writers:
            writer.close()
        server.close()


def worker(address: str, life: Life) -> Upstream:
    return Upstream("worker/m", "worker", f"{address}/v1", "m", addresses=("127.0.0.1",), life=life)


async def test_a_stream_in_progress_breaks() -> None:
    life = Life()
    async with (
        silent_after(HEAD) as address,
        HttpClient(BackendSettings()) as http,
        http.open(worker(address, life), "POST", "/chat/completions", json={}) as response,
    ):
        pieces = response.iter_bytes()
        assert await anext(pieces) == b"first"
        asyncio.get_running_loop().call_soon(life.end)
        with pytest.raises(StreamBroken):
            await asyncio.wait_for(anext(pieces), 2)


async def test_a_call_without_an_answer_yet_fails_as_one_that_may_be_repeated() -> None:
    life = Life()
    async with silent_after(b"") as address, HttpClient(BackendSettings()) as http:
        asyncio.get_running_loop().call_later(0.05, life.end)
        with pytest.raises(UpstreamUnreachable):
            async with http.open(worker(address, life), "POST", "/chat/completions", json={}):
                pass


async def test_a_call_after_the_end_fails_at_once() -> None:
    life = Life()
    life.end()
    async with silent_after(HEAD) as address, HttpClient(BackendSettings()) as http:
        with pytest.raises(UpstreamUnreachable):
            async with http.open(worker(address, life), "POST", "/chat/completions", json={}):
                pass


async def test_a_completed_call_is_forgotten() -> None:
    life = Life()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    async with silent_after(answer) as address, HttpClient(BackendSettings()) as http:
        assert await http.get_json(worker(address, life), "/models") == {}
        life.end()
