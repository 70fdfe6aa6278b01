"""The planner's snapshot: blocked models appear at once, and the mapping stays the same while nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from backends.queueing import Need
from backends.wire.chat import ChatRequest
from backends.workers.pool import PoolSnapshot
from catalog.catalog import Catalog
from catalog.model import Capability, Endpoint, Model, Price, UpstreamSource
from catalog.prices.price import LaterPrices
from routing.accounts.caps import SpendSettings
from routing.accounts.spend import Spend
from routing.beliefs.estimator import Estimator
from routing.beliefs.prefixes import PrefixMemory
from routing.choosing.planner import Planner
from routing.facts import Facts
from routing.outcomes import Result
from routing.plan import Block
from routing.prefix import Prefix
from routing.reading.requests import read_chat
from routing.settings import Affinity, RoutingSettings
from routing.state.sqlite import SqliteState
from routing.upstreams.availability import Availability
from routing.upstreams.breaker import Breakers, BreakerSettings
from routing.upstreams.concurrency import ConcurrencyLimits
from routing.upstreams.provider_keys import KeyPools, SecretResolver
from tests.routing.calling.scripted import CountingPool
from tests.routing.clocks import ManualClock
from tests.routing.outcome_factory import outcome

CHAT = Facts(capability=Capability.CHAT)


class CompleteStore:
    """A model store that lacks nothing."""

    def missing(self, model: Model) -> str | None:
        return None


class PlannerHarness:
    """A planner over three remote rows at three endpoints: with two keys, with none, and one that needs none."""

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
        self.availability = Availability(CompleteStore(), lambda engine: None)
        self.concurrency = ConcurrencyLimits(self.clock, max_queue=10)
        self.spend = Spend(state, SpendSettings(), self.clock)
        self.planner = Planner(
            catalog=lambda: self.catalog,
            availability=self.availability,
            pool=CountingPool(),
            breakers=self.breakers,
            keys=self.keys,
            spend=self.spend,
            concurrency=self.concurrency,
            estimator=Estimator(RoutingSettings()),
            settings=RoutingSettings(),
            clock=self.clock,
            rng=np.random.default_rng(0),
        )

    def blocked(self) -> Mapping[str, Block]:
        return self.planner.world(CHAT).blocked

    def codes(self) -> dict[str, str]:
        """Block codes of the test's rows."""
        return {name: block.code for name, block in self.blocked().items() if name.startswith("at-")}

    def candidates(self) -> set[str]:
        """Candidates among the test's rows for a chat."""
        found = {candidate.model.id for candidate in self.planner(CHAT).candidates}
        return {name for name in found if name.startswith("at-")}

    def limit(self, position: int, seconds: float) -> None:
        self.keys.record(
            outcome(
                Result.FAILED,
                model="at-keyed",
                endpoint="keyed",
                provider_key=position,
                error="upstream_rate_limited",
                retry_after=seconds,
            )
        )


@pytest.fixture
async def planning(tmp_path: Path) -> AsyncIterator[PlannerHarness]:
    state = SqliteState(tmp_path / "state.sqlite3")
    await state.start()
    yield PlannerHarness(state)
    await state.close()


async def test_blocked_is_the_same_mapping_while_nothing_changes(planning: PlannerHarness) -> None:
    assert planning.codes() == {"at-keyless": "no_key"}
    before = planning.blocked()
    planning.clock.advance(100)
    assert planning.blocked() is before


async def test_a_queue_at_an_endpoint_adds_to_the_latency_of_its_models(planning: PlannerHarness) -> None:
    def seconds(name: str) -> float:
        (expected,) = [c.latency for c in planning.planner(CHAT).considered if c.model.id == name]
        assert expected is not None
        return expected

    queue = planning.concurrency.at(Endpoint(id="open", base_url="http://open/v1", max_concurrency=1))
    assert queue is not None
    free, other = seconds("at-open"), seconds("at-keyed")
    grant = await queue.acquire(Need())
    assert seconds("at-open") == pytest.approx(2 * free), "one call before it"
    waiting = asyncio.create_task(queue.acquire(Need()))
    await asyncio.sleep(0)
    assert seconds("at-open") == pytest.approx(3 * free)
    assert seconds("at-keyed") == other
    named = planning.planner(replace(CHAT, requested="at-open")).candidates[0]
    assert named.latency == pytest.approx(3 * free)
    waiting.cancel()
    queue.release(grant)
    await asyncio.sleep(0)
    assert seconds("at-open") == free


async def test_resting_keys_block_at_once_and_unblock_at_once(planning: PlannerHarness) -> None:
    planning.blocked()
    planning.limit(0, 10)
    assert planning.codes() == {"at-keyless": "no_key"}
    planning.limit(1, 20)
    assert planning.codes() == {"at-keyless": "no_key", "at-keyed": "keys_resting"}
    planning.clock.advance(10)
    assert planning.codes() == {"at-keyless": "no_key"}
    assert planning.blocked() is planning.blocked()


