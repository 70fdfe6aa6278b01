"""The needs of a cluster's pool at the control socket: lives of servers, and models to keep."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from backends.base import Life, Upstream
from backends.queueing import Need
from backends.workers.control.channel import Channel
from backends.workers.control.remote_pool import RemotePool
from backends.workers.control.service import PoolService
from backends.workers.pool import PoolSnapshot, WorkerState, WorkerView, of_cluster
from catalog.model import Model
from tests.backends.workers.conftest import model


@dataclass
class ClusterStub:
    """The part of a cluster's pool that is asked here."""

    life: Life = field(default_factory=Life)
    wanted: list[str] = field(default_factory=list)
    first_tokens: list[tuple[str, float]] = field(default_factory=list)

    @asynccontextmanager
    async def lease(self, row: Model, need: Need) -> AsyncIterator[Upstream]:
        yield Upstream("worker/m", "worker", "http://10.0.0.1:1/v1", row.id, life=self.life)

    def snapshot(self) -> PoolSnapshot:
        ready = WorkerView("m", "fake", "n1/cpu", WorkerState.READY, started_at=5.0, node="n1")
        return of_cluster([replace(ready, replica=name) for name in ("a", "b")], (), ())

    def watch(self, changed: Any) -> None: ...

    def want(self, models: Iterable[Model]) -> None:
        self.wanted = [row.id for row in models]

    def first_token(self, model_id: str, seconds: float) -> None:
        self.first_tokens.append((model_id, seconds))


@asynccontextmanager
async def connected(stub: Any, *, elsewhere: bool = False) -> AsyncIterator[RemotePool]:
    ours, theirs = socket.socketpair()
    parent, gateway = Channel(), Channel()
    PoolService(stub).offer(parent)
    pool = RemotePool(gateway, elsewhere=elsewhere)
    await parent.open(ours)
    await gateway.open(theirs)
    await pool.start()
    try:
        yield pool
    finally:
        gateway.close()
        parent.close()
        await asyncio.gather(gateway.closed.wait(), parent.closed.wait())


async def test_the_end_of_a_servers_life_reaches_the_gateway_that_leased_it() -> None:
    stub = ClusterStub()
    async with connected(stub) as pool, pool.lease(model(), Need()) as first:
        async with pool.lease(model(), Need()) as second:
            assert first.life is second.life
        assert first.life is not None
        ended = asyncio.Event()
        first.life.add(ended.set)
        assert not first.life.ended
        stub.life.end()
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_lease_of_a_server_that_has_just_ended_says_so() -> None:
    stub = ClusterStub()
    stub.life.end()
    async with connected(stub) as pool, pool.lease(model(), Need()) as upstream:
        assert upstream.life is not None
        assert upstream.life.ended


async def test_models_to_keep_and_first_tokens_reach_the_cluster() -> None:
    stub = ClusterStub()
    async with connected(stub) as pool:
        pool.want([model("a"), model("b")])
        pool.first_token("a", 0.5)
        await pool.start()  # a call, so that the notes before it have been heard
        assert (stub.wanted, stub.first_tokens) == (["a", "b"], [("a", 0.5)])


async def test_a_snapshot_keeps_replicas_apart_and_together() -> None:
    async with connected(ClusterStub()) as pool:
        assert [view.replica for view in pool.snapshot().workers] == ["a", "b"]
        assert len(pool.snapshot().models) == 1


async def test_times_of_another_machine_are_turned_into_those_of_this_one() -> None:
    async with connected(ClusterStub()) as here, connected(ClusterStub(), elsewhere=True) as there:
        same, shifted = (pool.snapshot().workers[0].started_at for pool in (here, there))
        assert same == 5.0
        assert shifted is not None
        assert abs(shifted - same) < 5.0  # both clocks are this machine's, so only the way is added
