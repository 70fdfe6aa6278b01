"""A thousand streams at once: none loses, doubles or reorders a chunk, and an idle one costs little memory."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from tests.bench.client import Connection, connect, request_bytes
from tests.bench.contestants import Contestant, roundhouse, upstream
from tests.bench.limits import raise_open_files
from tests.bench.report import Figure, Report, at_least, at_most

STREAMS, CHUNKS = 1000, 200
WHOLE = "whole"
_NUMBER = re.compile(rb'"content":"(\d+) "')


def run() -> Report:
    """Measure."""
    raise_open_files()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        behind = stack.enter_context(upstream())
        gateway = stack.enter_context(roundhouse(Path(folder), behind, rows=("fast", "paced", "stall")))
        idle = asyncio.run(_idle(gateway))  # first: memory that an earlier stream used would be used again
        ends, seconds = asyncio.run(at_once(gateway, STREAMS, CHUNKS))
    whole = ends.pop(WHOLE, 0)
    figures = (
        Figure(f"of {STREAMS} streams of {CHUNKS} chunks, complete and in order", whole, "", at_least(STREAMS)),
        Figure("chunks a second", STREAMS * CHUNKS / seconds, "/s"),
        Figure("memory of an idle stream", idle / 1024, "KB", at_most(64)),
    )
    note = "; ".join(f"{count} streams: {end}" for end, count in ends.items())
    return Report("streams", "A thousand streams at once", figures, note)


def _body(model: str, chunks: int = CHUNKS) -> dict[str, Any]:
    message = {"role": "user", "content": "Count."}
    return {"model": model, "messages": [message], "max_tokens": chunks, "stream": True}


async def at_once(gateway: Contestant, streams: int, chunks: int) -> tuple[Counter[str], float]:
    """How streams that begin together ended, counted, and the seconds that all of them took.

    ``WHOLE`` is one whose every chunk came, once and in order; the others are told by their end.
    """
    target = gateway.target()
    wire = request_bytes(target, _body("bench-paced", chunks))
    expected = list(range(chunks))

    async def one() -> str:
        connection = await connect(target)
        connection.keep = True
        try:
            await connection.ask(wire)
        except ConnectionError as error:
            return str(error)
        finally:
            connection.close()
        body = b"".join(connection.body)
        if connection.status != 200 or not body.endswith(b"data: [DONE]\n\n"):
            return f"HTTP {connection.status}, {body[-200:]!r}"
        numbers = [int(number) for number in _NUMBER.findall(body)]
        return WHOLE if numbers == expected else "chunks lost, doubled or out of order"

    began = time.perf_counter()
    ends = Counter(await asyncio.gather(*(one() for _ in range(streams))))
    return ends, time.perf_counter() - began


async def _idle(gateway: Contestant) -> float:
    """Bytes of the gateway's resident memory for each stream that has begun and waits for its next chunk."""
    assert gateway.pid is not None
    target = gateway.target()
    wire = request_bytes(target, _body("bench-stall"))
    process = psutil.Process(gateway.pid)
    for _ in range(5):  # what is made once is made before it is counted
        connection = await connect(target)
        await connection.ask(request_bytes(target, _body("bench-fast")))
        connection.close()
    before = process.memory_info().rss
    connections: list[Connection] = await asyncio.gather(*(connect(target) for _ in range(STREAMS)))
    asks = [asyncio.create_task(connection.ask(wire)) for connection in connections]
    async with asyncio.timeout(120):
        while not all(connection.pieces for connection in connections):
            await asyncio.sleep(0.05)
    after = process.memory_info().rss
    for connection in connections:
        connection.close()
    await asyncio.gather(*asks, return_exceptions=True)
    return float(after - before) / STREAMS
