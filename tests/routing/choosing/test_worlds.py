"""Which model is chosen of the built-in catalogue, by what a user has: the keys, the servers, the preference.

Nothing is learned yet in any of these worlds, so each choice rests on priors alone. Each is made 200 times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import pytest

from catalog.catalog import Catalog
from catalog.discovery import discovered_row
from catalog.index import Index
from catalog.model import FREE, Capability, Endpoint, Model
from routing.beliefs.estimator import Estimator
from routing.choosing.policy import plan
from routing.choosing.world import World
from routing.facts import Complexity, Facts, Mode, Task
from routing.plan import Block
from tests.routing.catalogue import SETTINGS, chat

DRAWS = 200
DAY = datetime(2026, 11, 29, tzinfo=UTC).timestamp()
HOME = Endpoint(id="home", base_url="http://10.0.0.5:8080/v1", private=True, discover=True)
PROXY = Endpoint(id="proxy", base_url="https://models.example/v1", discover=True)
STARTER = "smollm2-135m-instruct"
SMALL = frozenset({STARTER, "home/qwen2.5-0.5b-instruct", "home/model", "proxy/llama-3.2-1b-instruct"})


@cache
def _builtin() -> Catalog:
    return Catalog.load()


def listed(endpoint: Endpoint, *names: str) -> list[Model]:
    rows = [discovered_row(endpoint, name, context=32_768) for name in names]
    return [row if endpoint.private else row.model_copy(update={"price": FREE}) for row in rows if row is not None]


def world_of(keys: Iterable[str] = (), found: Iterable[Model] = (), *, starter: bool = True) -> World:
    """The built-in catalogue with keys of these providers, the starter chat model, and discovered rows."""
    builtin = _builtin()
    rows = [*builtin, *found]
    servers = {server.id: server for server in (*builtin.servers, HOME, PROXY)}
    usable = {*keys, HOME.id, PROXY.id}
    blocked = {
        row.id: Block("no_key", "no key")
        for row in rows
        if (row.id != STARTER or not starter if row.local else row.endpoint_name not in usable)
    }
    index = Index(rows, servers, version=1, wall=DAY)
    estimator = Estimator(SETTINGS, writer="test")
    estimator.align(index)
    return World(index=index, estimator=estimator, now=0.0, wall=DAY, blocked=blocked)


def asked(model: str = "auto", **changes: Any) -> Facts:
    return replace(chat(complexity=Complexity.MEDIUM, **changes), requested=model)


def draws(here: World, facts: Facts) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in range(DRAWS):
        found[plan(facts, here, SETTINGS, np.random.default_rng(seed)).candidates[0].model.id] += 1
    return found


@dataclass(frozen=True)
class Case:
    """A world, a request, and the models of which one must be chosen in ``share`` of the draws."""

    name: str
    here: World
    facts: Facts
    chosen: frozenset[str]
    share: float = 1.0


def case(name: str, here: World, facts: Facts, *chosen: str, share: float = 1.0) -> Case:
    return Case(name, here, facts, frozenset(chosen), share)


ANTHROPIC, OPENAI, GOOGLE = world_of(["anthropic"]), world_of(["openai"]), world_of(["google"])
ALL = world_of(["anthropic", "openai", "google"])
SMALL_AT_HOME = listed(HOME, "qwen2.5-0.5b-instruct", "model")
LARGE_AT_HOME = listed(HOME, "llama-3.3-70b-instruct")
PROXIED = listed(PROXY, "anthropic/claude-opus-5.5", "llama-3.2-1b-instruct", "qwen/qwen3-8b")
LOOK_UP: dict[str, Any] = {"features": frozenset({Capability.TOOLS}), "task": Task.TOOL_USE}

WORLDS = [
    case("best with Anthropic's key", ANTHROPIC, asked("auto:best", mode=Mode.BEST), "claude-opus-5-5", share=0.9),
    case("best with OpenAI's key", OPENAI, asked("auto:best", mode=Mode.BEST), "gpt-6.2-astra", share=0.9),
    case("best with Google's key", GOOGLE, asked("auto:best", mode=Mode.BEST), "gemini-4-argon", share=0.9),
    case(
        "best for code with Google's key",
        GOOGLE,
        asked("auto:best", mode=Mode.BEST, task=Task.CODE),
        "gemini-4-argon",
        share=0.9,
    ),
    case("cheap with Anthropic's key", ANTHROPIC, asked("auto:cheap", mode=Mode.CHEAP), "claude-haiku-5-5"),
    case("cheap with OpenAI's key", OPENAI, asked("auto:cheap", mode=Mode.CHEAP), "gpt-5-nano"),
    case("cheap with Google's key", GOOGLE, asked("auto:cheap", mode=Mode.CHEAP), "gemini-2.5-flash-lite"),
    case("fast with Anthropic's key", ANTHROPIC, asked("auto:fast", mode=Mode.FAST), "claude-haiku-5-5"),
    case("fast with OpenAI's key", OPENAI, asked("auto:fast", mode=Mode.FAST), "gpt-6-luna"),
    case("fast with Google's key", GOOGLE, asked("auto:fast", mode=Mode.FAST), "gemini-2.5-flash-lite"),
    case("high stakes with all keys", ALL, asked(high_stakes=True), "claude-opus-5-5"),
    case(
        "high stakes with tools and small models on a server at home",
        world_of(["google"], SMALL_AT_HOME),
        asked(high_stakes=True, prefer_local=True, **LOOK_UP),
        "gemini-4-argon",
    ),
    case(
        "high stakes with servers at home alone",
        world_of([], [*SMALL_AT_HOME, *LARGE_AT_HOME]),
        asked(high_stakes=True),
        "home/llama-3.3-70b-instruct",
    ),
    case(
        "high stakes that must not leave the house",
        world_of(["openai"], [*SMALL_AT_HOME, *LARGE_AT_HOME]),
        asked(high_stakes=True, local_only=True),
        "home/llama-3.3-70b-instruct",
    ),
    case(
        "best through a proxy that lists other makers' models",
        world_of([], PROXIED),
        asked("auto:best", mode=Mode.BEST),
        "proxy/anthropic/claude-opus-5.5",
        share=0.9,
    ),
    case("the starter alone", world_of(), asked(), STARTER),
]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_the_model_that_a_user_would_expect_is_chosen(world: Case) -> None:
    found = draws(world.here, world.facts)
    assert sum(found[model] for model in world.chosen) >= world.share * DRAWS, found


@pytest.mark.parametrize("task", [Task.CHAT, Task.CODE, Task.REASONING, Task.SUMMARISE])
@pytest.mark.parametrize("keys", [("anthropic",), ("openai",), ("google",), ("anthropic", "openai", "google")])
def test_high_stakes_never_fall_to_an_unproven_small_model(keys: tuple[str, ...], task: Task) -> None:
    here = world_of(keys, [*SMALL_AT_HOME, *PROXIED])
    found = draws(here, asked(high_stakes=True, prefer_local=True, prefer_fast=True, task=task))
    assert not SMALL & found.keys(), found
    quality = here.estimator.quality(task, Complexity.MEDIUM)[0]
    usable = here.index.capable((Capability.CHAT,)) & ~np.isin(
        [row.id for row in here.index.models], [*here.blocked]
    )
    for model in found:
        assert quality[here.index.rows[model]] > quality[usable].max() - 0.02, found


def test_a_small_private_model_that_proved_itself_may_answer_under_high_stakes() -> None:
    here = world_of(["anthropic"], SMALL_AT_HOME)
    for _ in range(400):
        here.estimator.observe_quality("home/qwen2.5-0.5b-instruct", Task.CHAT, Complexity.MEDIUM, 1.0)
    assert draws(here, asked(high_stakes=True)) == {"home/qwen2.5-0.5b-instruct": DRAWS}


def test_what_is_superseded_at_the_same_endpoint_is_not_tried_out_of_curiosity() -> None:
    index = OPENAI.index
    superseded = {model.id for model, old in zip(index.models, index.superseded, strict=True) if old}
    found = draws(OPENAI, asked("auto:best", mode=Mode.BEST)) + draws(OPENAI, asked())
    assert {"gpt-5.4-nano", "gpt-6.1-sol"} < superseded
    assert not superseded & found.keys(), found


@pytest.mark.parametrize("provider", ["anthropic", "openai", "google"])
def test_cheap_is_the_lowest_price_and_fast_the_highest_speed_among_the_able(provider: str) -> None:
    here = world_of([provider], starter=False)
    quality = here.estimator.quality(Task.CHAT, Complexity.MEDIUM)[0]
    able = [
        row
        for row, model in enumerate(here.index.models)
        if model.id not in here.blocked and model.limits.context_window and quality[row] >= SETTINGS.able
        if Capability.CHAT in model.capabilities and "spoken" not in model.tags and here.index.retires[row] > DAY
    ]
    facts = asked("auto:cheap", mode=Mode.CHEAP)
    cost = here.estimator.cost(facts)
    cheapest = min(able, key=lambda row: cost[row])
    assert draws(here, facts) == {here.index.models[cheapest].id: DRAWS}
    facts = asked("auto:fast", mode=Mode.FAST)
    quickest = max(here.index.decode[row] for row in able)
    for model in draws(here, facts):
        assert here.index.decode[here.index.rows[model]] == quickest


def test_cheap_tries_a_free_small_model_only_where_outcomes_tell_how_good_it_is() -> None:
    here = world_of(["anthropic"])
    facts = asked("auto:cheap", mode=Mode.CHEAP, task=Task.EXTRACT)
    assert draws(here, facts)[STARTER] == 0
    here.estimator.observe_quality("claude-haiku-5-5", Task.EXTRACT, Complexity.MEDIUM, 1.0)
    tried = draws(here, facts)[STARTER]
    assert 0 < tried < DRAWS
    for _ in range(30):
        here.estimator.observe_quality(STARTER, Task.EXTRACT, Complexity.MEDIUM, 0.0)
    assert draws(here, facts)[STARTER] == 0
    for _ in range(300):
        here.estimator.observe_quality(STARTER, Task.EXTRACT, Complexity.MEDIUM, 1.0)
    assert draws(here, facts)[STARTER] == DRAWS
