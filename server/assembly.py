"""Builds the parts behind the gate and takes them down again: the one place that knows every part."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from backends.http import HttpClient
from backends.registry import backends
from backends.workers.engines.registry import Engines, builtin_engines
from backends.workers.pool import WorkerPool
from backends.workers.supervisor import Supervisor
from backends.workers.worker import Observer
from catalog.catalog import Catalog
from catalog.errors import ConfigurationError
from catalog.hardware import detect
from catalog.model import Model
from catalog.store.store import Store
from routing.accounts.spend import Spend
from routing.accounts.virtual_keys import VirtualKeys
from routing.beliefs.estimator import Estimator
from routing.beliefs.learning import Learner
from routing.calling.dispatcher import Dispatcher
from routing.calling.lease import Leases, upstream_of
from routing.calling.retry_budget import RetryBudget
from routing.calling.traces import Traces
from routing.choosing.pins import Pins
from routing.choosing.planner import Planner
from routing.clock import Clock, SystemClock
from routing.outcomes import Outcome
from routing.persistence import Persistence
from routing.state.factory import create_state
from routing.state.protocol import State
from routing.upstreams.availability import Availability
from routing.upstreams.breaker import Breakers
from routing.upstreams.concurrency import ConcurrencyLimits
from routing.upstreams.discovery import Discovery, Listing
from routing.upstreams.provider_keys import KeyPools, SecretResolver
from server.discover import keep_discovering, merged
from server.observability.events import AttemptLog, WorkerEvents
from server.observability.metrics import Metrics
from server.observability.telemetry import TelemetryProxy
from server.services import Insight, Runtime
from server.settings import STATE_FILE, Settings

LOOK_AGAIN = 5.0
"""Seconds between two looks at the disk for models that were pulled or removed meanwhile."""


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    metrics: Metrics,
    *,
    engines: Engines | None = None,
    clock: Clock | None = None,
    pool: WorkerPool | None = None,
    scrape: Callable[[], Awaitable[bytes]] | None = None,
) -> AsyncIterator[Runtime]:
    """Everything behind the gate, ready; closed in the opposite order.

    ``engines`` and ``clock`` are this machine's unless given: tests put their own in. ``pool`` and ``scrape`` are
    given where another process owns the workers, and answers for all.

    Raises ConfigurationError when the data folder cannot be used or a row cannot be understood.
    """
    clock = clock or SystemClock()
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The data folder {folder} cannot be written ({error.strerror}). Set another one: ROUNDHOUSE_DATA_DIR."
        ) from error
    store = Store(folder / "models")
    catalog = await asyncio.to_thread(read_catalog, settings, store)
    engines = engines or builtin_engines(settings.workers.python)
    availability = Availability(store, engines.missing)
    await asyncio.to_thread(availability.refresh, tuple(catalog))

    async with AsyncExitStack() as stack:
        state = create_state(settings.state, folder / STATE_FILE)
        breakers = Breakers(settings.breakers, clock)
        keys = KeyPools(catalog.servers, SecretResolver(os.environ), clock)
        virtual_keys = VirtualKeys(state, clock)
        spend = Spend(state, settings.spend, clock, key_caps=virtual_keys.caps)
        estimator = Estimator(settings.routing)
        learner = Learner(estimator, settings.routing)
        pins = Pins()
        traces = Traces(settings.traces, clock, state)
        persistence = Persistence(
            state,
            settings.persistence,
            clock,
            parts=(breakers, keys, pins, estimator),
            spend=spend,
            keys=virtual_keys,
        )
        await persistence.start()
        stack.push_async_callback(persistence.stop)
        if pool is None:
            pool = await stack.enter_async_context(own_workers(settings, store, engines, metrics))
        telemetry = TelemetryProxy(lambda name: runtime.catalog.endpoint(name))
        http = await stack.enter_async_context(HttpClient(settings.backends, propagate=telemetry.headers))
        speakers = backends(http)
        turns = ConcurrencyLimits(clock, max_queue=settings.backends.max_queue)
        planner = Planner(
            catalog=lambda: runtime.catalog,
            availability=availability,
            pool=pool,
            breakers=breakers,
            keys=keys,
            spend=spend,
            concurrency=turns,
            estimator=estimator,
            settings=settings.routing,
            clock=clock,
            rng=np.random.default_rng(),
            pins=lambda: pins.current,
            on_pin=pins.pin,
        )
        seen = metrics.watch_routing(
            breakers.states,
            keys.statistics,
            lambda: [row for row in spend.cap_usage("") if row.scope == "all"],
            turns.queue_loads,
        )
        stack.callback(metrics.registry.unregister, seen)
        dispatcher = Dispatcher(
            planner=planner,
            leases=Leases(
                pool=pool,
                endpoint=lambda name: runtime.catalog.endpoint(name),
                keys=keys,
                spend=spend,
                turns=turns,
                timeouts=settings.backends.timeouts(),
            ),
            backends=speakers,
            breakers=breakers,
            spend=spend,
            retries=RetryBudget(settings.retries, clock),
            traces=traces,
            sinks=(metrics, breakers, keys, traces, virtual_keys, AttemptLog(), telemetry),
            later=(learner, _Journal(state)),
            then=estimator.refresh,
            clock=clock,
        )
        stack.push_async_callback(dispatcher.settle)

        discovery = Discovery(
            settings.discovery,
            speakers,
            lambda server: upstream_of(server, "", keys, clock.monotonic(), settings.backends.timeouts())[0],
        )

        async def publish(found: tuple[Listing, ...]) -> None:
            await asyncio.to_thread(availability.refresh, tuple(merged(runtime.catalog, discovery, found)))
            runtime.catalog = merged(runtime.catalog, discovery, found)

        async def reload(changed: Settings) -> None:
            """Rows, endpoints and provider keys as they are now; nothing that runs is touched."""
            fresh = await asyncio.to_thread(read_catalog, changed, store)
            keys.reload(fresh.servers)
            fresh = merged(replace(fresh, discovered=runtime.catalog.discovered), discovery, ())
            await asyncio.to_thread(availability.refresh, tuple(fresh))
            runtime.catalog = replace(fresh, version=runtime.catalog.version + 1)

        runtime = Runtime(
            catalog=catalog,
            pool=pool,
            dispatcher=dispatcher,
            downloaded=store.ready,
            has_key=lambda model: model.endpoint_name not in keys.blocked(clock.monotonic()),
            unavailable=lambda model: _unavailable(model, availability, keys, clock),
            traces=traces,
            learner=learner,
            spend=spend,
            keys=virtual_keys,
            reload=reload,
            insight=Insight(
                estimator=estimator,
                pins=pins,
                key_statistics=keys.statistics,
                circuit=lambda model: breakers.state(model.id, model.endpoint_name, clock.monotonic()),
            ),
            attach=telemetry.attach,
            scrape=scrape,
        )
        discovering = keep_discovering(
            discovery, settings.discovery.interval, current=lambda: runtime.catalog, publish=publish
        )
        async with _background(persistence.run(), _watch_disk(lambda: runtime, availability), discovering):
            yield runtime


def own_workers(settings: Settings, store: Store, engines: Engines, observer: Observer) -> Supervisor:
    """The workers of this machine, not started yet; they end with the process that owns them."""
    logs = settings.workers.logs or settings.data_dir / "logs"
    return Supervisor(
        store=store,
        settings=settings.workers.model_copy(update={"logs": logs}),
        devices=detect().devices,
        engines=engines,
        observer=WorkerEvents(observer),
    )


class _Journal:
    """Keeps every outcome for reports."""

    def __init__(self, state: State) -> None:
        self._state = state

    def record(self, outcome: Outcome) -> None:
        self._state.add_outcome(outcome)


def read_catalog(settings: Settings, store: Store) -> Catalog:
    """The built-in rows, those of pulled models, and the user's. Raises ConfigurationError."""
    return Catalog.load(user_models=settings.model, user_endpoints=settings.endpoint, pulled=store.rows())


def _unavailable(model: Model, availability: Availability, keys: KeyPools, clock: Clock) -> str | None:
    block = availability.block_of(model) or keys.blocked(clock.monotonic()).get(model.endpoint_name)
    return None if block is None else block.reason


async def _watch_disk(runtime: Callable[[], Runtime], availability: Availability) -> None:
    while True:
        await asyncio.sleep(LOOK_AGAIN)
        await asyncio.to_thread(availability.refresh, tuple(runtime().catalog))


@asynccontextmanager
async def _background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
