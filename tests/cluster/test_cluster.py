"""A cluster at work, and what happens when one part after the other is lost under streams.

The tests run in this order on one cluster: each leaves it whole.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import psutil
import pytest

from backends.queueing import Need
from backends.workers.cluster.find import finder
from backends.workers.cluster.pool import ClusterPool
from backends.workers.settings import WorkerSettings
from catalog.model import Model
from tests.cluster.conftest import GRACE, Cluster
from tests.cluster.gateway import PROGRAM
from tests.cluster.machines import Machine
from tests.faults.serving import Gateway, Told, ask, chat, client, eventually, soon

STREAMS = 50
BACK = 30.0
NOTICED = 1.0


@dataclass
class Outcome:
    """The streams of a test, by gateway, and the moment of the loss."""

    told: list[list[Told | None]]
    began_at: float
    lost_at: float

    @property
    def all(self) -> list[Told | None]:
        return [each for group in self.told for each in group]

    @property
    def broken(self) -> list[Told | None]:
        return [each for each in self.all if each is None or not each.whole]


async def _stream(gateway: Gateway, tokens: int, begun: Callable[[int], None]) -> Told | None:
    """One stream; None if the gateway itself broke off."""
    try:
        async with client(gateway) as session:
            return await ask(session, chat("m", stream=True, tokens=tokens), on_event=begun)
    except OSError:
        return None
    except Exception as error:  # aiohttp's, of a gateway that was killed
        if type(error).__module__.startswith("aiohttp"):
            return None
        raise


async def under_streams(cluster: Cluster, lose: Callable[[], None], *, tokens: int = 80) -> Outcome:
    """Run fifty streams through both gateways, and lose a part once all of them have begun."""
    await soon(lambda: len(cluster.replicas()) == 2, within=120, every=0.2)
    begun = 0

    def count(number: int) -> None:
        nonlocal begun
        begun += number == 1

    gateways, began_at = cluster.gateways[-2:], time.monotonic()
    groups = [
        asyncio.gather(*(_stream(gateway, tokens, count) for _ in range(STREAMS // 2))) for gateway in gateways
    ]
    await soon(lambda: begun == STREAMS, within=30)
    await asyncio.sleep(0.3)
    lost_at = time.monotonic()
    await asyncio.to_thread(lose)
    return Outcome([list(await group) for group in groups], began_at, lost_at)


def check_only_its_own_streams_broke(outcome: Outcome, *, within: float = NOTICED) -> None:
    """Each stream is whole, or got an error event in time; some of both."""
    assert None not in outcome.all, "a gateway broke off"
    told = [each for each in outcome.all if each is not None]
    broken = [each for each in told if not each.whole]
    assert 0 < len(broken) < STREAMS
    assert all(each.error is not None and not each.done for each in broken)
    late = max(each.ended - outcome.lost_at for each in broken)
    print(f"{len(broken)} of {STREAMS} streams broke, the last after {late:.2f} s")
    assert late <= within, f"the last error event came after {late:.2f} s"


def check_whole(outcome: Outcome) -> None:
    assert not outcome.broken


def away_from_the_head(cluster: Cluster) -> Machine:
    """The machine of a replica that is not the head's."""
    eventually(lambda: len(cluster.replicas()) == 2, within=120, every=0.2)
    return next(each for each in map(cluster.machine_of, cluster.replicas()) if each is not cluster.head)


def check_answers(cluster: Cluster) -> None:
    """Both gateways answer."""
    for gateway in cluster.gateways[-2:]:
        body = chat("m", tokens=2)
        answer = httpx.post(f"{gateway.v1}/chat/completions", json=body, timeout=20, trust_env=False)
        assert answer.status_code == 200, answer.text


def back(cluster: Cluster, within: float = BACK) -> float:
    """Seconds until two replicas serve again, and answer through both gateways."""
    took = eventually(lambda: len(cluster.replicas()) == 2, within=within, every=0.1)
    check_answers(cluster)
    eventually(lambda: not any(each["busy"] or each["queued"] for each in cluster.replicas()), within=5)
    print(f"two replicas again after {took:.1f} s")
    return took


