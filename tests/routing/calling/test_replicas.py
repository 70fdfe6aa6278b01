"""Two replicas behind the real dispatcher: a failing one is soon left out, and soon back when it heals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from backends.base import Timeouts, Upstream
from backends.wire.chat import ChatRequest
from catalog.errors import RoundhouseError, UpstreamOverloaded
from catalog.model import Capability, Endpoint, Model, Price, UpstreamSource
from routing.accounts.caps import SpendSettings
from routing.accounts.spend import Spend
from routing.calling.dispatcher import Dispatcher
from routing.calling.job import Job
from routing.calling.lease import Leases
from routing.calling.operations import CHAT
from routing.calling.retry_budget import RetryBudget, RetrySettings
from routing.calling.traces import Traces, TraceSettings
from routing.facts import Facts
from routing.outcomes import Outcome
from routing.plan import Candidate, Plan, Strategy
from routing.state.sqlite import SqliteState
from routing.upstreams.breaker import Breakers, BreakerSettings
from routing.upstreams.concurrency import ConcurrencyLimits
from routing.upstreams.provider_keys import KeyPools, SecretResolver
from tests.routing.calling.scripted import CountingPool
from tests.routing.clocks import ManualClock

REQUEST = ChatRequest.model_validate({"model": "auto", "messages": [{"role": "user", "content": "hello"}]})
FACTS = Facts(capability=Capability.CHAT, prompt_tokens=3)
FREE_PRICE = Price(input=0, output=0)
NEVER_OPEN = BreakerSettings(consecutive_failures=10**9, window_minimum=10**9)


@dataclass
class Replicas:
    """A backend that answers for every endpoint but those in ``down``."""

    down: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    def dropped(self, request: ChatRequest, upstream: Upstream) -> tuple[str, ...]:
        return ()

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncIterator[dict[str, Any]]:
        self.calls.append(upstream.endpoint)
        await asyncio.sleep(0)
        if upstream.endpoint in self.down:
            raise UpstreamOverloaded("503")
        yield {"choices": [{"index": 0, "delta": {"content": "fine"}, "finish_reason": "stop"}]}
        yield {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


class Record(list[Outcome]):
    def record(self, outcome: Outcome) -> None:
        self.append(outcome)


def replica(endpoint: str) -> Candidate:
    row = Model(
        id=f"{endpoint}/m",
        capabilities=frozenset({Capability.CHAT}),
        source=UpstreamSource(endpoint=endpoint, model="m"),
        price=FREE_PRICE,
    )
    return Candidate(row, 1.0, 0.5, 1.0, 0.0, endpoint)


class ReplicaHarness:
    """Two replicas, tried first in turn."""

    def __init__(self, state: SqliteState, breakers: BreakerSettings) -> None:
        self.clock = ManualClock()
        self.replicas = Replicas()
        self.outcomes = Record()
        self.offered = 0
        endpoints = {name: Endpoint(id=name, base_url=f"http://{name}.test/v1") for name in ("a", "b")}
        keys = KeyPools(endpoints.values(), SecretResolver({}), self.clock)
        spend = Spend(state, SpendSettings(), self.clock)
        circuits = Breakers(breakers, self.clock)
        self.dispatcher = Dispatcher(
            planner=self._plan,
            leases=Leases(
                pool=CountingPool(),
                endpoint=endpoints.__getitem__,
                keys=keys,
                spend=spend,
                concurrency=ConcurrencyLimits(self.clock, max_queue=256),
                timeouts=Timeouts(),
            ),
            backends={"openai": self.replicas},
            breakers=circuits,
            spend=spend,
            retries=RetryBudget(RetrySettings(), self.clock),
            traces=Traces(TraceSettings(), self.clock),
            sinks=(circuits, self.outcomes),
            clock=self.clock,
        )

    def _plan(self, facts: Facts) -> Plan:
        first, second = ("a", "b") if self.offered % 2 else ("b", "a")
        return Plan((replica(first), replica(second)), (), Strategy.PROFILE, "in turn")

    async def ask(self) -> bool:
        self.offered += 1
        job: Job[dict[str, Any]] = Job(
            facts=replace(FACTS, prompt_digest=str(self.offered)),
            operation=CHAT,
            request=REQUEST,
            trace=str(self.offered),
        )
        try:
            async with self.dispatcher.open(job) as answer:
                return [item async for item in answer] != []
        except RoundhouseError:
            return False


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[SqliteState]:
    store = SqliteState(tmp_path / "state.sqlite3")
    async with AsyncExitStack() as stack:
        await store.start()
        stack.push_async_callback(store.close)
        yield store


async def test_a_replica_that_fails_is_out_after_five_failures_and_back_soon_after_it_heals(
    state: SqliteState,
) -> None:
    harness = ReplicaHarness(state, BreakerSettings())
    harness.replicas.down = {"a"}
    served = [await harness.ask() for _ in range(20)]
    assert harness.replicas.calls.count("a") == 5

    for _ in range(3000):
        harness.clock.advance(0.1)
        served.append(await harness.ask())
    assert sum(served) / len(served) >= 0.999
    probes = harness.replicas.calls.count("a") - 5
    assert probes <= 3000 * 0.1 / 20 + 4

    harness.replicas.down = set()
    harness.replicas.calls.clear()
    waited = 0.0
    while harness.replicas.calls.count("a") < 10:
        harness.clock.advance(0.1)
        waited += 0.1
        assert await harness.ask()
    assert waited <= 30


@pytest.mark.parametrize("breakers", [BreakerSettings(), NEVER_OPEN], ids=["breakers", "budget-alone"])
@pytest.mark.parametrize("at_once", [1, 100])
async def test_with_everything_down_upstream_calls_are_at_most_a_fifth_more_than_requests(
    state: SqliteState, breakers: BreakerSettings, at_once: int
) -> None:
    harness = ReplicaHarness(state, breakers)
    harness.replicas.down = {"a", "b"}
    for _ in range(500 // at_once):
        assert not any(await asyncio.gather(*(harness.ask() for _ in range(at_once))))
        harness.clock.advance(0.01 * at_once)
    assert harness.offered == 500
    assert len(harness.replicas.calls) <= 1.2 * harness.offered
    assert len(harness.outcomes) == len(harness.replicas.calls)


async def test_a_hundred_requests_at_once_all_succeed_when_one_of_two_replicas_is_down(state: SqliteState) -> None:
    harness = ReplicaHarness(state, BreakerSettings())
    harness.replicas.down = {"a"}
    assert all(await asyncio.gather(*(harness.ask() for _ in range(100))))
    assert len(harness.outcomes) == len(harness.replicas.calls)
