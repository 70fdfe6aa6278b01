"""Answers that grow: compressed bytes and JSON whose objects would fill the memory end as a protocol error."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress

import pytest

from backends.base import Upstream
from backends.http import HttpClient
from backends.openai.backend import OpenAIBackend
from backends.wire.chat import ChatRequest
from backends.wire.embeddings import EmbeddingRequest
from catalog.errors import UpstreamProtocolError
from tests.backends.answers import assemble_chat
from tests.backends.http.test_client import listening

CHAT = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
SHORT = CHAT.model_copy(update={"max_tokens": 5})
EMBED = EmbeddingRequest.model_validate({"model": "m", "input": "a"})
MEGABYTE = 1024 * 1024


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


def serve(
    *pieces: bytes, headers: bytes
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]:
    """A server of one body, whose length is not said."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n" + headers + b"\r\n\r\n")
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            writer.close()

    return answer


def bomb(piece: bytes, megabytes: int) -> bytes:
    """``piece`` for so many megabytes, compressed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = piece * (MEGABYTE // len(piece))
    return b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()


PACKED = gzip.compress(b'{"a": 1}', mtime=0)
GZIP_JSON = b"content-type: application/json\r\ncontent-encoding: gzip"
GZIP_EVENTS = b"content-type: text/event-stream\r\ncontent-encoding: gzip"
PLAIN = b"content-type: application/json"


@pytest.mark.parametrize(
    ("piece", "headers", "megabytes"),
    [(b"[", GZIP_JSON, 480), (b" ", GZIP_JSON, 100), (b"data: a", GZIP_EVENTS, 100)],
    ids=["brackets", "spaces", "one event"],
)
async def test_a_compressed_answer_of_hundreds_of_megabytes_is_refused_within_bounded_memory(
    http: HttpClient, piece: bytes, headers: bytes, megabytes: int
) -> None:
    body = bomb(piece, megabytes)
    async with listening(serve(body, headers=headers)) as address:
        upstream = Upstream("bomb", "openai", address, "m")
        tracemalloc.start()
        try:
            with pytest.raises(UpstreamProtocolError):
                await assemble_chat(OpenAIBackend(http).chat(upstream, SHORT if headers is GZIP_JSON else CHAT))
            assert tracemalloc.get_traced_memory()[1] < 120 * MEGABYTE
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("piece", [b"[],", b'"a",', b'{"a":1},', b"0,"])
async def test_json_that_would_grow_in_memory_is_refused_before_it_is_parsed(
    http: HttpClient, piece: bytes
) -> None:
    block = piece * (MEGABYTE // len(piece))
    async with listening(serve(b'{"data": [', *[block] * 40, b"0]}", headers=PLAIN)) as address:
        upstream = Upstream("bomb", "openai", address, "m")
        tracemalloc.start()
        try:
            with pytest.raises(UpstreamProtocolError):
                await OpenAIBackend(http).embed(upstream, EMBED)
            assert tracemalloc.get_traced_memory()[1] < 200 * MEGABYTE
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(b'{"a"', mtime=0) + gzip.compress(b": 1}", mtime=0),
        gzip.compress(b"", mtime=0) + gzip.compress(b'{"a": 1}', mtime=0) + gzip.compress(b"", mtime=0),
        PACKED + b"\0" * 100,
        zlib.compress(b'{"a": 1}'),
    ],
    ids=["two members", "empty members", "padding", "zlib"],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_every_member_of_a_compressed_answer_is_read(http: HttpClient, body: bytes, size: int) -> None:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    async with listening(serve(*pieces, headers=GZIP_JSON)) as address:
        assert await http.get_json(Upstream("gzip", "openai", address, "m"), "/models") == {"a": 1}


@pytest.mark.parametrize("body", [PACKED[:-9], PACKED + b"rest"])
async def test_a_compressed_answer_that_is_cut_or_followed_by_bytes_is_refused(
    http: HttpClient, body: bytes
) -> None:
    async with listening(serve(body, headers=GZIP_JSON)) as address:
        with pytest.raises(UpstreamProtocolError, match="does not decompress"):
            await http.get_json(Upstream("gzip", "openai", address, "m"), "/models")
