"""The HTTP client: every timeout has its own error, and every end of a call closes its connection."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr

from backends.base import Timeouts, Upstream
from backends.http import HttpClient
from backends.settings import BackendSettings
from backends.streams.sse import ServerSentEvent
from catalog.errors import (
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    InvalidRequest,
    RoundhouseError,
    StreamBroken,
    TotalTimeout,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamUnreachable,
)
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.loop_time import virtual_time

KEY = "sk-planted-secret-0123456789"
CHAT = {"model": "fake-chat", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


def upstream_of(fake: FakeOpenAI, **times: float) -> Upstream:
    return Upstream(
        endpoint="fake",
        protocol="openai",
        base_url=fake.base_url,
        model="fake-chat",
        uds=str(fake.uds) if fake.uds else None,
        api_key=KEY,
        timeouts=Timeouts(**times),
    )


async def chat(http: HttpClient, upstream: Upstream) -> AsyncGenerator[ServerSentEvent]:
    """The events of a streamed chat. Closing the iterator ends the call."""
    async with http.open(upstream, "POST", "/chat/completions", json=CHAT) as response:
        async for event in response.events():
            yield event


async def read_events(http: HttpClient, upstream: Upstream) -> int:
    """How many events a streamed chat has."""
    return len([event async for event in chat(http, upstream)])


@contextmanager
def takes(seconds: float) -> Iterator[None]:
    """The block takes exactly this long, in virtual time."""
    with virtual_time() as now:
        started = now()
        yield
        assert now() - started == pytest.approx(seconds)


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]],
    uds: Path | None = None,
) -> AsyncIterator[str]:
    """The address of a server whose connections are handled by ``serve`` and end with the block."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serve(reader, writer)

    if uds is None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    else:
        server, address = await asyncio.start_unix_server(accept, uds), "http://localhost"
    try:
        yield address
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


# ---- timeouts


async def test_no_connection_in_time_is_a_connect_timeout(http: HttpClient) -> None:
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        filler.connect(address)
        with socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(address)
            url = f"http://127.0.0.1:{address[1]}/v1"
            upstream = Upstream("full", "openai", url, "m", timeouts=Timeouts(connect=0.4))
            with takes(0.4), pytest.raises(ConnectTimeout):
                await http.get_json(upstream, "/models")


@pytest.mark.parametrize(
    "fault", [Fault(delay=5), Fault(first_byte_delay=5), Fault(stall_after=0)], ids=["headers", "body", "stall"]
)
async def test_no_first_chunk_in_time_is_a_first_byte_timeout(
    fake: FakeOpenAI, http: HttpClient, fault: Fault
) -> None:
    fake.script(fault)
    with takes(0.3), pytest.raises(FirstByteTimeout):
        await read_events(http, upstream_of(fake, first_byte=0.3))
    await (await fake.call()).left()


async def test_a_stall_between_two_chunks_is_an_idle_timeout(fake: FakeOpenAI, http: HttpClient) -> None:
    fake.script(Fault(stall_after=3))
    with takes(0.3), pytest.raises(IdleTimeout):
        await read_events(http, upstream_of(fake, idle=0.3))
    await (await fake.call()).left()


async def test_a_stream_that_never_stalls_still_ends_at_the_total_time(fake: FakeOpenAI, http: HttpClient) -> None:
    fake.script(Fault(chunk_delay=0.05))
    fake.reply = "word " * 100
    with takes(0.4), pytest.raises(TotalTimeout):
        await read_events(http, upstream_of(fake, idle=0.2, first_byte=0.2, total=0.4))


# ---- cancellation


@pytest.mark.parametrize("fault", [Fault(delay=5), Fault(stall_after=0), Fault(stall_after=2)])
async def test_cancelling_the_task_closes_the_upstream_at_once(
    fake: FakeOpenAI, http: HttpClient, fault: Fault
) -> None:
    fake.script(fault)
    task = asyncio.create_task(read_events(http, upstream_of(fake)))
    call = await fake.call()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await call.left()


