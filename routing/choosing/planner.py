"""Takes the snapshot for a decision and calls the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from backends.workers.pool import WorkerPool
from catalog.catalog import Catalog
from catalog.index import Index
from catalog.model import Capability, Model, UpstreamSource
from routing.accounts.spend import Spend
from routing.beliefs.estimator import Estimator
from routing.beliefs.prefixes import PrefixMemory
from routing.choosing import policy
from routing.choosing.world import World
from routing.clock import Clock
from routing.facts import Facts
from routing.plan import Block, Plan, Strategy
from routing.settings import RoutingSettings
from routing.upstreams.availability import Availability
from routing.upstreams.breaker import Breakers
from routing.upstreams.concurrency import ConcurrencyLimits
from routing.upstreams.provider_keys import KeyPools


class Planner:
    """Calls :func:`routing.choosing.policy.plan` with the present :class:`World`. Reads memory only."""

    def __init__(
        self,
        *,
        catalog: Callable[[], Catalog],
        availability: Availability,
        pool: WorkerPool,
        breakers: Breakers,
        keys: KeyPools,
        spend: Spend,
        concurrency: ConcurrencyLimits,
        estimator: Estimator,
        settings: RoutingSettings,
        clock: Clock,
        rng: np.random.Generator,
        pins: Callable[[], Mapping[str, str]] = dict,
        prefixes: PrefixMemory | None = None,
    ) -> None:
        self._catalog = catalog
        self._availability = availability
        self._pool = pool
        self._breakers = breakers
        self._keys = keys
        self._spend = spend
        self._concurrency = concurrency
        self._estimator = estimator
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._pins = pins
        self._prefixes = prefixes
        self._compiled: Catalog | None = None
        self._index = Index(())
        self._by_endpoint: dict[str, tuple[str, ...]] = {}
        self._merged: tuple[tuple[Mapping[Any, Block], ...], Mapping[str, Block]] = ((), {})

    def configure(self, settings: RoutingSettings) -> None:
        """Use other settings, and the estimator's present files of priors, from the next plan on."""
        self._settings = settings
        if self._prefixes is not None:
            self._prefixes.configure(settings.affinity)
        self._compiled = None

    def __call__(self, facts: Facts) -> Plan:
        """The plan for a request. Raises ModelNotFound and CapabilityMismatch for a model asked for by name."""
        made = policy.plan(facts, self.world(facts), self._settings, self._rng)
        if facts.prefix is not None and not facts.prefix.known:
            chosen = made.strategy is not Strategy.EXPLICIT or len(made.considered) > 1
            facts.prefix.settle(wanted=chosen or (self._prefixes is not None and self._prefixes.in_use))
        return made

    def model(self, model_id: str) -> Model | None:
        """The row of the last plan's catalogue with this id."""
        row = self._index.rows.get(model_id)
        return None if row is None else self._index.models[row]

    def world(self, facts: Facts) -> World:
        """The snapshot for a decision, now."""
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
            unknown_price_allowed=self._spend.unknown_price_allowed,
            prefixes=self._prefixes,
            key_capped=facts.capability is Capability.EMBED and self._spend.capped(facts.key),
        )

    def _compile(self) -> None:
        catalog, wall = self._catalog(), self._clock.wall()
        if catalog is self._compiled and wall < self._index.prices_until:
            return
        self._index = Index(
            self._estimator.files.timed(catalog),
            {e.id: e for e in catalog.servers},
            version=catalog.version,
            resolver=catalog.replicas,
            wall=wall,
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
        queued = self._concurrency.queued_ahead()
        return {model: calls for name, calls in queued.items() for model in self._by_endpoint.get(name, ())}

    def _blocked(self, facts: Facts, now: float) -> Mapping[str, Block]:
        """Blocks by model id. The same mapping while nothing changes: the index caches filters by its identity."""
        by_key, by_key_of_model = self._keys.blocked(now), self._keys.blocked_models(now)
        by_breaker = self._breakers.blocked(facts, now)
        unavailable = self._availability.blocked
        sources = unavailable, by_key, by_key_of_model, by_breaker
        merged_from, merged = self._merged
        if merged_from and all(new is old for new, old in zip(sources, merged_from, strict=True)):
            return merged
        blocked = dict(unavailable)
        for endpoint, block in by_key.items():
            for model in self._by_endpoint.get(endpoint, ()):
                blocked.setdefault(model, block)
        for model, block in by_key_of_model.items():
            blocked.setdefault(model, block)
        for (model, _), block in by_breaker.items():
            blocked.setdefault(model, block)
        self._merged = sources, blocked
        return blocked
