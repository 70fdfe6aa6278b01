"""A dispatcher for the tests of calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.base import Timeouts
from catalog.model import Endpoint
from routing.accounts.caps import Caps, SpendSettings
from routing.accounts.spend import Spend
from routing.calling.dispatcher import Dispatcher
from routing.calling.lease import Leases
from routing.calling.retry_budget import RetryBudget, RetrySettings
from routing.calling.traces import Traces, TraceSettings
from routing.choosing.pins import Pins
from routing.plan import Plan
from routing.state.sqlite import SqliteState
from routing.upstreams.breaker import Breakers, BreakerSettings
from routing.upstreams.concurrency import ConcurrencyLimits
from routing.upstreams.provider_keys import KeyPools, SecretResolver
from tests.routing.calling.scripted import CountingPool, Recorder, ScriptedBackend, Stand
from tests.routing.clocks import ManualClock


@pytest.fixture
async def stand(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stand]:
    """A dispatcher without caps. The parameter, if any, is the settings of its traces."""
    async with dispatcher(tmp_path, SpendSettings(), getattr(request, "param", TraceSettings())) as made:
        yield made


@pytest.fixture
async def capped(tmp_path: Path) -> AsyncIterator[Stand]:
    """A dispatcher that may spend 100 dollars in all."""
    async with dispatcher(tmp_path, SpendSettings(caps=Caps(total=100)), TraceSettings()) as made:
        yield made


@asynccontextmanager
async def dispatcher(tmp_path: Path, money: SpendSettings, tracing: TraceSettings) -> AsyncIterator[Stand]:
    """Endpoints ``cloud`` with two keys, ``lan`` without, ``small`` for one call at a time; checks for leaks."""
    clock = ManualClock()
    state = SqliteState(tmp_path / "state.sqlite3")
    await state.start()
    endpoints = {
        "cloud": Endpoint(id="cloud", base_url="http://cloud/v1", key_env=("CLOUD_KEYS",)),
        "lan": Endpoint(id="lan", base_url="http://lan/v1"),
        "small": Endpoint(id="small", base_url="http://small/v1", max_concurrency=1),
    }
    keys = KeyPools(endpoints.values(), SecretResolver({"CLOUD_KEYS": "one,two"}), clock)
    breakers = Breakers(BreakerSettings(), clock)
    spend = Spend(state, money, clock)
    await spend.start()
    traces = Traces(tracing, clock)
    pool, backend, recorder = CountingPool(), ScriptedBackend({}), Recorder()
    plans: list[Plan] = []
    dispatcher = Dispatcher(
        planner=lambda facts: plans.pop(0) if len(plans) > 1 else plans[0],
        leases=Leases(
            pool=pool,
            endpoint=lambda name: endpoints[name],
            keys=keys,
            spend=spend,
            concurrency=ConcurrencyLimits(clock, max_queue=2),
            timeouts=Timeouts(),
        ),
        backends={"worker": backend, "openai": backend},
        breakers=breakers,
        spend=spend,
        retries=RetryBudget(RetrySettings(), clock),
        traces=traces,
        sinks=(breakers, keys, traces, recorder),
        clock=clock,
        batched_sinks=(learning := Recorder(),),
        pin=(pins := Pins()).pin,
    )
    yield Stand(dispatcher, backend, pool, recorder, plans, spend, traces, learning, pins, breakers, clock)
    await dispatcher.settle()
    await state.close()
    assert pool.leased == 0
    assert backend.open == 0