async def test_a_rejected_key_blocks_although_the_cached_blocks_were_permanent(planning: PlannerHarness) -> None:
    planning.blocked()
    for position in (0, 1):
        planning.keys.record(
            outcome(
                Result.FAILED,
                model="at-keyed",
                endpoint="keyed",
                provider_key=position,
                error="upstream_rejected_key",
            )
        )
    assert planning.codes() == {"at-keyless": "no_key", "at-keyed": "keys_rejected"}


async def test_reloaded_keys_unblock(planning: PlannerHarness) -> None:
    planning.blocked()
    planning.environment["NONE"] = "now there is one"
    planning.keys.reload(planning.catalog.servers)
    assert planning.codes() == {}


async def test_an_open_breaker_blocks_at_once_and_unblocks_when_half_open(planning: PlannerHarness) -> None:
    planning.blocked()
    for _ in range(5):
        planning.breakers.record(outcome(Result.FAILED, model="at-open", endpoint="open", error="upstream_error"))
    assert planning.codes() == {"at-keyless": "no_key", "at-open": "breaker_open"}
    assert planning.candidates() == {"at-keyed"}
    planning.clock.advance(60)
    assert planning.codes() == {"at-keyless": "no_key"}
    assert planning.candidates() == {"at-keyed", "at-open"}


async def test_a_new_catalogue_is_compiled_into_a_new_index(planning: PlannerHarness) -> None:
    before = planning.planner.world(CHAT)
    row = Model(id="at-new", capabilities={Capability.CHAT}, source=UpstreamSource(endpoint="keyless", model="m"))
    planning.catalog = Catalog.load(
        user_models=[row], user_endpoints=[Endpoint(id="keyless", base_url="http://keyless/v1", key_env=("NONE",))]
    )
    after = planning.planner.world(CHAT)
    assert after.index is not before.index
    assert planning.codes() == {"at-new": "no_key"}
    assert isinstance(after.pool, PoolSnapshot)


async def test_an_announced_change_of_a_price_is_expected_and_reserved_from_its_day_on(
    planning: PlannerHarness,
) -> None:
    tomorrow = datetime.fromtimestamp(planning.clock.wall(), UTC).date() + timedelta(days=1)
    price = Price(input=1, output=2, later=LaterPrices(on=tomorrow, input=3))
    planning.catalog = planning.catalog.with_discovered(
        "open",
        [
            Model(
                id="open/x",
                capabilities={Capability.CHAT},
                source=UpstreamSource(endpoint="open", model="x"),
                price=price,
            )
        ],
    )
    facts = replace(CHAT, prompt_tokens=1_000_000, output_tokens=0)

    def seen() -> tuple[float, float | None]:
        index = planning.planner.world(facts).index
        return float(index.prices["input"][index.rows["open/x"]]), planning.spend.estimate(price, facts)

    assert seen() == (1.0, 1.0)
    planning.clock.advance(86_400)
    assert seen() == (3.0, 3.0)
    index = planning.planner.world(facts).index
    assert planning.planner.world(facts).index is index


async def test_the_prompt_is_read_as_blocks_only_where_there_is_a_choice(planning: PlannerHarness) -> None:
    def planned(model: str) -> Prefix:
        messages = [{"role": "user", "content": "hello"}]
        facts = read_chat(ChatRequest.model_validate({"model": model, "messages": messages}))
        planning.planner(facts)
        assert facts.prefix is not None
        assert facts.prefix.known
        return facts.prefix

    assert planned("at-open").boundaries == ()
    assert len(planned("auto").boundaries) == 1


async def test_where_choices_are_made_a_conversation_that_began_with_a_named_model_goes_on_as_known(
    planning: PlannerHarness,
) -> None:
    memory = PrefixMemory(Affinity(), planning.clock)
    planning.planner._prefixes = memory

    def planned(model: str, *said: str) -> Facts:
        roles = ("user", "assistant")
        messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(said)]
        facts = read_chat(ChatRequest.model_validate({"model": model, "messages": messages}))
        planning.planner(facts)
        return facts

    first = planned("at-open", "Where is Oslo?")
    assert first.prefix is not None
    assert first.prefix.boundaries == (), "nobody asks for a choice here"
    planned("auto", "Hello")
    begun = planned("at-open", "Where is Bergen?")
    memory.record(outcome(Result.SUCCESS, facts=begun, model="at-open", first_chunk=0.1))
    assert set(memory.held(planned("auto", "Where is Bergen?", "In Norway.", "And Oslo?"))) == {"at-open"}
