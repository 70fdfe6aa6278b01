"""A cluster without Ray: a manager here, and replicas as processes of this machine on addresses of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from backends.base import Upstream
from backends.workers.cluster.holder import ReplicaProcess
from backends.workers.cluster.manager import ClusterManager
from backends.workers.cluster.placing import Node
from backends.workers.cluster.pool import ClusterPool, ManagerAddress
from backends.workers.cluster.specs import ChannelAddress, ReplicaSpec
from backends.workers.control.network import ChannelServer
from backends.workers.pool import WorkerState, WorkerView
from backends.workers.settings import WorkerSettings
from catalog.errors import Unavailable, WorkerFailed
from tests.backends.workers.conftest import MIB

PROGRAM = "tests.backends.workers.cluster.replica_program"
ROOT = Path(__file__).parents[4]


def node(name: str, *, mib: int = 1000, labels: dict[str, str] | None = None, **amounts: float) -> Node:
    """A node; its number is the last part of its address."""
    number = int("".join(filter(str.isdigit, name)) or 1) + 10
    return Node(name, name, f"127.0.0.{number}", {"memory": float(mib * MIB), "CPU": 2.0, **amounts}, labels or {})


def _end(process: ReplicaProcess) -> None:
    process.stop(5.0)
    process.close()


class ProcessPlacer:
    """Starts replicas as processes of this machine."""

    def __init__(self, *nodes: Node) -> None:
        self.listed = list(nodes)
        self.processes: dict[str, ReplicaProcess] = {}
        self.broken: set[str] = set()
        """Nodes that start nothing."""

    async def nodes(self) -> Sequence[Node]:
        return list(self.listed)

    async def existing(self) -> Sequence[tuple[ReplicaSpec, ChannelAddress]]:
        return [
            (ReplicaSpec.model_validate_json(process.spec), ChannelAddress(*process.address))
            for process in self.processes.values()
            if process.address is not None
        ]

    async def start(self, spec: ReplicaSpec) -> ChannelAddress:
        if spec.node in self.broken:
            raise WorkerFailed(f"{spec.node} starts nothing")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = ReplicaProcess(PROGRAM, spec.model_dump_json(), environment)
        self.processes[spec.id] = process
        try:
            return ChannelAddress(*await asyncio.to_thread(process.wait_ready))
        except RuntimeError as error:
            raise WorkerFailed(str(error)) from None

    async def end(self, replica: str) -> None:
        process = self.processes.pop(replica, None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            await asyncio.to_thread(_end, process)

    def signal(self, replica: str, number: int) -> None:
        """Send a signal to a replica and its worker, as if something happened to their node."""
        main = psutil.Process(self.processes[replica].pid)
        for process in (main, *main.children(recursive=True)):
            process.send_signal(number)


@dataclass
class ClusterHarness:
    """A manager, its gateways, and the nodes."""

    placer: ProcessPlacer
    settings: WorkerSettings
    stack: AsyncExitStack
    manager: ClusterManager = field(init=False)
    server: ChannelServer = field(init=False)
    _running: asyncio.Task[None] | None = None
    _port: int = 0

    async def start_manager(self) -> None:
        self.manager = ClusterManager(self.placer, self.settings)
        await self.manager.start()
        self.server = ChannelServer("manager-key", lambda channel, _: self.manager.offer(channel), silence=20.0)
        self._port = await self.server.start("127.0.0.1")
        self._running = asyncio.create_task(self.manager.run())

    async def stop_manager(self) -> None:
        """End the manager and leave its replicas, as its death does."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
            await self.server.close()

    async def gateway(self) -> ClusterPool:
        """Open another gateway's pool."""

        async def find() -> ManagerAddress:
            if self._running is None:
                raise Unavailable("there is no manager")
            return ManagerAddress("127.0.0.1", self._port, "manager-key")

        return await self.stack.enter_async_context(ClusterPool(find, silence=self.settings.cluster_silence))

    def workers(self, model: str = "m") -> list[WorkerView]:
        return [view for view in self.manager.snapshot().workers if view.model == model]

    def ready(self, model: str = "m") -> list[WorkerView]:
        return [view for view in self.workers(model) if view.state is WorkerState.READY]

    async def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def calling(upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a leased worker."""
    async with httpx.AsyncClient(
        base_url=upstream.base_url, headers={"Authorization": f"Bearer {upstream.api_key}"}, timeout=20
    ) as http:
        yield http


async def ask(pool: ClusterPool, row: Any, need: Any, **fake: Any) -> str:
    """Return one plain answer through a lease."""
    async with pool.lease(row, need) as upstream, calling(upstream) as http:
        answer = await http.post("/chat/completions", json={"messages": [], "fake": fake})
        return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])


OpenCluster = Callable[..., Any]


@pytest.fixture
def open_cluster(tmp_path: Path) -> OpenCluster:
    """Open a cluster: ``async with open_cluster(node("n1"), node("n2"), keep_alive=5) as cluster``."""

    @asynccontextmanager
    async def opened(*nodes: Node, **settings: Any) -> AsyncIterator[ClusterHarness]:
        chosen = WorkerSettings.model_validate(
            {
                "cluster": "auto",
                "logs": tmp_path / "logs",
                "stop_grace": 2.0,
                "backoff": 0.01,
                "cluster_silence": 20.0,
                **settings,
            }
        )
        placer = ProcessPlacer(*nodes)
        async with AsyncExitStack() as stack:
            cluster = ClusterHarness(placer, chosen, stack)
            await cluster.start_manager()
            try:
                yield cluster
            finally:
                await stack.aclose()
                await cluster.stop_manager()
                for replica in tuple(placer.processes):
                    await placer.end(replica)

    return opened
