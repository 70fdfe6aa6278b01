"""The snapshot a decision is made in: what is out at present, and the same snapshot while nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.workers.pool import Need, PoolSnapshot
from catalog.catalog import Catalog
from catalog.model import Capability, Endpoint, Model, UpstreamSource
from routing.accounts.spend import Spend, SpendSettings
from routing.beliefs.estimator import Estimator
from routing.choosing.planner import Planner
from routing.choosing.world import Block
from routing.facts import Facts
from routing.outcomes import Result
from routing.settings import RoutingSettings
from routing.state.sqlite import SqliteState
from routing.upstreams.availability import Availability
from routing.upstreams.breaker import Breakers, BreakerSettings
from routing.upstreams.concurrency import ConcurrencyLimits
from routing.upstreams.provider_keys import KeyPools, SecretResolver
from tests.routing.calling.scripted import CountingPool
from tests.routing.clocks import ManualClock
from tests.routing.outcome_factory import outcome

CHAT = Facts(capability=Capability.CHAT)


class Shelf:
    """A store of models that has everything."""

    def missing(self, model: Model) -> str | None:
        return None


class Stand:
    """A planner over three remote rows at three endpoints: with two keys, with none, and without need of one."""

    def __init__(self, state: SqliteState) -> None:
        self.clock = ManualClock()
        self.environment = {"TWO": "one,two"}
        endpoints = (
            Endpoint(id="keyed", base_url="http://keyed/v1", key_env=("TWO",)),
            Endpoint(id="keyless", base_url="http://keyless/v1", key_env=("NONE",)),
            Endpoint(id="open", base_url="http://open/v1"),
        )
        rows = [
            Model(id=f"at-{e.id}", capabilities={Capability.CHAT}, source=UpstreamSource(endpoint=e.id, model="m"))
            for e in endpoints
        ]
        self.catalog = Catalog.load(user_models=rows, user_endpoints=endpoints)
        self.keys = KeyPools(self.catalog.servers, SecretResolver(self.environment), self.clock)
        self.breakers = Breakers(BreakerSettings(), self.clock)
        self.availability = Availability(Shelf(), lambda engine: None)
        self.turns = ConcurrencyLimits(self.clock, max_queue=10)
        self.planner = Planner(
            catalog=lambda: self.catalog,
            availability=self.availability,
            pool=CountingPool(),
            breakers=self.breakers,
            keys=self.keys,
            spend=Spend(state, SpendSettings(), self.clock),
            turns=self.turns,
            estimator=Estimator(RoutingSettings()),
            settings=RoutingSettings(),
            clock=self.clock,
            rng=np.random.default_rng(0),
        )

    def blocked(self) -> Mapping[str, Block]:
        return self.planner.world(CHAT).blocked

    def codes(self) -> dict[str, str]:
        """Why our rows are out."""
        return {name: block.code for name, block in self.blocked().items() if name.startswith("at-")}

    def candidates(self) -> set[str]:
        """Those of our rows that a chat may go to."""
        found = {candidate.model.id for candidate in self.planner(CHAT).candidates}
        return {name for name in found if name.startswith("at-")}

    def limit(self, position: int, seconds: float) -> None:
        self.keys.record(
            outcome(
                Result.FAILED,
                endpoint="keyed",
                provider_key=position,
                error="upstream_rate_limited",
                retry_after=seconds,
            )
        )


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    state = SqliteState(tmp_path / "state.sqlite3")
    await state.start()
    yield Stand(state)
    await state.close()


async def test_what_is_out_is_the_same_object_while_nothing_changes(stand: Stand) -> None:
    assert stand.codes() == {"at-keyless": "no_key"}
    before = stand.blocked()
    stand.clock.advance(100)
    assert stand.blocked() is before


async def test_a_crowd_at_an_endpoint_is_time_that_its_models_take(stand: Stand) -> None:
    def seconds(name: str) -> float:
        (expected,) = [c.latency for c in stand.planner(CHAT).considered if c.model.id == name]
        assert expected is not None
        return expected

    queue = stand.turns.at(Endpoint(id="open", base_url="http://open/v1", max_concurrency=1))
    assert queue is not None
    free, other = seconds("at-open"), seconds("at-keyed")
    grant = await queue.acquire(Need())
    assert seconds("at-open") == pytest.approx(2 * free), "one call before it"
    waiting = asyncio.create_task(queue.acquire(Need()))
    await asyncio.sleep(0)
    assert seconds("at-open") == pytest.approx(3 * free)
    assert seconds("at-keyed") == other
    named = stand.planner(replace(CHAT, requested="at-open")).candidates[0]
    assert named.latency == pytest.approx(3 * free)
    waiting.cancel()
    queue.release(grant)
    await asyncio.sleep(0)
    assert seconds("at-open") == free


async def test_keys_that_rest_are_noticed_at_once_and_so_is_their_return(stand: Stand) -> None:
    stand.blocked()
    stand.limit(0, 10)
    assert stand.codes() == {"at-keyless": "no_key"}
    stand.limit(1, 20)
    assert stand.codes() == {"at-keyless": "no_key", "at-keyed": "keys_resting"}
    stand.clock.advance(10)
    assert stand.codes() == {"at-keyless": "no_key"}
    assert stand.blocked() is stand.blocked()


async def test_a_refused_key_is_noticed_although_what_was_out_was_lasting(stand: Stand) -> None:
    stand.blocked()
    for position in (0, 1):
        stand.keys.record(
            outcome(Result.FAILED, endpoint="keyed", provider_key=position, error="upstream_rejected_key")
        )
    assert stand.codes() == {"at-keyless": "no_key", "at-keyed": "keys_rejected"}


async def test_keys_that_are_read_again_are_noticed(stand: Stand) -> None:
    stand.blocked()
    stand.environment["NONE"] = "now there is one"
    stand.keys.reload(stand.catalog.servers)
    assert stand.codes() == {}


async def test_an_open_breaker_is_noticed_at_once_and_so_is_its_end(stand: Stand) -> None:
    stand.blocked()
    for _ in range(5):
        stand.breakers.record(outcome(Result.FAILED, model="at-open", endpoint="open", error="upstream_error"))
    assert stand.codes() == {"at-keyless": "no_key", "at-open": "breaker_open"}
    assert stand.candidates() == {"at-keyed"}
    stand.clock.advance(60)
    assert stand.codes() == {"at-keyless": "no_key"}
    assert stand.candidates() == {"at-keyed", "at-open"}


async def test_another_catalogue_is_another_snapshot(stand: Stand) -> None:
    before = stand.planner.world(CHAT)
    row = Model(id="at-new", capabilities={Capability.CHAT}, source=UpstreamSource(endpoint="keyless", model="m"))
    stand.catalog = Catalog.load(
        user_models=[row], user_endpoints=[Endpoint(id="keyless", base_url="http://keyless/v1", key_env=("NONE",))]
    )
    after = stand.planner.world(CHAT)
    assert after.index is not before.index
    assert stand.codes() == {"at-new": "no_key"}
    assert isinstance(after.pool, PoolSnapshot)