def check_nothing_counts_twice(cluster: Cluster, outcome: Outcome, *, cut_off: bool = False) -> None:
    """Each stream was sent once, and as many were completed by workers as were whole for their callers.

    A worker that is cut off completes its streams, as it cannot know.
    """
    whole = sum(each is not None and each.whole for each in outcome.all)
    began = [line for line in cluster.journal("began") if line["at"] >= outcome.began_at]
    done = [line for line in cluster.journal("done") if line["at"] >= outcome.began_at]
    assert len(began) == STREAMS
    assert len(done) >= whole if cut_off else len(done) == whole


# ---- at work


@pytest.mark.parametrize("name", ["smollm2-135m-instruct"])
def test_a_starter_answers_through_both_gateways_from_one_worker(cluster: Cluster, name: str) -> None:
    for gateway in cluster.gateways:
        body = {"model": name, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
        answer = httpx.post(f"{gateway.v1}/chat/completions", json=body, timeout=120, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
    seen = [cluster.replicas(name, gateway=number) for number in (-2, -1)]
    assert [len(each) for each in seen] == [1, 1]
    assert seen[0][0]["replica"] == seen[1][0]["replica"]
    text = {"model": "all-minilm-l6-v2", "input": "a text"}
    vectors = httpx.post(f"{cluster.gateways[0].v1}/embeddings", json=text, timeout=120, trust_env=False)
    assert vectors.status_code == 200, vectors.text
    for model in (name, "all-minilm-l6-v2"):
        httpx.post(f"{cluster.gateways[0].v1}/models/{model}/unload", json={}, timeout=60, trust_env=False)


def test_replicas_are_on_different_nodes_and_the_nodes_are_listed(cluster: Cluster) -> None:
    assert len({each["node"] for each in cluster.replicas()}) == 2
    document = cluster.gateways[0].get("/v1/admin/workers").json()
    assert {node["address"] for node in document["nodes"]} == {"10.99.0.1", "10.99.0.2", "10.99.0.3"}
    metrics = cluster.gateways[0].get("/metrics").text
    assert 'roundhouse_replicas{model="m",state="ready"} 2.0' in metrics


async def test_a_gateway_that_is_no_node_finds_the_same_manager(cluster: Cluster) -> None:
    def settings(address: str) -> WorkerSettings:
        return WorkerSettings.model_validate({**cluster.settings["workers"], "cluster": address})

    inside = await finder(settings(cluster.ray.address), PROGRAM)()
    outside = await finder(settings(f"ray://{cluster.head.address}:10001"), PROGRAM)()
    assert inside == outside


# ---- losses


async def test_a_killed_worker(cluster: Cluster) -> None:
    def lose() -> None:
        machine = cluster.machine_of(cluster.replicas()[0])
        for process in machine.processes("tests/fakes/worker.py"):
            process.kill()

    outcome = await under_streams(cluster, lose)
    check_only_its_own_streams_broke(outcome)
    check_nothing_counts_twice(cluster, outcome)
    await asyncio.to_thread(back, cluster)


async def test_a_killed_node(cluster: Cluster) -> None:
    machine = away_from_the_head(cluster)
    try:
        outcome = await under_streams(cluster, lambda: cluster.ray.kill_node(machine))
        # What Ray has started there ends once it sees that its node is gone, within a second.
        check_only_its_own_streams_broke(outcome, within=NOTICED + 1.0)
        await soon(lambda: not machine.processes("replica_program"), within=15)
        assert not machine.processes("tests/fakes/worker.py")
        check_nothing_counts_twice(cluster, outcome)
        await asyncio.to_thread(back, cluster)
    finally:
        await asyncio.to_thread(cluster.ray.start_node, machine)


async def test_a_node_whose_cable_is_pulled(cluster: Cluster) -> None:
    machine = away_from_the_head(cluster)
    try:
        outcome = await under_streams(cluster, machine.pull)
        check_only_its_own_streams_broke(outcome)
        check_nothing_counts_twice(cluster, outcome, cut_off=True)
        await asyncio.to_thread(back, cluster)
    finally:
        await asyncio.to_thread(machine.plug)
    # The part that was cut off has no gateway, and ends itself.
    await asyncio.to_thread(eventually, lambda: not _unlisted(cluster, machine), within=GRACE + 20, every=0.5)
    if not machine.processes("raylet/raylet"):  # Ray ends a node that it has counted as dead
        await asyncio.to_thread(cluster.ray.start_node, machine)


def _unlisted(cluster: Cluster, machine: Machine) -> list[psutil.Process]:
    listed = sum(cluster.machine_of(each) is machine for each in cluster.replicas(ready=False))
    return machine.processes("replica_program")[listed:]


async def test_a_killed_gateway(cluster: Cluster) -> None:
    killed = cluster.gateways[-2]
    outcome = await under_streams(cluster, lambda: killed.process.kill())
    assert all(each is None for each in outcome.told[0])
    assert all(each is not None and each.whole for each in outcome.told[1])
    eventually(lambda: not any(each["busy"] for each in cluster.replicas()), within=5)
    cancelled = [line for line in cluster.journal("cancelled") if line["at"] >= outcome.lost_at]
    assert len(cancelled) == STREAMS // 2
    assert max(line["at"] for line in cancelled) - outcome.lost_at < NOTICED
    cluster.gateways.remove(killed)
    cluster.open_gateway("three")
    await asyncio.to_thread(back, cluster)


async def test_the_shared_state_is_killed_and_comes_back(cluster: Cluster) -> None:
    outcome = await under_streams(cluster, cluster.state.kill)
    check_whole(outcome)
    await asyncio.to_thread(check_answers, cluster)
    cluster.state.start()
    await asyncio.to_thread(back, cluster)


async def test_the_head_is_killed_and_comes_back(cluster: Cluster) -> None:
    outcome = await under_streams(cluster, cluster.ray.kill_head)
    told = [each for each in outcome.all if each is not None]
    on_head = sum(not each.whole for each in told)
    assert len(told) == STREAMS
    assert on_head < STREAMS
    await asyncio.to_thread(cluster.ray.start_head)
    began = time.monotonic()
    await asyncio.to_thread(back, cluster)
    body = chat("late", tokens=2)
    while True:
        answer = await asyncio.to_thread(
            httpx.post, f"{cluster.gateways[-1].v1}/chat/completions", json=body, timeout=90, trust_env=False
        )
        if answer.status_code == 200:
            break
        assert time.monotonic() - began < BACK, answer.text
        await asyncio.sleep(1)
    assert time.monotonic() - began < BACK


# ---- figures


async def test_a_lease_adds_less_than_a_millisecond(cluster: Cluster) -> None:
    """The median of the best of eight batches: others use this machine, too."""
    settings = WorkerSettings.model_validate(cluster.settings["workers"])
    row = Model.model_validate(cluster.settings["model"][0])
    async with ClusterPool(finder(settings, PROGRAM)) as pool:
        async with pool.lease(row, Need()):
            pass
        medians = []
        for _ in range(8):
            seconds = []
            for _ in range(50):
                began = time.perf_counter()
                async with pool.lease(row, Need()):
                    seconds.append(time.perf_counter() - began)
            medians.append(1000 * statistics.median(seconds))
    print(f"a lease: {min(medians):.2f} ms (p50)")
    assert min(medians) <= 1.0


async def test_two_workers_on_two_nodes_share_the_work(cluster: Cluster) -> None:
    """By processor time, as both nodes are on the same cores: the busier worker has little more than half."""
    await soon(lambda: len(cluster.replicas()) == 2, within=120, every=0.2)
    machines = [cluster.machine_of(each) for each in cluster.replicas()]
    workers = [process for machine in machines for process in machine.processes("tests/fakes/worker.py")]
    before = [_processor_seconds(each) for each in workers]
    gateways = cluster.gateways[-2:]

    async def caller(number: int) -> None:
        async with client(gateways[number % 2]) as session:
            for _ in range(40):
                assert (await ask(session, chat("m", stream=True, tokens=20, interval=0))).whole

    await asyncio.gather(*(caller(number) for number in range(16)))
    used = [_processor_seconds(each) - start for each, start in zip(workers, before, strict=True)]
    gain = sum(used) / max(used)
    print(f"two workers on two nodes: {gain:.2f} times one, by processor time ({used})")
    assert gain >= 1.8


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_nothing_is_left_once_the_gateways_have_gone(cluster: Cluster) -> None:
    for gateway in cluster.gateways:
        gateway.process.terminate()
    for gateway in cluster.gateways:
        gateway.process.wait(30)
    machines = (cluster.head, *cluster.nodes)

    def left() -> list[str]:
        parts = ("replica_program", "tests/fakes/worker.py", "ray::ManagerActor", "ray::ReplicaActor")
        return [part for machine in machines for part in parts if machine.processes(part)]

    eventually(lambda: not left(), within=4 * GRACE, every=0.5)