async def test_closing_the_iterator_closes_the_upstream_at_once(fake: FakeOpenAI, http: HttpClient) -> None:
    fake.script(Fault(chunk_delay=0.05))
    fake.reply = "word " * 100
    async with aclosing(chat(http, upstream_of(fake))) as events:
        await anext(events)
    await (await fake.call()).left()


# ---- connections


async def test_a_connection_is_not_given_up_while_this_process_is_behind(
    fake: FakeOpenAI, http: HttpClient
) -> None:
    loop = asyncio.get_running_loop()
    upstream = upstream_of(fake, connect=0.02)
    ahead = 12

    def busy() -> None:  # one round of the loop takes longer than connecting may
        nonlocal ahead
        time.sleep(0.05)
        ahead -= 1
        if ahead:
            loop.call_soon(busy)

    loop.call_soon(busy)
    assert await read_events(http, upstream)


async def test_a_refused_connection_is_unreachable(http: HttpClient) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        upstream = Upstream("gone", "openai", f"http://127.0.0.1:{unused.getsockname()[1]}", "m")
        with pytest.raises(UpstreamUnreachable, match="'gone' could not be reached"):
            await http.get_json(upstream, "/models")


async def test_a_missing_socket_is_unreachable(http: HttpClient, tmp_path: Path) -> None:
    upstream = Upstream("gone", "worker", "http://worker/v1", "m", uds=str(tmp_path / "no.sock"))
    with pytest.raises(UpstreamUnreachable):
        await http.get_json(upstream, "/models")


@pytest.mark.parametrize("address", ["http://", "ftp://example.org", "http://[::1/"])
async def test_an_address_that_is_not_valid_is_unreachable(http: HttpClient, address: str) -> None:
    with pytest.raises(UpstreamUnreachable, match=r"not (valid|HTTP)"):
        await http.get_json(Upstream("bad", "openai", address, "m"), "/models")


async def test_a_connection_cut_before_the_answer_is_unreachable_and_not_tried_again(
    fake: FakeOpenAI, http: HttpClient
) -> None:
    fake.fault = Fault(die_after=-1)
    with pytest.raises(UpstreamUnreachable):
        await http.post_json(upstream_of(fake), "/chat/completions", CHAT)
    assert len(fake.calls) == 1


async def test_a_connection_cut_within_the_answer_is_a_broken_stream(fake: FakeOpenAI, http: HttpClient) -> None:
    fake.script(Fault(die_after=3))
    with pytest.raises(StreamBroken):
        await read_events(http, upstream_of(fake))


async def test_connections_are_reused_on_tcp(fake: FakeOpenAI, http: HttpClient) -> None:
    upstream = upstream_of(fake)
    for _ in range(3):
        await read_events(http, upstream)
        await http.get_json(upstream, "/models")
    assert len({call.peer for call in fake.calls}) == 1


async def test_each_request_on_a_unix_socket_has_its_own_connection(http: HttpClient, tmp_path: Path) -> None:
    async with FakeOpenAI(uds=tmp_path / "w.sock") as fake:
        for _ in range(3):
            assert await read_events(http, upstream_of(fake)) == 12
        assert {call.headers["connection"] for call in fake.calls} == {"close"}


async def test_closing_idle_connections_leaves_the_calls_in_progress_alone(
    fake: FakeOpenAI, http: HttpClient
) -> None:
    fake.script(Fault(hold_after=1))
    async with FakeOpenAI() as other, aclosing(chat(http, upstream_of(fake))) as events:
        await anext(events)
        for _ in range(2):
            await http.get_json(upstream_of(other), "/models")
            http.close_idle()
        assert len({call.peer for call in other.calls}) == 2, "a new connection each time"
        fake.go.set()
        assert len([event async for event in events]) == 11, "the rest of the stream"


async def test_a_remote_upstream_is_reached_through_the_proxy_and_one_on_this_machine_is_not(
    fake: FakeOpenAI,
) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    async with listening(proxy) as address, HttpClient(BackendSettings(proxy=SecretStr(address))) as http:
        assert await http.get_json(Upstream("far", "openai", "http://far.test/v1", "m"), "/models") == {}
        assert (await http.get_json(upstream_of(fake), "/models"))["object"] == "list"
    assert asked == [b"GET http://far.test/v1/models HTTP/1.1"]


