"""A supervisor of fake workers (``open_pool``), and helpers to use it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.base import Upstream
from backends.queueing import Need
from backends.workers.engines.registry import EngineInfo, Engines
from backends.workers.memory import Meter, measure
from backends.workers.pool import WorkerState, WorkerView
from backends.workers.settings import WorkerSettings
from backends.workers.supervisor import Supervisor
from catalog.model import Capability, Model, PathSource, Size
from tests.loop_time import SkippedTime, skipped_time

MIB = 2**20
FAKE = Path(__file__).parents[2] / "fakes" / "worker.py"


@dataclass(frozen=True)
class FakeDevice:
    id: str = "cpu"
    name: str = "a test device"
    memory: int = 1000 * MIB


@dataclass
class FakeStore:
    absent: set[str] = field(default_factory=set)

    def path(self, model: Model) -> Path:
        return FAKE

    def missing(self, model: Model) -> str | None:
        return f"'{model.id}' is not pulled." if model.id in self.absent else None


@dataclass
class Witness:
    """A :class:`backends.workers.observer.WorkerObserver` that records the events."""

    loads: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    evictions: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)

    def loaded(self, model: str, seconds: float) -> None:
        assert seconds > 0
        self.loads.append(model)

    def load_failed(self, model: str, reason: str) -> None:
        assert reason
        self.failures.append(model)

    def died(self, model: str, reason: str) -> None:
        assert reason
        self.deaths.append(model)

    def unloaded(self, model: str, *, evicted: bool) -> None:
        (self.evictions if evicted else self.unloads).append(model)


def fake_engines() -> Engines:
    """Make the test engines: ``fake`` runs the fake's own program, ``fake-main`` the worker's program with it."""
    cpu = frozenset({"cpu"})
    through_main = (sys.executable, "-m", "backends.workers.program.main", "--module", "tests.fakes.worker")
    return Engines(
        EngineInfo("fake", "none", (), (sys.executable, "-S", "-E", str(FAKE)), cpu, lambda _: 2),
        EngineInfo("fake-main", "none", (), through_main, cpu, lambda _: 2),
        EngineInfo("fake-children", "none", (), (*through_main, "--children"), cpu, lambda _: 2),
        EngineInfo("absent", "nowhere", ("no_such_package_at_all",), ("false",), cpu, lambda _: 1),
        EngineInfo("unstartable", "none", (), ("/no/such/program",), cpu, lambda _: 1),
    )


def model(
    name: str = "m", *, engine: str = "fake", mib: int = 100, keep_alive: float | None = None, **options: Any
) -> Model:
    return Model(
        id=name,
        capabilities=frozenset({Capability.CHAT}),
        source=PathSource(path=str(FAKE)),
        engine=engine,
        size=Size(memory=mib * MIB),
        keep_alive=keep_alive,
        options=options,
    )


@dataclass
class PoolHarness:
    """A running supervisor with its store, observer and log folder."""

    pool: Supervisor
    store: FakeStore
    witness: Witness
    logs: Path
    time: SkippedTime
    """The clock of the supervisor and of the loop."""

    def view(self, name: str = "m") -> WorkerView:
        return next(worker for worker in self.pool.snapshot().workers if worker.model == name)

    async def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)

    async def until_state(self, state: WorkerState, name: str = "m") -> None:
        await self.until(lambda: self.view(name).state is state)

    async def ask(self, row: Model, need: Need | None = None, **fake: Any) -> str:
        """Return one plain answer through a lease.

        A killed process closes its socket a moment before its end is noticed; a lease in that moment is retried
        once, as the dispatcher does.
        """
        try:
            return await self._ask(row, need, fake)
        except httpx.ConnectError:
            return await self._ask(row, need, fake)

    async def _ask(self, row: Model, need: Need | None, fake: dict[str, Any]) -> str:
        async with self.pool.lease(row, need or Need()) as upstream, client(upstream) as http:
            body = {"messages": [], "fake": fake}
            answer = (await http.post("/chat/completions", json=body)).raise_for_status().json()
            return str(answer["choices"][0]["message"]["content"])


@asynccontextmanager
async def client(upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    assert upstream.uds is not None
    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=upstream.uds),
        base_url=upstream.base_url,
        headers={"Authorization": f"Bearer {upstream.api_key}"},
        timeout=10,
    ) as http:
        yield http


async def stats(upstream: Upstream) -> dict[str, Any]:
    async with client(upstream) as http:
        answer: dict[str, Any] = (await http.get("http://worker/stats")).json()
        return answer


async def until_active(upstream: Upstream, number: int, seconds: float = 30.0) -> None:
    """Wait until the worker is at work on so many requests."""
    async with asyncio.timeout(seconds):
        while (await stats(upstream))["active"] != number:
            await asyncio.sleep(0.005)


OpenPool = Callable[..., Any]


@pytest.fixture
def open_pool(tmp_path: Path) -> OpenPool:
    """Open a pool: ``async with open_pool(keep_alive=1, ...) as h``, with settings, ``environment`` and ``meter``.

    Memory is not measured unless a test sets ``sample_interval``, so that the rows' figures count.
    """

    @asynccontextmanager
    async def opened(
        *, environment: dict[str, str] | None = None, meter: Meter = measure, **settings: Any
    ) -> AsyncIterator[PoolHarness]:
        store, witness = FakeStore(), Witness()
        chosen = WorkerSettings.model_validate(
            {
                "logs": tmp_path / "logs",
                "memory_fraction": 1.0,
                "stop_grace": 2.0,
                "backoff": 0.01,
                "sample_interval": 600.0,
                **settings,
            }
        )
        with skipped_time() as time:
            async with Supervisor(
                store=store,
                settings=chosen,
                devices=[FakeDevice()],
                clock=time,
                engines=fake_engines(),
                observer=witness,
                meter=meter,
                environment=environment or os.environ,
            ) as pool:
                yield PoolHarness(pool, store, witness, tmp_path / "logs", time)

    return opened
