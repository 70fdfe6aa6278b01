"""Takes the snapshot of the world that a decision is made in, and asks the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from backends.workers.pool import WorkerPool
from catalog.catalog import Catalog
from catalog.index import Index
from catalog.model import UpstreamSource
from routing.accounts.spend import Spend
from routing.beliefs.estimator import Estimator
from routing.choosing.policy import plan
from routing.choosing.world import World
from routing.clock import Clock
from routing.facts import Facts
from routing.plan import Block, Plan
from routing.settings import RoutingSettings
from routing.upstreams.availability import Availability
from routing.upstreams.breaker import Breakers
from routing.upstreams.concurrency import ConcurrencyLimits
from routing.upstreams.provider_keys import KeyPools


class Planner:
    """Calls :func:`routing.choosing.policy.plan` with the world as it is. Reads memory only, for every request."""

    def __init__(
        self,
        *,
        catalog: Callable[[], Catalog],
        availability: Availability,
        pool: WorkerPool,
        breakers: Breakers,
        keys: KeyPools,
        spend: Spend,
        turns: ConcurrencyLimits,
        estimator: Estimator,
        settings: RoutingSettings,
        clock: Clock,
        rng: np.random.Generator,
        pins: Callable[[], Mapping[str, str]] = dict,
        on_pin: Callable[[str, str], object] | None = None,
    ) -> None:
        self._catalog = catalog
        self._availability = availability
        self._pool = pool
        self._breakers = breakers
        self._keys = keys
        self._spend = spend
        self._turns = turns
        self._estimator = estimator
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._pins = pins
        self._on_pin = on_pin
        self._compiled: Catalog | None = None
        self._index = Index(())
        self._by_endpoint: dict[str, tuple[str, ...]] = {}
        self._merged: tuple[tuple[Mapping[Any, Block], ...], Mapping[str, Block]] = ((), {})

    def __call__(self, facts: Facts) -> Plan:
        """The plan for a request; a first choice of an embedding model becomes the alias's pin.

        Raises ModelNotFound and CapabilityMismatch for a model asked for by name.
        """
        made = self.explain(facts)
        if made.pin is not None and made.candidates and self._on_pin is not None:
            self._on_pin(made.pin, made.candidates[0].model.id)
        return made

    def explain(self, facts: Facts) -> Plan:
        """The plan, without any effect."""
        return plan(facts, self.world(facts), self._settings, self._rng)

    def world(self, facts: Facts) -> World:
        """What the decision depends on, now."""
        self._compile()
        now = self._clock.monotonic()
        return World(
            index=self._index,
            estimator=self._estimator,
            now=now,
            wall=self._clock.wall(),
            pool=self._pool.snapshot(),
            blocked=self._blocked(facts, now),
            headroom=self._spend.headroom(facts.key),
            pins=self._pins(),
            queued_ahead=self._queued_ahead(),
        )

    def _compile(self) -> None:
        catalog = self._catalog()
        if catalog is self._compiled:
            return
        self._index = Index(
            catalog, {e.id: e for e in catalog.servers}, version=catalog.version, resolver=catalog.replicas
        )
        self._estimator.align(self._index)
        grouped: dict[str, list[str]] = {}
        for model in catalog:
            if isinstance(model.source, UpstreamSource):
                grouped.setdefault(model.source.endpoint, []).append(model.id)
        self._by_endpoint = {name: tuple(ids) for name, ids in grouped.items()}
        self._compiled = catalog
        self._merged = (), {}

    def _queued_ahead(self) -> Mapping[str, float]:
        waits = self._turns.waits()
        return {model: wait for name, wait in waits.items() for model in self._by_endpoint.get(name, ())}

    def _blocked(self, facts: Facts, now: float) -> Mapping[str, Block]:
        """Why models are out, by id: the same mapping again as long as nothing changed."""
        keyless = self._keys.blocked(now)
        broken = self._breakers.blocked(facts, now)
        lasting = self._availability.blocked
        parts = lasting, keyless, broken
        made_of, blocked_before = self._merged
        if made_of and all(part is before for part, before in zip(parts, made_of, strict=True)):
            return blocked_before
        blocked = dict(lasting)
        for endpoint, block in keyless.items():
            for model in self._by_endpoint.get(endpoint, ()):
                blocked.setdefault(model, block)
        for (model, _), block in broken.items():
            blocked.setdefault(model, block)
        self._merged = parts, blocked
        return blocked