# ---- answers


async def test_a_redirect_is_not_followed(fake: FakeOpenAI, http: HttpClient) -> None:
    fake.script(Fault(status=307, headers={"location": fake.base_url + "/models"}))
    with pytest.raises(UpstreamProtocolError, match="redirects are not followed"):
        await http.get_json(upstream_of(fake), "/models")
    assert len(fake.calls) == 1


async def test_a_body_that_is_no_json_is_a_protocol_error(fake: FakeOpenAI, http: HttpClient) -> None:
    fake.script(Fault(bad_json=True))
    with pytest.raises(UpstreamProtocolError, match="not JSON"):
        await http.get_json(upstream_of(fake), "/models")


async def test_a_page_of_html_where_a_stream_was_asked_for_is_a_protocol_error(
    fake: FakeOpenAI, http: HttpClient
) -> None:
    fake.script(Fault(content_type="text/html"))
    with pytest.raises(UpstreamProtocolError, match="text/html"):
        await read_events(http, upstream_of(fake))


async def test_an_answer_over_the_bound_is_cut(fake: FakeOpenAI) -> None:
    fake.reply = "word " * 10_000
    async with HttpClient(BackendSettings(max_response_bytes=10_000)) as http:
        with pytest.raises(UpstreamProtocolError, match="more than 10000 bytes"):
            await read_events(http, upstream_of(fake))


async def test_text_that_is_not_unicode_is_the_callers_mistake(fake: FakeOpenAI, http: HttpClient) -> None:
    with pytest.raises(InvalidRequest):
        await http.post_json(upstream_of(fake), "/chat/completions", {"text": "\ud800"})


async def test_a_multipart_form_arrives_whole(fake: FakeOpenAI, http: HttpClient) -> None:
    async with http.open(
        upstream_of(fake),
        "POST",
        "/audio/transcriptions",
        data=[
            ("model", "whisper-1"),
            ("timestamp_granularities[]", "word"),
            ("timestamp_granularities[]", "segment"),
        ],
        files=[("file", ("ä.wav", b"\0\1RIFF", "audio/wav"))],
    ) as response:
        assert (await response.json())["text"]
    call = await fake.call()
    assert call.files == {"file": b"\0\1RIFF"}
    assert call.body == {"model": "whisper-1", "timestamp_granularities[]": ["word", "segment"]}


@pytest.mark.parametrize(
    ("body", "error"), [(gzip.compress(b'{"a": 1}', mtime=0), None), (b"not compressed", UpstreamProtocolError)]
)
async def test_an_answer_compressed_unasked_is_read_or_refused(
    http: HttpClient, body: bytes, error: type[RoundhouseError] | None
) -> None:
    async def compressed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        writer.close()

    async with listening(compressed) as address:
        upstream = Upstream("gzip", "openai", address, "m")
        if error is None:
            assert await http.get_json(upstream, "/models") == {"a": 1}
        else:
            with pytest.raises(error, match="does not decompress"):
                await http.get_json(upstream, "/models")


async def test_a_slow_reader_is_not_taken_for_a_stalled_upstream(fake: FakeOpenAI, http: HttpClient) -> None:
    fake.script(Fault(chunk_delay=0.05))
    fake.reply = "word " * 20
    slow, read = 0.3, 0
    with virtual_time():
        async with aclosing(chat(http, upstream_of(fake, idle=0.2))) as events:
            async for _ in events:
                read += 1
                if read == 2:
                    await asyncio.sleep(slow)
    assert read == 24


# ---- statuses


async def test_an_endless_error_body_is_cut(http: HttpClient) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 Oops\r\n\r\n")
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        writer.close()

    async with listening(endless) as address:
        upstream = Upstream("endless", "openai", address, "m")
        with pytest.raises(UpstreamError) as raised:
            await http.get_json(upstream, "/models")
    assert len(raised.value.message) < 1000
