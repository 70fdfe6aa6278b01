"""A tap on the line between a client and the server: bytes pass unchanged, and heads are read from a copy."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

_REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/\S*) HTTP/1\.1\r\n")
_ANSWER = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) [^\r]*\r\n(.*?)\r\n\r\n", re.DOTALL)
_DROPPED = re.compile(rb"^x-roundhouse-dropped: (.*?)\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Exchange:
    """A request and its answer: ``POST /v1/chat/completions``, 200, and the parameters that were left out."""

    request: str
    status: int
    dropped: tuple[str, ...]


class Tap:
    """A TCP server that forwards to a port of the loopback. Start and stop it as a fake."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._lines: list[tuple[bytearray, bytearray]] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def exchanges(self) -> Iterator[Exchange]:
        """The exchanges so far. The requests of a connection are answered in their order."""
        for asked, answered in self._lines:
            for request, answer in zip(
                _REQUEST.findall(bytes(asked)), _ANSWER.findall(bytes(answered)), strict=False
            ):
                method, target = (part.decode() for part in request)
                dropped = b",".join(_DROPPED.findall(answer[1])).decode()
                names = tuple(name.strip() for name in dropped.split(",") if name.strip())
                yield Exchange(f"{method} {target.partition('?')[0]}", int(answer[0]), names)

    def text(self) -> str:
        """All bytes, for the report of a failure."""
        return "\n".join(f"{bytes(asked)!r}\n-> {bytes(answered)!r}" for asked, answered in self._lines)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._to)
        line = (bytearray(), bytearray())
        self._lines.append(line)
        try:
            await asyncio.gather(_pump(reader, onward, line[0]), _pump(onward_reader, writer, line[1]))
        finally:
            for end in (writer, onward):
                end.transport.abort()
            for end in (writer, onward):
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, copy: bytearray) -> None:
    with contextlib.suppress(OSError):  # one end has gone
        while data := await reader.read(65536):
            copy += data
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
