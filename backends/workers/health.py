"""Asks a worker for its health. A process may live and not answer: stopped, deadlocked, or without its socket."""

from __future__ import annotations

import asyncio

from backends.workers.spec import split_socket
from catalog.errors import FirstByteTimeout, IdleTimeout, RequestFailed, RoundhouseError, StreamBroken

STALLS = 2
"""Requests in a row that time out before a worker that still answers ``/health`` is replaced: its engine makes no
progress."""
FAULTS = 8
"""Requests in a row that fail within the engine before its worker is replaced: one may be poison, but a worker in
order completes others in between."""
_REQUEST = b"GET /health HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n"
_PAUSE = 0.1
"""Seconds between two tries on a socket whose backlog is full."""


class CallFailures:
    """Calls of one process that failed since the last completed one."""

    def __init__(self) -> None:
        self._stalls = 0
        self._faults = 0

    def count(self, error: RoundhouseError) -> bool:
        """Count a failed call; False if its error says nothing about the worker."""
        self._stalls += isinstance(error, FirstByteTimeout | IdleTimeout)
        self._faults += isinstance(error, RequestFailed | StreamBroken)
        return isinstance(error, FirstByteTimeout | IdleTimeout | RequestFailed | StreamBroken)

    @property
    def total(self) -> int:
        return self._stalls + self._faults

    @property
    def too_many(self) -> bool:
        """Whether the process is to be replaced."""
        return self._stalls >= STALLS or self._faults >= FAULTS


async def unhealthy(socket: str, seconds: float) -> str | None:
    """Ask ``/health`` on a worker's socket; return None after a 200 within ``seconds``, else the reason.

    A refused or missing socket is a reason at once. The time is spent on two tries: after a standstill of this
    process, the first one's time is over before the answer is read.
    """
    for _ in range(2):
        try:
            async with asyncio.timeout(seconds / 2):
                status = await _first_status(socket)
        except TimeoutError:
            continue
        except (ConnectionRefusedError, FileNotFoundError):
            return "its socket is gone"
        return None if status == b"200" else f"its health is {status.decode('ascii', 'replace')}"
    return f"it did not answer for {seconds:g} s"


async def _first_status(socket: str) -> bytes:
    """Return the status of the first answer; repeats a try whose connection fails, as a full backlog does."""
    while True:
        try:
            return await _status(socket)
        except (ConnectionRefusedError, FileNotFoundError):
            raise
        except OSError:
            await asyncio.sleep(_PAUSE)


async def _status(socket: str) -> bytes:
    """Return the status of the answer. Raises OSError if the connection fails or closes before it."""
    tcp = split_socket(socket)
    if tcp is None:
        reader, writer = await asyncio.open_unix_connection(socket)
    else:
        reader, writer = await asyncio.open_connection(*tcp)
    try:
        writer.write(_REQUEST)
        line = await reader.readline()
    finally:
        writer.transport.abort()
    parts = line.split(maxsplit=2)
    if len(parts) < 2:
        raise ConnectionResetError
    return parts[1]
