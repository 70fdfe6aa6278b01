"""Asks a worker for its health. A process may live and not answer: stopped, deadlocked, or without its socket."""

from __future__ import annotations

import asyncio

_REQUEST = b"GET /health HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n"
_PAUSE = 0.1
"""Seconds between two tries on a socket whose backlog is full."""


async def unhealthy(socket: str, seconds: float) -> str | None:
    """Ask ``/health`` on a Unix socket; return None after a 200 within ``seconds``, else the reason.

    A refused or missing socket is a reason at once.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    status = await _status(socket)
                except (ConnectionRefusedError, FileNotFoundError):
                    return "its socket is gone"
                except OSError:
                    await asyncio.sleep(_PAUSE)
                else:
                    return (
                        None
                        if status == b"200"
                        else f"it reports its health as {status.decode('ascii', 'replace')}"
                    )
    except TimeoutError:
        return f"it did not answer for {seconds:g} s"


async def _status(socket: str) -> bytes:
    """Return the status of the answer. Raises OSError if the connection fails or closes before it."""
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(_REQUEST)
        line = await reader.readline()
    finally:
        writer.transport.abort()
    parts = line.split(maxsplit=2)
    if len(parts) < 2:
        raise ConnectionResetError
    return parts[1]
