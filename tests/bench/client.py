"""The load client: a process of its own, so that what it costs falls on no contestant.

``python -m tests.bench.client`` reads jobs from standard input, one JSON object a line, and writes one line of
results for each. A job has ``url`` (and ``uds``), ``headers``, ``bodies`` (taken in turn), ``clients`` and
``requests`` (in all); a client sends its next request when its last one is answered, or up to ``pause`` seconds
after that, at random. Times are seconds.

It is raw asyncio with httptools: what it adds to a request is a tenth of what the usual libraries add.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import orjson
import uvloop

from tests.bench.limits import raise_open_files

_CONTENT = b'"content":"'
_SPACED = b'"content": "'
_EMPTY = (b'"content":""', b'"content": ""')


@dataclass(frozen=True)
class Target:
    """Where requests go and what they carry."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    uds: str | None = None


@dataclass(frozen=True)
class Result:
    """The measurements of one job: per request the seconds to the first content and to the end, and its pieces."""

    first: list[float]
    whole: list[float]
    pieces: list[int]
    elapsed: float
    failed: int


class Client:
    """A running load client."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self, target: Target, bodies: Sequence[Any], *, clients: int, requests: int, pause: float = 0.0
    ) -> Result:
        """Send requests; raises SystemExit when the client itself failed."""
        job = {
            "url": target.url,
            "uds": target.uds,
            "headers": dict(target.headers),
            "bodies": list(bodies),
            "clients": clients,
            "requests": requests,
            "pause": pause,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the load client ended")
        return Result(**json.loads(line))


@contextmanager
def client() -> Iterator[Client]:
    """A load client until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Client(process)
    finally:
        process.kill()
        process.communicate()


class Connection(asyncio.Protocol):
    """One connection; :meth:`ask` sends a request and waits for the whole answer."""

    def __init__(self) -> None:
        self.status = 0
        self.first = 0.0
        self.pieces = 0
        self.tail = b""
        self.body: list[bytes] = []
        self.keep = False
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._done: asyncio.Future[float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._finish(ConnectionError("the connection was closed within the answer"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_status(self, status: bytes) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        found = body.count(_CONTENT) + body.count(_SPACED) - body.count(_EMPTY[0]) - body.count(_EMPTY[1])
        if found > 0:
            self.pieces += found
            self.first = self.first or time.perf_counter()
        self.tail = self.tail[-16:] + body  # a proxy may cut anywhere
        if self.keep:
            self.body.append(body)

    def on_message_complete(self) -> None:
        self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            if error is None:
                self._done.set_result(time.perf_counter())
            else:
                self._done.set_exception(error)

    async def ask(self, request: bytes) -> tuple[float, float]:
        """Seconds to the first content and to the end. Raises ConnectionError."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self.first, self.pieces, self.tail, self.body = 0.0, 0, b"", []
        began = time.perf_counter()
        self._transport.write(request)
        end = await self._done
        return (self.first or end) - began, end - began

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()


async def connect(target: Target) -> Connection:
    """A new connection."""
    loop = asyncio.get_running_loop()
    if target.uds is not None:
        _, made = await loop.create_unix_connection(Connection, target.uds)
    else:
        address = urlsplit(target.url)
        _, made = await loop.create_connection(Connection, address.hostname or "", address.port or 80)
    return made


def request_bytes(target: Target, body: Any) -> bytes:
    """A POST of ``body`` as it goes over the wire."""
    address = urlsplit(target.url)
    data = orjson.dumps(body)
    lines = [
        f"POST {address.path} HTTP/1.1",
        f"host: {address.netloc}",
        "content-type: application/json",
        f"content-length: {len(data)}",
        *(f"{name}: {value}" for name, value in target.headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


async def run(target: Target, bodies: Sequence[Any], *, clients: int, requests: int, pause: float) -> Result:
    """One job."""
    wires = [request_bytes(target, body) for body in bodies]
    streams = [bool(body.get("stream")) for body in bodies]
    numbers = iter(range(requests))
    first: list[float] = []
    whole: list[float] = []
    pieces: list[int] = []
    failed = 0

    async def one() -> None:
        nonlocal failed
        connection = await connect(target)
        for number in numbers:
            which = number % len(wires)
            if pause:
                await asyncio.sleep(random.uniform(0, pause))
            try:
                if not connection.open or target.uds is not None:
                    connection.close()
                    connection = await connect(target)
                begun, ended = await connection.ask(wires[which])
            except ConnectionError:
                failed += 1
                continue
            finished = connection.status == 200 and (not streams[which] or b"[DONE]" in connection.tail)
            failed += not finished
            first.append(begun)
            whole.append(ended)
            pieces.append(connection.pieces)
        connection.close()

    gc.disable()
    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    elapsed = time.perf_counter() - began
    gc.enable()
    return Result(first, whole, pieces, elapsed, failed)


async def main() -> None:
    """Do the jobs of standard input until it ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        job = json.loads(line)
        target = Target(job["url"], job["headers"], job["uds"])
        result = await run(
            target, job["bodies"], clients=job["clients"], requests=job["requests"], pause=job["pause"]
        )
        print(json.dumps(result.__dict__), flush=True)


if __name__ == "__main__":
    raise_open_files()
    uvloop.run(main())
