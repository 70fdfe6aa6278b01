"""Flat memory: after ten thousand mixed requests and fifty loads, the gateway is as large as before.

The gateway runs in this process, so that its tasks can be counted; the load client is a process of its own.
Traces and recent prompts are kept within bounds: that of traces is set low here, and all are filled before the
first measurement.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from backends.workers.settings import WorkerSettings
from backends.workers.supervisor import Supervisor
from tests.backends.workers.conftest import FakeDevice, FakeStore, fake_engines, model
from tests.bench.bench import Bench
from tests.bench.client import Client, client, connect, request_bytes
from tests.bench.contestants import ROW, Contestant, upstream
from tests.bench.gateway import Gateway
from tests.bench.limits import raise_open_files
from tests.bench.overhead import bodies
from tests.bench.report import Figure, Report, at_most

WARM, ROUNDS, LOADS = 6, 10, 50
QUICK_WARM, QUICK_ROUNDS, QUICK_LOADS = 3, 2, 10
PLAIN, STREAMED, FAILING, EMBEDDINGS, CANCELLED = 400, 400, 60, 100, 40
"""Requests of one round, a thousand together."""


@dataclass(frozen=True)
class Standing:
    """Memory in bytes, tasks and files of a process."""

    resident: int
    tasks: int
    files: int
    temporary: int


def run(bench: Bench) -> Report:
    """Measure."""
    raise_open_files()
    rounds, loads = bench.pick(ROUNDS, QUICK_ROUNDS), bench.pick(LOADS, QUICK_LOADS)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.enter_context(_own_temporary_files(Path(folder) / "tmp"))
        behind = stack.enter_context(upstream())
        gateway = Gateway(_settings(Path(folder), behind))
        gateway.start()
        stack.callback(gateway.stop)
        load = stack.enter_context(client())
        for _ in bench.rounds(bench.pick(WARM, QUICK_WARM), "filling bounded state, 1,000 requests a round"):
            _round(gateway, load)
        gateway.call(_loads(5))
        before = _settled(gateway)
        for _ in bench.rounds(rounds, "1,000 requests a round"):
            _round(gateway, load)
        bench.say(f"{loads} loads and unloads")
        gateway.call(_loads(loads))
        after = _settled(gateway, like=before)
    growth = (after.resident / before.resident - 1) * 100
    sizes = {"before": before.resident / 1e6, "after": after.resident / 1e6}
    figures = (
        Figure("resident memory, growth (MB before and after)", growth, "%", at_most(2), sizes),
        Figure("tasks left over", after.tasks - before.tasks, "", at_most(0)),
        Figure("open files and sockets left over", after.files - before.files, "", at_most(0)),
        Figure("temporary files left over", after.temporary - before.temporary, "", at_most(0)),
    )
    return Report("memory", f"After {rounds * 1000} mixed requests and {loads} loads and unloads", figures)


@contextmanager
def _own_temporary_files(folder: Path) -> Iterator[None]:
    """Temporary files go to ``folder``: in the machine's, other programs make and remove their own meanwhile."""
    folder.mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _settings(folder: Path, behind: Contestant) -> Any:
    from server.settings import load_settings

    (folder / "roundhouse.toml").write_text(
        f'[[endpoint]]\nid = "bench"\nbase_url = "{behind.base}"\n'
        + "".join(ROW.format(name=name) for name in ("fast", "stall", "failing")),
        encoding="utf-8",
    )
    return load_settings(
        folder / "roundhouse.toml",
        data_dir=folder / "data",
        log={"level": "error", "access": False},
        traces={"capacity": 1000},
    )


def _round(gateway: Gateway, load: Client) -> None:
    server = Contestant("Roundhouse", f"{gateway.url}/v1", "bench-fast")
    chat, embeddings = server.target(), server.target("/embeddings")
    load.run(chat, bodies("bench-fast", stream=False), clients=10, requests=PLAIN)
    load.run(chat, bodies("bench-fast", stream=True), clients=10, requests=STREAMED)
    load.run(chat, bodies("bench-failing", stream=False), clients=5, requests=FAILING)
    texts = [{"model": "bench-fast", "input": ["a text", f"another, {number}"]} for number in range(16)]
    load.run(embeddings, texts, clients=5, requests=EMBEDDINGS)
    asyncio.run(_cancel(server))


async def _cancel(server: Contestant) -> None:
    """Leave begun streams and waiting plain requests."""
    target = server.target()

    async def leave(body: dict[str, Any]) -> None:
        connection = await connect(target)
        asked = asyncio.ensure_future(connection.ask(request_bytes(target, body)))
        if body.get("stream"):
            while not connection.pieces and not asked.done():
                await asyncio.sleep(0.005)
        else:
            await asyncio.sleep(0.02)
        connection.close()
        await asyncio.gather(asked, return_exceptions=True)

    wanted = [*bodies("bench-stall", stream=True)[: CANCELLED // 2], *bodies("bench-stall", stream=False)]
    await asyncio.gather(*(leave(body) for body in wanted[:CANCELLED]))


async def _loads(count: int) -> None:
    """Load a model, lease it, unload it; so many times, beside the gateway's own supervisor."""
    supervisor = Supervisor(
        store=FakeStore(), settings=WorkerSettings(), devices=(FakeDevice(),), engines=fake_engines()
    )
    async with supervisor:
        for number in range(count):
            row = model(f"m{number % 3}", mib=10)
            await supervisor.load(row)
            await supervisor.unload(row.id)


def _settled(gateway: Gateway, like: Standing | None = None) -> Standing:
    """The process at rest; waits for idle connections and closings to end."""
    end = time.monotonic() + 30
    while True:
        now = _standing(gateway)
        if like is None or time.monotonic() > end:
            break
        if now.tasks <= like.tasks and now.files <= like.files:
            break
        time.sleep(0.2)
    return now


def _standing(gateway: Gateway) -> Standing:
    async def tasks() -> int:
        return len(asyncio.all_tasks())

    gc.collect()
    held = Standing(psutil.Process().memory_info().rss, gateway.call(tasks()), 0, 0)
    temporary = sum(1 for _ in Path(tempfile.gettempdir()).iterdir())
    return replace(held, files=sum(1 for _ in Path("/proc/self/fd").iterdir()), temporary=temporary)
