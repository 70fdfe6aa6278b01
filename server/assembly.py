"""Builds the parts behind the gate and takes them down again: the one place that knows every part.

:func:`open_runtime` puts the parts together in the order in which a request meets them: the catalogue, what is
remembered, workers and upstreams, the router, the dispatcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import structlog

from backends.base import Backend, Checks, Timeouts
from backends.fetch import Fetcher
from backends.http import HttpClient
from backends.pictures.films import Films
from backends.registry import backends
from backends.workers.engines.registry import Engines, builtin_engines
from backends.workers.pool import WorkerPool
from catalog.errors import ConfigurationError
from catalog.model import Endpoint, Model
from catalog.store.store import Store
from routing.accounts.caps import CapUsage
from routing.accounts.spend import Spend
from routing.accounts.virtual_keys import VirtualKeys
from routing.beliefs.estimator import Estimator
from routing.beliefs.learning import Learner
from routing.beliefs.prefixes import PrefixMemory
from routing.beliefs.prior_files import PriorFiles
from routing.calling.dispatcher import Dispatcher
from routing.calling.lease import Leases, upstream_of
from routing.calling.retry_budget import RetryBudget
from routing.calling.traces import Traces
from routing.choosing.pins import Pins
from routing.choosing.planner import Planner
from routing.clock import Clock, SystemClock
from routing.deferred.calls import DeferredCalls
from routing.outcomes import OutcomeSink
from routing.persistence import Persistence
from routing.plan import Block
from routing.state.factory import StateSettings, create_state
from routing.state.redis_peers import RedisPeers
from routing.upstreams.availability import Availability
from routing.upstreams.breaker import Breakers
from routing.upstreams.concurrency import ConcurrencyLimits
from routing.upstreams.discovery import Discovery
from routing.upstreams.provider_keys import KeyPools, SecretResolver, needs_key
from server.advising.upgrades import wanted_here
from server.background import works
from server.catalog_updates import CatalogUpdates, LiveCatalog, log_remarks, read_catalog
from server.models.on_use import PullOnUse
from server.models.opening import live_models
from server.models.rows import RegisteredRows
from server.models.workers import availability_of, keep_wanted, own_workers, sinks_of
from server.observability.events import AttemptLog
from server.observability.metrics import Metrics
from server.observability.telemetry import TelemetryProxy
from server.observability.totals import RequestTotals
from server.peers import announce_models, answer_peer
from server.probing.sampling import Sampler
from server.runtime import Insight, Peers, Runtime
from server.settings import STATE_FILE, Settings
from server.storage.files import Files
from server.storage.runner import Runner
from server.storage.storage import Storage


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    metrics: Metrics,
    *,
    engines: Engines | None = None,
    clock: Clock | None = None,
    pool: WorkerPool | None = None,
    scrape: Callable[[], Awaitable[bytes]] | None = None,
    peers: Peers | None = None,
) -> AsyncIterator[Runtime]:
    """Open every part, and close them in the opposite order.

    ``engines`` and ``clock`` default to this machine's; tests pass their own. ``pool``, ``scrape`` and ``peers``
    are passed where another process owns the workers and answers for all.

    Raises ConfigurationError when the data folder cannot be used or a row cannot be understood.
    """
    clock = clock or SystemClock()
    engines = engines or builtin_engines(settings.workers.python)
    models = await _open_models(settings, engines)
    async with AsyncExitStack() as stack:
        memory = await stack.enter_async_context(_open_memory(settings, clock, models.live))
        if pool is None:
            pool = await stack.enter_async_context(own_workers(settings, models.store, engines, metrics))
        workers = pool
        memory.breakers.follow(lambda model: workers.snapshot().process(model))
        calls = await stack.enter_async_context(_open_calls(settings, clock, models.live))
        routing = _open_routing(settings, clock, models, memory, pool, calls)
        dispatcher = _dispatcher(clock, metrics, memory, calls, routing, sinks_of(settings, pool))
        stack.push_async_callback(dispatcher.settle)
        series = metrics.watch_routing(
            memory.breakers.states,
            memory.provider_keys.statistics,
            memory.caps_in_force,
            calls.concurrency.queue_loads,
        )
        stack.callback(metrics.registry.unregister, series)
        registered = RegisteredRows(memory.storage.records)
        updates = _updates(settings, clock, models, memory, calls, registered)
        await updates.start()
        files = Files(memory.storage, settings.storage.files or settings.data_dir / "files")
        await asyncio.to_thread(files.open)
        runtime = _runtime(clock, models, memory, pool, dispatcher, calls, files, scrape)
        runtime.deferred = _deferred(clock, metrics, models, memory, calls, routing, dispatcher)
        sampler = Sampler(runtime, settings.routing.judge)
        runtime.samples = sampler
        runtime.hops = routing.leases.hops
        runtime.looked = updates.looked.is_set
        runtime.peers = peers
        live = await live_models(
            settings.models,
            registered,
            models.engines,
            models.store,
            runtime,
            updates,
            announce=partial(announce_models, runtime),
            wanted=lambda: wanted_here(settings, models.engines),
        )
        runtime.library, runtime.registry, runtime.pulls, runtime.on_use = live
        runtime.reload = partial(_reload, updates, memory, routing, sampler, live.on_use)
        if settings.state.url is not None:
            runtime.peers = await stack.enter_async_context(_redis_peers(settings.state, runtime))
        runtime.runner = Runner(memory.storage.records, clock, works(runtime, settings))
        async with _background(
            memory.persistence.run(),
            updates.watch_disk(),
            updates.discover(),
            files.sweep_always(),
            sampler.run(),
            keep_wanted(pool, models.live.snapshot),
        ):
            runtime.runner.start()
            try:
                yield runtime
            finally:
                await runtime.runner.stop()


@dataclass(frozen=True, slots=True)
class _Models:
    """The models: rows, files, and whether they can run here."""

    store: Store
    engines: Engines
    live: LiveCatalog
    availability: Availability
    pulled: tuple[Model, ...]


@dataclass(frozen=True, slots=True)
class _Memory:
    """Everything that is remembered: money, keys, breakers, beliefs, traces; and its persistence."""

    breakers: Breakers
    provider_keys: KeyPools
    virtual_keys: VirtualKeys
    spend: Spend
    estimator: Estimator
    learner: Learner
    prefixes: PrefixMemory
    pins: Pins
    traces: Traces
    storage: Storage
    persistence: Persistence

    def caps_in_force(self) -> list[CapUsage]:
        """The standing of the caps on all callers together."""
        return [row for row in self.spend.cap_usage("") if row.scope == "all"]


@dataclass(frozen=True, slots=True)
class _Calls:
    """The means to call upstreams."""

    http: HttpClient
    backends: Mapping[str, Backend]
    concurrency: ConcurrencyLimits
    telemetry: TelemetryProxy


async def _open_models(settings: Settings, engines: Engines) -> _Models:
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The data folder {folder} cannot be written ({error.strerror}). Set another one: ROUNDHOUSE_DATA_DIR."
        ) from error
    store = Store(folder / "models")
    pulled = await asyncio.to_thread(store.rows)
    live = LiveCatalog(await asyncio.to_thread(read_catalog, settings, store, engines, None))
    log_remarks(live.current)
    availability = availability_of(settings, store, engines)
    _, unusable = await asyncio.gather(
        asyncio.to_thread(availability.refresh, tuple(live.current)),
        asyncio.to_thread(engines.own_pythons_missing),
    )
    for missing in unusable:
        structlog.get_logger("server.engines").warning("engine cannot run", reason=missing.message)
    return _Models(store, engines, live, availability, pulled)


@asynccontextmanager
async def _open_memory(settings: Settings, clock: Clock, live: LiveCatalog) -> AsyncIterator[_Memory]:
    state = create_state(settings.state, settings.data_dir / STATE_FILE)
    breakers = Breakers(settings.breakers, clock, live.fingerprint)
    provider_keys = KeyPools(live.current.servers, SecretResolver(os.environ), clock)
    virtual_keys = VirtualKeys(state, clock)
    spend = Spend(state, settings.spend, clock, key_caps=virtual_keys.caps)
    estimator = Estimator(settings.routing)
    estimator.files = PriorFiles.read(settings.routing.priors)
    pins = Pins()
    persistence = Persistence(
        state,
        settings.persistence,
        clock,
        parts=(breakers, provider_keys, estimator),
        first_wins=(pins,),
        spend=spend,
        keys=virtual_keys,
        counted=(provider_keys,),
    )
    await persistence.start()
    try:
        yield _Memory(
            breakers=breakers,
            provider_keys=provider_keys,
            virtual_keys=virtual_keys,
            spend=spend,
            estimator=estimator,
            learner=Learner(estimator, settings.routing),
            prefixes=PrefixMemory(settings.routing.affinity, clock),
            pins=pins,
            traces=Traces(settings.traces, clock, state),
            storage=Storage(state.records, settings.storage, clock, hosts=settings.backends.fetch.hosts),
            persistence=persistence,
        )
    finally:
        await persistence.stop()


@asynccontextmanager
async def _redis_peers(state: StateSettings, runtime: Runtime) -> AsyncIterator[Peers]:
    """The gateways of all machines that share the state in Redis."""
    assert state.url is not None
    peers = RedisPeers(state.url.get_secret_value(), prefix=state.prefix, password_file=state.password_file)
    await peers.start(partial(answer_peer, runtime))
    try:
        yield peers
    finally:
        await peers.close()


@asynccontextmanager
async def _open_calls(settings: Settings, clock: Clock, live: LiveCatalog) -> AsyncIterator[_Calls]:
    telemetry = TelemetryProxy(live.endpoint)
    async with HttpClient(settings.backends, propagate=telemetry.headers) as http:
        concurrency = ConcurrencyLimits(clock, max_queue=settings.backends.max_queue)
        yield _Calls(http, backends(http), concurrency, telemetry)


@dataclass(frozen=True, slots=True)
class _Routing:
    """The parts that a dispatcher decides and calls with."""

    planner: Planner
    leases: Leases
    retries: RetryBudget


def _open_routing(
    settings: Settings, clock: Clock, models: _Models, memory: _Memory, pool: WorkerPool, calls: _Calls
) -> _Routing:
    planner = Planner(
        catalog=models.live.snapshot,
        availability=models.availability,
        pool=pool,
        breakers=memory.breakers,
        keys=memory.provider_keys,
        spend=memory.spend,
        concurrency=calls.concurrency,
        estimator=memory.estimator,
        settings=settings.routing,
        clock=clock,
        rng=np.random.default_rng(),
        pins=lambda: memory.pins.current,
        prefixes=memory.prefixes,
    )
    leases = Leases(
        pool=pool,
        endpoint=models.live.endpoint,
        keys=memory.provider_keys,
        spend=memory.spend,
        concurrency=calls.concurrency,
        timeouts=settings.backends.timeouts(),
    )
    return _Routing(planner, leases, RetryBudget(settings.retries, clock))


def _dispatcher(
    clock: Clock,
    metrics: Metrics,
    memory: _Memory,
    calls: _Calls,
    routing: _Routing,
    others: tuple[OutcomeSink, ...],
) -> Dispatcher:
    return Dispatcher(
        planner=routing.planner,
        model=routing.planner.model,
        leases=routing.leases,
        backends=calls.backends,
        breakers=memory.breakers,
        spend=memory.spend,
        retries=routing.retries,
        traces=memory.traces,
        pin=memory.pins.pin,
        sinks=(
            metrics,
            memory.breakers,
            memory.provider_keys,
            memory.traces,
            memory.virtual_keys,
            AttemptLog(),
            RequestTotals(),
            calls.telemetry,
        ),
        batched_sinks=(memory.learner, memory.persistence, memory.prefixes, *others),
        after_batch=memory.estimator.refresh,
        clock=clock,
        frames=Films(Fetcher(calls.http.settings.fetch)).in_frames,
    )


def _deferred(
    clock: Clock,
    metrics: Metrics,
    models: _Models,
    memory: _Memory,
    calls: _Calls,
    routing: _Routing,
    dispatcher: Dispatcher,
) -> DeferredCalls:
    """Calls through batch APIs. Their results say nothing of the speed or the health of a provider."""
    return DeferredCalls(
        plan=routing.planner,
        endpoint=models.live.endpoint,
        leases=routing.leases,
        spend=memory.spend,
        traces=memory.traces,
        clock=clock,
        spawn=dispatcher.spawn,
        sinks=(metrics, memory.traces, memory.virtual_keys, AttemptLog()),
        http=calls.http,
    )


async def _reload(
    updates: CatalogUpdates,
    memory: _Memory,
    routing: _Routing,
    sampler: Sampler,
    on_use: PullOnUse,
    settings: Settings,
) -> None:
    """Apply every setting of :data:`server.processes.reload.APPLIED` that a part behind the gate holds.

    Raises ConfigurationError for an invalid row, and applies nothing then.
    """
    files = await asyncio.to_thread(PriorFiles.read, settings.routing.priors)
    await updates.reload(settings)
    memory.estimator.files = files
    memory.spend.configure(settings.spend)
    await memory.spend.catch_up()
    memory.breakers.configure(settings.breakers)
    memory.traces.configure(settings.traces)
    memory.persistence.configure(settings.persistence)
    memory.storage.configure(settings.storage)
    routing.planner.configure(settings.routing)
    routing.leases.configure(settings.backends.timeouts())
    routing.retries.configure(settings.retries)
    sampler.configure(settings.routing.judge)
    on_use.configure(settings.models)


def _updates(
    settings: Settings,
    clock: Clock,
    models: _Models,
    memory: _Memory,
    calls: _Calls,
    registered: RegisteredRows,
) -> CatalogUpdates:
    timeouts = settings.backends.timeouts()
    discovery = Discovery(
        settings.discovery,
        calls.backends,
        lambda server: upstream_of(server, "", memory.provider_keys, clock.monotonic(), timeouts)[0],
    )
    return CatalogUpdates(
        models.live,
        models.store,
        models.engines,
        models.availability,
        memory.provider_keys,
        discovery,
        settings,
        models.pulled,
        registered,
    )


def _runtime(
    clock: Clock,
    models: _Models,
    memory: _Memory,
    pool: WorkerPool,
    dispatcher: Dispatcher,
    calls: _Calls,
    files: Files,
    scrape: Callable[[], Awaitable[bytes]] | None,
) -> Runtime:
    keys = memory.provider_keys

    def unavailable(model: Model) -> Block | None:
        local = models.availability.blocked.get(model.id)
        return local or keys.block_of(model.endpoint_name, model.id, clock.monotonic())

    async def fault(server: Endpoint) -> str | None:
        backend: object = calls.backends.get(server.protocol)
        if not isinstance(backend, Checks) or needs_key(server):
            return None
        return await backend.fault(upstream_of(server, "", keys, clock.monotonic(), Timeouts())[0])

    return Runtime(
        live=models.live,
        fault=fault,
        pool=pool,
        dispatcher=dispatcher,
        downloaded=models.availability.has_files,
        has_key=lambda model: keys.block_of(model.endpoint_name, model.id, clock.monotonic()) is None,
        unavailable=unavailable,
        traces=memory.traces,
        learner=memory.learner,
        spend=memory.spend,
        storage=memory.storage,
        files=files,
        keys=memory.virtual_keys,
        insight=Insight(
            estimator=memory.estimator,
            pins=memory.pins,
            key_statistics=keys.statistics,
            circuit=lambda model: memory.breakers.state(model.id, model.endpoint_name, clock.monotonic()),
        ),
        attach=calls.telemetry.attach,
        scrape=scrape,
    )


@asynccontextmanager
async def _background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run ``works`` while the block runs. They end only by being cancelled: an exception in one is logged."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            structlog.get_logger("server.assembly").error(
                "background task failed", task=task.get_name(), exc_info=error
            )

    tasks = [asyncio.create_task(work) for work in works]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
