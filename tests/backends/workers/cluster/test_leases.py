"""Leases of a cluster's workers, through one gateway and several."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from backends.queueing import Need
from backends.workers.cluster.links import Link
from backends.workers.pool import WorkerState
from catalog.clouds.cluster import Replicas
from catalog.errors import ModelTooLarge, ModelUnavailable, WorkerFailed
from tests.backends.workers.cluster.conftest import OpenCluster, ask, calling, node
from tests.backends.workers.conftest import model


async def test_a_lease_starts_a_worker_on_a_node_and_gives_its_address(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1")) as cluster:
        pool = await cluster.gateway()
        async with pool.lease(model(), Need()) as upstream, calling(upstream) as http:
            assert upstream.uds is None
            assert upstream.addresses == ("127.0.0.11",)
            assert (await http.post("/chat/completions", json={"messages": []})).status_code == 200
            refused = await http.post("/chat/completions", json={}, headers={"Authorization": "Bearer x"})
            assert refused.status_code == 401
        (view,) = pool.snapshot().workers
        assert (view.node, view.device, view.state) == ("n1", "n1/cpu", WorkerState.READY)
        assert [each.name for each in pool.snapshot().nodes] == ["n1"]


async def test_gateways_together_get_no_more_than_the_slots_of_a_worker(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1"), slots=2) as cluster:
        pools = [await cluster.gateway(), await cluster.gateway()]
        calls = [ask(pool, model(), Need(), tokens=2, interval=0.05) for pool in pools for _ in range(10)]
        answers = await asyncio.gather(*calls)
        assert answers == ["m:0 m:1 "] * 20
        async with pools[0].lease(model(), Need()) as upstream, calling(upstream) as http:
            stats = (await http.get(upstream.base_url.removesuffix("/v1") + "/stats")).json()
        assert stats["most"] == 2
        assert stats["done"] == 20


async def test_leases_of_a_gateway_that_dies_are_free_for_the_others(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1"), slots=1) as cluster:
        dying, other = await cluster.gateway(), await cluster.gateway()
        holding = asyncio.Event()

        async def hold() -> None:
            async with dying.lease(model(), Need()):
                holding.set()
                await asyncio.sleep(60)

        held = asyncio.create_task(hold())
        await holding.wait()
        waiting = asyncio.create_task(ask(other, model(), Need()))
        await cluster.until(lambda: any(view.queued for view in other.snapshot().workers))
        for link in links(dying):
            link.channel.abort()
        assert await asyncio.wait_for(waiting, 5) == "m:0 m:1 m:2 m:3 "
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)


def links(pool: object) -> list[Link]:
    return list(pool._links.values())  # type: ignore[attr-defined]


async def test_a_model_that_no_node_has_room_for_is_refused_with_what_is_lacking(
    open_cluster: OpenCluster,
) -> None:
    async with open_cluster(node("n1", mib=500)) as cluster:
        pool = await cluster.gateway()
        with pytest.raises(ModelTooLarge, match=r"too little memory"):
            await ask(pool, model(mib=900), Need())


async def test_a_node_that_starts_nothing_is_passed_over(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1", mib=900), node("n2", mib=2000)) as cluster:
        cluster.placer.broken.add("n2")
        assert await ask(await cluster.gateway(), model(), Need()) == "m:0 m:1 m:2 m:3 "
        assert [view.node for view in cluster.ready()] == ["n1"]


async def test_an_error_of_the_worker_on_its_node_reaches_the_caller(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1")) as cluster:
        pool = await cluster.gateway()
        with pytest.raises(WorkerFailed, match="broken as told"):
            await ask(pool, model(fail_start="broken as told"), Need())
        with pytest.raises(ModelUnavailable):
            await ask(pool, model("a", engine="absent"), Need())


async def test_a_loaded_model_is_unloaded_on_every_node_for_every_gateway(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1")) as cluster:
        one, two = await cluster.gateway(), await cluster.gateway()
        assert (await one.load(model())).state is WorkerState.READY
        await cluster.until(lambda: bool(two.snapshot().workers))
        assert "listens" in await two.log("m")
        assert await two.unload("m")
        await cluster.until(lambda: not one.snapshot().workers)
        assert not await one.unload("m")
        assert "listens" in await one.log("m")
        assert cluster.placer.processes == {}


async def test_options_of_a_load_are_those_of_every_replica(open_cluster: OpenCluster) -> None:
    async with open_cluster(node("n1"), node("n2")) as cluster:
        pool = await cluster.gateway()
        row = model().model_copy(update={"replicas": Replicas(min=2, max=2)})
        await pool.load(row, options={"text": "{model}! "})
        pool.want([row])
        await cluster.until(lambda: len(cluster.ready()) == 2)
        assert {view.options["text"] for view in cluster.ready()} == {"{model}! "}
        assert await ask(pool, row, Need(), tokens=1) == "m! "


async def test_a_gateway_that_leaves_waits_for_its_own_calls_and_stops_no_worker(
    open_cluster: OpenCluster,
) -> None:
    async with open_cluster(node("n1")) as cluster:
        leaving, other = await cluster.gateway(), await cluster.gateway()
        await ask(leaving, model(), Need())
        await cluster.until(lambda: not any(view.busy for view in leaving.snapshot().workers))
        call = asyncio.create_task(ask(leaving, model(), Need(), tokens=5, interval=0.1))
        await cluster.until(lambda: any(view.busy for view in leaving.snapshot().workers))
        await leaving.drain(10)
        assert (await asyncio.wait_for(call, 5)).startswith("m:0 ")
        with contextlib.suppress(Exception):
            await leaving.close()
        assert await ask(other, model(), Need(), tokens=1) == "m:0 "
        assert len(cluster.placer.processes) == 1
