"""Row 7: clients that read or send slowly are cut off in time and slow down no other client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.fakes.openai import FakeOpenAI
from tests.faults.figures import Figures
from tests.faults.serving import Gateway, ask, chat, client, percentile, serving, soon, upstream_row, worker_row

MIB = 2**20


def address(gateway: Gateway) -> tuple[str, int]:
    host, port = gateway.url.removeprefix("http://").rsplit(":", 1)
    return host, int(port)


def post(body: bytes, *, length: int | None = None) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body) if length is None else length, body)
    )


async def test_a_reader_that_stops_is_cut_and_its_upstream_waited_meanwhile(
    tmp_path: Path, figures: Figures
) -> None:
    deadline = 3.0
    words = 4_000  # the fake splits its reply into words before its first chunk, on the loop of this test
    async with FakeOpenAI() as upstream:
        upstream.reply = " ".join(["x" * 20_000] * words)  # 80 MB if it were read
        rows = [upstream_row("large", "there"), worker_row("m", tmp_path)]
        endpoint = [{"id": "there", "base_url": upstream.base_url}]
        server = {"timeouts": {"send": deadline}}
        with serving(tmp_path, model=rows, endpoint=endpoint, server=server) as gateway, socket.socket() as reader:
            async with client(gateway) as session:
                assert (await ask(session, chat("m"))).whole
                before = psutil.Process(gateway.pid).memory_info().rss
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                reader.connect(address(gateway))
                reader.sendall(post(json.dumps(chat("large", stream=True)).encode()))
                call = await upstream.call(timeout=10)
                began = time.monotonic()
                peak = before
                neighbours = []
                while not call.cancelled.is_set():
                    assert time.monotonic() - began < deadline + 10
                    neighbours.append(await ask(session, chat("m", stream=True)))
                    peak = max(peak, psutil.Process(gateway.pid).memory_info().rss)
                    await asyncio.sleep(0.02)
                cut = time.monotonic() - began
                assert all(answer.whole for answer in neighbours)
                await soon(gateway.at_rest, within=5)
            assert gateway.log("response cut")
    assert call.sent < words
    assert cut >= deadline
    figures.at_most(7, "a reader that stops: memory held for it", (peak - before) / MIB, 32, "MiB")
    figures.at_most(7, "a reader that stops, deadline 3 s: until it is cut", cut, 1.5 * deadline, "s")
    figures.at_most(7, "a reader that stops: its neighbours' answers, worst",
                    max(answer.seconds for answer in neighbours), 1.0, "s")  # fmt: skip


@contextmanager
def many_files(wanted: int) -> Iterator[None]:
    """Raise the limit of open files of this process and its children to ``wanted``, where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Trickler(asyncio.Protocol):
    """Sends one byte at a time and records when its connection was closed."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.opened = self.closed_after = 0.0
        self.answer = b""
        self.closed = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.opened = time.monotonic()
        self.transport = transport
        transport.write(self.head)

    def drip(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(b" " if self.head.endswith(b"{") else b"x")

    def data_received(self, data: bytes) -> None:
        self.answer += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed_after = time.monotonic() - self.opened
        if not self.closed.done():
            self.closed.set_result(None)


async def test_two_thousand_trickling_connections_are_closed_and_nobody_else_notices(
    tmp_path: Path, figures: Figures
) -> None:
    number = 2000
    heads = (b"POST /v1/chat/completions HTTP/1.1\r\nX-Slow: ", post(b"{", length=100_000))
    with many_files(3 * number + 500), serving(tmp_path, model=[worker_row("m", tmp_path)]) as gateway:
        async with client(gateway) as session:
            assert (await ask(session, chat("m"))).whole
            loop = asyncio.get_running_loop()
            tricklers: list[Trickler] = []
            for i in range(number):
                _, protocol = await loop.create_connection(lambda i=i: Trickler(heads[i % 2]), *address(gateway))  # type: ignore[misc]
                tricklers.append(protocol)
            done = asyncio.gather(*(trickler.closed for trickler in tricklers))
            others: list[float] = []

            async def drip() -> None:
                while not done.done():
                    for trickler in tricklers:
                        trickler.drip()
                    await asyncio.sleep(1)

            async def neighbour() -> None:
                while not done.done():
                    answer = await ask(session, chat("m"))
                    assert answer.whole
                    others.append(answer.seconds)
                    await asyncio.sleep(0.05)

            dripping, asking = asyncio.create_task(drip()), asyncio.create_task(neighbour())
            async with asyncio.timeout(30):
                await done
            await asking
            dripping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await dripping
        await soon(gateway.at_rest, within=5)
    late = [trickler for trickler in tricklers if b" 408 " not in trickler.answer and trickler.head == heads[1]]
    assert not late, "a body that is too slow is told so"
    figures.at_most(7, "2,000 trickling connections: until the last is closed",
                    max(trickler.closed_after for trickler in tricklers), 10, "s")  # fmt: skip
    figures.at_most(7, "2,000 trickling connections: others' answers, p99", percentile(others, 0.99), 1.0, "s")
