"""An open-loop load of chats in its own process: ``python -m tests.faults.load`` reads a job and prints JSON.

Requests are sent on schedule, whether earlier ones were answered or not, like those of independent callers. The
rate ramps up over the first two seconds.
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
    """Run ``job``: url, rate (requests per second), seconds, delay (of an answer).

    Returns for each request its status (or the error that broke the connection), its Retry-After, and the seconds
    from its first byte to the answer's last byte.
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
    gc.disable()  # a collection over all answers so far would count as latency of the gateway
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
