"""Replicas over their life: scaled, evicted, idle, deserted, lost, and found by the next manager."""

from __future__ import annotations

import asyncio
import signal

import httpx
import pytest

from backends.queueing import Need
from catalog.clouds.cluster import Replicas
from catalog.errors import Draining
from catalog.model import Model
from tests.backends.workers.cluster.conftest import OpenCluster, ask, calling, node
from tests.backends.workers.conftest import model


def many(name: str = "m", *, least: int = 0, most: int = 2, **given: object) -> Model:
    return model(name, **given).model_copy(update={"replicas": Replicas(min=least, max=most)})  # type: ignore[arg-type]


async def test_waiting_requests_start_another_replica_on_another_node(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1"), node("n2"), slots=1, cluster_wait=0.3) as cluster:
        pool = await cluster.gateway()
        calls = [asyncio.create_task(ask(pool, many(), Need(), tokens=4, interval=0.4)) for _ in range(6)]
        await cluster.until(lambda: len(cluster.ready()) == 2)
        assert {view.node for view in cluster.ready()} == {"n1", "n2"}
        assert await asyncio.gather(*calls) == ["m:0 m:1 m:2 m:3 "] * 6
        await cluster.until(lambda: {view.busy for view in cluster.ready()} == {0})


async def test_an_idle_replica_too_many_ends_and_the_last_one_after_its_idle_time(
    open_cluster: OpenCluster,
) -> None:
    async with open_cluster(node("n1"), node("n2"), slots=1, cluster_wait=0.2, keep_alive=1.5) as cluster:
        pool = await cluster.gateway()
        await asyncio.gather(*(ask(pool, many(), Need(), tokens=3, interval=0.4) for _ in range(5)))
        await cluster.until(lambda: len(cluster.placer.processes) < 2)
        await cluster.until(lambda: not cluster.placer.processes)
        await cluster.until(lambda: not pool.snapshot().workers)


async def test_as_many_replicas_as_a_row_says_at_least_run_without_a_request(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1"), node("n2"), keep_alive=0.5) as cluster:
        pool = await cluster.gateway()
        pool.want([many(least=2)])
        await cluster.until(lambda: len(cluster.ready()) == 2)
        cluster.placer.signal(cluster.ready()[0].replica, signal.SIGKILL)
        await cluster.until(lambda: len(cluster.ready()) == 1)
        await cluster.until(lambda: len(cluster.ready()) == 2)


async def test_the_replica_idle_the_longest_makes_room_for_another_model(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1", mib=900)) as cluster:
        pool = await cluster.gateway()
        for name in ("a", "b", "a", "c"):
            assert await ask(pool, model(name, mib=300), Need(), tokens=1) == f"{name}:0 "
        loaded = {view.model for view in cluster.manager.snapshot().workers}
        assert loaded == {"a", "c"}


async def test_a_busy_replica_is_drained_and_its_call_ends_before_it_makes_room(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1", mib=500), drain_delay=0.2) as cluster:
        pool = await cluster.gateway()
        running = asyncio.create_task(ask(pool, model("a", mib=300), Need(), tokens=8, interval=0.25))
        await cluster.until(lambda: any(view.busy for view in cluster.workers("a")))
        assert await ask(pool, model("b", mib=300), Need(), tokens=1) == "b:0 "
        assert running.done()
        assert await running == "".join(f"a:{i} " for i in range(8))


async def test_the_death_of_a_replica_breaks_its_calls_at_once_and_the_next_starts_elsewhere(
    open_cluster: OpenCluster,
) -> None:
    async with open_cluster(node("n1"), node("n2")) as cluster:
        pool = await cluster.gateway()
        async with pool.lease(model(), Need()) as upstream, calling(upstream) as http:
            await cluster.until(lambda: len(cluster.ready()) == 1)
            life, (first,) = upstream.life, cluster.ready()
            assert life is not None
            body = {"messages": [], "stream": True, "fake": {"tokens": 100, "interval": 0.1}}
            async with http.stream("POST", "/chat/completions", json=body) as answer:
                chunks = answer.aiter_bytes()
                await anext(chunks)
                cluster.placer.signal(first.replica, signal.SIGKILL)
                with pytest.raises(httpx.RemoteProtocolError):
                    async for _ in chunks:
                        pass
            await cluster.until(lambda: life.ended, 1)
        assert await ask(pool, model(), Need(), tokens=1) == "m:0 "
        (second,) = cluster.ready()
        assert second.node != first.node
        assert second.replica != first.replica


async def test_a_node_that_falls_silent_ends_the_life_of_its_calls_within_its_time(
    open_cluster: OpenCluster,
) -> None:
    async with open_cluster(node("n1"), node("n2"), cluster_silence=2.0) as cluster:
        pool = await cluster.gateway()
        async with pool.lease(model(), Need()) as upstream:
            await cluster.until(lambda: len(cluster.ready()) == 1)
            life, (first,) = upstream.life, cluster.ready()
            assert life is not None
            ended = asyncio.Event()
            life.add(ended.set)
            cluster.placer.signal(first.replica, signal.SIGSTOP)
            began = asyncio.get_running_loop().time()
            await asyncio.wait_for(ended.wait(), 5)
            assert asyncio.get_running_loop().time() - began < 2.5
        assert await ask(pool, model(), Need(), tokens=1) == "m:0 "
        assert [view.node for view in cluster.ready()] != [first.node]


async def test_a_replica_without_a_gateway_ends_itself_after_the_grace(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1"), cluster_grace=2.0) as cluster:
        pool = await cluster.gateway()
        await ask(pool, model(), Need(), tokens=1)
        (replica,) = cluster.placer.processes.values()
        await cluster.stop_manager()
        await pool.close()
        assert await asyncio.wait_for(asyncio.to_thread(replica.wait), 10) == 0


async def test_gateways_serve_on_without_a_manager_and_the_next_one_finds_the_replicas(
    open_cluster: OpenCluster,
) -> None:
    async with open_cluster(node("n1")) as cluster:
        pool = await cluster.gateway()
        await ask(pool, model(), Need(), tokens=1)
        await cluster.stop_manager()
        assert await ask(pool, model(), Need(), tokens=1) == "m:0 "
        await cluster.start_manager()
        assert [view.model for view in cluster.ready()] == ["m"]
        assert await ask(pool, model("b"), Need(), tokens=1) == "b:0 "
        assert len(cluster.placer.processes) == 2


async def test_a_call_that_comes_as_its_replica_leaves_goes_to_another(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1")) as cluster:
        pool, other = await cluster.gateway(), await cluster.gateway()
        await ask(pool, model(), Need(), tokens=1)
        leaving = asyncio.create_task(other.unload("m"))
        answers = await asyncio.gather(
            *(ask(pool, model(), Need(), tokens=1) for _ in range(4)), return_exceptions=True
        )
        await leaving
        assert not any(isinstance(answer, Draining) for answer in answers)
        assert answers == ["m:0 "] * 4


async def test_more_models_than_nodes_have_room_for_answer_each_as_itself(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1", mib=500), node("n2", mib=500), drain_delay=0.2) as cluster:
        pools = [await cluster.gateway(), await cluster.gateway()]
        names = ["a", "b", "c", "d"]

        async def caller(number: int) -> None:
            for turn in range(3):
                name = names[(number + turn) % len(names)]
                assert await ask(pools[number % 2], model(name, mib=300), Need(), tokens=1) == f"{name}:0 "

        await asyncio.gather(*(caller(number) for number in range(6)))
        assert len(cluster.placer.processes) <= 2
