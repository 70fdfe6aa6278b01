"""Plans made in small worlds, for the tests of the policy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from catalog.index import Index
from catalog.model import Capability, Model
from routing.choosing.policy import plan
from routing.choosing.world import World
from routing.facts import Facts
from routing.plan import Plan
from routing.settings import RoutingSettings
from tests.routing.catalogue import SETTINGS, rng, world

TOOLS = frozenset({Capability.CHAT, Capability.TOOLS})
EMBED = frozenset({Capability.EMBED})


def choose(facts: Facts, here: World, settings: RoutingSettings = SETTINGS, seed: int = 0) -> Plan:
    """The plan for these facts."""
    return plan(facts, here, settings, rng(seed))


def firsts(facts: Facts, here: World, settings: RoutingSettings = SETTINGS, times: int = 200) -> Counter[str]:
    """How often each model is the first candidate in so many plans."""
    generator = rng()
    return Counter(plan(facts, here, settings, generator).candidates[0].model.id for _ in range(times))


def codes(made: Plan) -> dict[str, str]:
    """The code of each excluded model."""
    return {exclusion.model: exclusion.code for exclusion in made.excluded}


def group(*models: Model, **changes: Any) -> World:
    """A world whose catalogue has these models as replicas of ``m``."""
    here = world(models, **changes)
    index = Index(models, version=1, resolver=lambda _: models)
    here.estimator.align(index)
    return replace(here, index=index)
