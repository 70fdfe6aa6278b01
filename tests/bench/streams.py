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

from tests.bench.bench import Bench
from tests.bench.client import Connection, connect, request_bytes
from tests.bench.contestants import Contestant, roundhouse, upstream
from tests.bench.limits import raise_open_files
from tests.bench.report import Figure, Report, at_least, at_most

STREAMS, CHUNKS = 1000, 200
QUICK_STREAMS, QUICK_CHUNKS = 300, 50
WHOLE = "whole"
_NUMBER = re.compile(rb'"content":"(\d+) "')


def run(bench: Bench) -> Report:
    """Measure."""
    streams, chunks = bench.pick(STREAMS, QUICK_STREAMS), bench.pick(CHUNKS, QUICK_CHUNKS)
    raise_open_files()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        behind = stack.enter_context(upstream())
        gateway = stack.enter_context(roundhouse(Path(folder), behind, rows=("fast", "paced", "stall")))
        bench.say(f"{streams} idle streams")
        idle = asyncio.run(
            _idle(gateway, streams)
        )  # first: memory that an earlier stream used would be used again
        bench.say(f"{streams} streams of {chunks} chunks")
        ends, seconds = asyncio.run(at_once(gateway, streams, chunks))
    whole = ends.pop(WHOLE, 0)
    figures = (
        Figure(f"of {streams} streams of {chunks} chunks, complete and in order", whole, "", at_least(streams)),
        Figure("chunks a second", streams * chunks / seconds, "/s"),
        Figure("memory of an idle stream", idle / 1024, "KB", at_most(64)),
    )
    note = "; ".join(f"{count} streams: {end}" for end, count in ends.items())
    return Report("streams", f"{streams} streams at once", figures, note)


def _body(model: str, chunks: int = CHUNKS) -> dict[str, Any]:
    message = {"role": "user", "content": "Count."}
    return {"model": model, "messages": [message], "max_tokens": chunks, "stream": True}


async def at_once(gateway: Contestant, streams: int, chunks: int) -> tuple[Counter[str], float]:
    """Start streams together; count them by how they ended, and give the seconds that all of them took.

    ``WHOLE`` stands for a stream whose chunks all came, once and in order; others are counted by their error.
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


async def _idle(gateway: Contestant, streams: int) -> float:
    """Bytes of the gateway's resident memory for each stream that has begun and waits for its next chunk."""
    assert gateway.pid is not None
    target = gateway.target()
    wire = request_bytes(target, _body("bench-stall"))
    process = psutil.Process(gateway.pid)
    for _ in range(5):  # one-time allocations are not counted
        connection = await connect(target)
        await connection.ask(request_bytes(target, _body("bench-fast")))
        connection.close()
    before = process.memory_info().rss
    connections: list[Connection] = await asyncio.gather(*(connect(target) for _ in range(streams)))
    asks = [asyncio.create_task(connection.ask(wire)) for connection in connections]
    async with asyncio.timeout(120):
        while not all(connection.pieces for connection in connections):
            await asyncio.sleep(0.05)
    after = process.memory_info().rss
    for connection in connections:
        connection.close()
    await asyncio.gather(*asks, return_exceptions=True)
    return float(after - before) / streams
