"""A gateway process for tests to kill: loads a worker, prints its process ids and socket, and waits."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from backends.queueing import Need
from backends.workers.settings import WorkerSettings
from backends.workers.supervisor import Supervisor
from tests.backends.workers.conftest import FakeDevice, FakeStore, fake_engines, model, stats


async def main(engine: str, logs: Path) -> None:
    settings = WorkerSettings(logs=logs)
    async with Supervisor(
        store=FakeStore(), settings=settings, devices=[FakeDevice()], engines=fake_engines()
    ) as pool:
        row = model(engine=engine, child=True, ignore_term=True)
        async with pool.lease(row, Need(slots=0)) as upstream:
            child = (await stats(upstream))["child"]
            print(pool.snapshot().workers[0].pid, child, upstream.uds, flush=True)
            await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
