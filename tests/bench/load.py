"""A load generator in a process of its own: ``python -m tests.bench.load`` reads a job on stdin, prints JSON.

The same program drives the gateway (TCP) and the worker's socket, so that both are measured by the same clock.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """``job``: url, uds (or null), key, path, body, streams, rounds. All streams of a round start together."""
    connector: aiohttp.BaseConnector
    if job["uds"]:
        connector = aiohttp.UnixConnector(job["uds"], limit=0, force_close=True)
    else:
        connector = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {job['key']}"} if job["key"] else {}
    firsts: list[float] = []
    rates: list[float] = []
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        for _ in range(job["rounds"]):
            began = time.perf_counter()
            results = await asyncio.gather(*(_one(session, job, number) for number in range(job["streams"])))
            took = time.perf_counter() - began
            firsts += [first for first, _ in results]
            rates.append(sum(chunks for _, chunks in results) / took)
    return {"first": firsts, "rate": rates}


async def _one(session: aiohttp.ClientSession, job: dict[str, Any], number: int) -> tuple[float, int]:
    body = {**job["body"], "seed": number}
    began = time.perf_counter()
    first = 0.0
    chunks = 0
    async with session.post(job["url"] + job["path"], json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {") and b'"content":"' in line:
                chunks += 1
                first = first or time.perf_counter() - began
    return first, chunks


if __name__ == "__main__":
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
