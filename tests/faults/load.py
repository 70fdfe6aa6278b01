"""An open stream of chats, in a process of its own: ``python -m tests.faults.load`` reads a job, prints JSON.

Requests come at their times whether earlier ones were answered or not, as callers do who know nothing of each
other; the first two seconds are a ramp.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from typing import Any

import aiohttp

from tests.faults.serving import chat

RAMP = 2.0


async def run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """``job``: url, rate (requests a second), seconds, delay (of an answer).

    Of each request its status (or what broke its connection), its Retry-After, and the seconds
    from its first byte to its answer's last.
    """
    rng = random.Random(7)
    async with aiohttp.ClientSession(
        job["url"], connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        loop = asyncio.get_running_loop()
        began = loop.time()
        tasks = []
        due = 0.0
        while due < job["seconds"]:
            await asyncio.sleep(began + due - loop.time())
            delay = job["delay"] * rng.uniform(0.95, 1.05)
            tasks.append(asyncio.create_task(_one(session, delay)))
            due += 1 / (job["rate"] * min(1.0, 0.1 + 0.9 * due / RAMP))
        return list(await asyncio.gather(*tasks))


async def _one(session: aiohttp.ClientSession, delay: float) -> dict[str, Any]:
    began = time.monotonic()
    status: int | str
    try:
        async with session.post("/v1/chat/completions", json=chat("m", delay=delay)) as response:
            await response.read()
            status, after = response.status, response.headers.get("retry-after")
    except aiohttp.ClientError as error:
        status, after = repr(error), None
    return {"status": status, "retry_after": after, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    gc.disable()  # walking every answer so far would be taken for the gateway's own slowness
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
