"""The worker pool of one machine: runs a worker per loaded model within the memory budgets of its devices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, Self

import platformdirs

from backends.base import Upstream
from backends.queueing import Need
from backends.workers.engines.registry import EngineInfo, Engines, builtin_engines, files_memory
from backends.workers.logs import WorkerLog
from backends.workers.memory import Meter, PeakMemory, measure, private_memory
from backends.workers.observer import NoObserver, WorkerObserver
from backends.workers.placement import (
    DeviceBudget,
    Evict,
    HostDevice,
    Place,
    Tenant,
    TooLarge,
    check_memory,
    decide,
)
from backends.workers.pool import DeviceView, PoolSnapshot, WorkerView
from backends.workers.process import NodePorts, SocketFolder, WorkerProcess
from backends.workers.runaway import RunawayDetector, processor_time
from backends.workers.settings import WorkerSettings
from backends.workers.spec import WorkerSpec
from backends.workers.worker import Clock, Launch, Worker
from catalog.errors import (
    ConfigurationError,
    Draining,
    ModelTemporarilyUnavailable,
    ModelTooLarge,
    ModelUnavailable,
    RoundhouseError,
)
from catalog.model import LibrarySource, Model

LOAD_INTERVAL = 0.2
"""Seconds between two looks at the memory of a worker that loads: a template may take gigabytes in seconds."""


class ModelFiles(Protocol):
    """Finds the files of models on disk; :class:`catalog.store.store.Store` implements it."""

    def path(self, model: Model) -> Path:
        """Return the file or folder that the engine opens."""
        ...

    def missing(self, model: Model) -> str | None:
        """Return the reason why the model cannot be opened (not pulled, a file is missing), or None."""
        ...


class Supervisor:
    """Implements :class:`backends.workers.pool.WorkerPool`. Use it as an async context manager.

    ``observer`` receives loads, deaths and evictions. Workers listen on Unix sockets, or with ``host`` on ports of
    that address. Tests replace ``engines`` and ``meter``.
    """

    def __init__(
        self,
        *,
        store: ModelFiles,
        settings: WorkerSettings,
        devices: Sequence[HostDevice],
        clock: Clock = time.monotonic,
        engines: Engines | None = None,
        observer: WorkerObserver | None = None,
        meter: Meter = measure,
        environment: Mapping[str, str] = os.environ,
        host: str | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        check_memory(settings.memory, devices)
        self._devices = {device.id: device for device in devices}
        self._clock = clock
        self._engines = engines if engines is not None else builtin_engines(settings.python)
        self._observer = observer or NoObserver()
        self._meter = meter
        self._environment = environment
        self._logs = settings.logs or platformdirs.user_data_path("roundhouse") / "logs"
        self._budgets = tuple(DeviceBudget(device.id, self._budget(device)) for device in devices)
        self._workers: dict[str, Worker] = {}
        self._chosen: dict[str, dict[str, Any]] = {}
        self._peaks = PeakMemory()
        self._runaways = RunawayDetector(settings.runaway)
        self._placing = asyncio.Lock()
        self._moved = asyncio.Event()
        self._watcher: Callable[[], None] = _no_watcher
        self._draining = False
        self._host = host
        self._sockets: SocketFolder | NodePorts | None = None
        self._sampler: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Prepare the sockets and start to measure memory."""
        self._sockets = SocketFolder() if self._host is None else NodePorts(self._host)
        self._sampler = asyncio.create_task(self._sample(), name="memory of workers")

    async def close(self) -> None:
        """Stop every worker now."""
        self._draining = True
        if self._sampler is not None:
            self._sampler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sampler
        await asyncio.gather(*(worker.close() for worker in self._workers.values()))
        if self._sockets is not None:
            self._sockets.close()

    # ---- WorkerPool

    def lease(self, model: Model, need: Need) -> AbstractAsyncContextManager[Upstream]:
        return self._worker(model).lease(need)

    def snapshot(self) -> PoolSnapshot:
        workers = tuple(worker.view() for worker in self._workers.values())
        return PoolSnapshot(workers, tuple(self._device_view(budget, workers) for budget in self._budgets))

    async def load(
        self,
        model: Model,
        *,
        keep_alive: float | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> WorkerView:
        before = self._chosen.get(model.id, {})
        if options is not None:
            self._chosen[model.id] = dict(options)
        worker = self._worker(model)
        if force and worker.leaving:
            worker.ask_to_stop("reloaded", force=True)
        if keep_alive is not None:
            worker.keep(keep_alive)
        try:
            await worker.ready()
            if keep_alive is not None and options is not None:
                worker.keep(keep_alive)  # the end of the worker before it had reset that
        except RoundhouseError:
            if options is not None and self._chosen.get(model.id) == options:
                self._chosen[model.id] = before
                self._worker(model)
            raise
        return worker.view()

    def keep(self, model_id: str, seconds: float) -> None:
        worker = self._workers.get(model_id)
        if worker is not None and worker.loaded:
            worker.keep(seconds)

    async def unload(self, model_id: str, *, force: bool = False) -> bool:
        self._chosen.pop(model_id, None)
        worker = self._workers.get(model_id)
        if worker is None or not worker.loaded:
            return False
        worker.ask_to_stop("unloaded", force=force)
        await worker.stopped()
        return True

    async def log(self, model_id: str, *, lines: int = 200) -> str:
        return await asyncio.to_thread(self._log(model_id).tail, lines)

    async def drain(self, deadline: float) -> None:
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                while any(worker.in_use for worker in self._workers.values()):
                    self._moved.clear()
                    await self._moved.wait()
        await self.close()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after every change of a lease or a worker's state; it must not block."""
        self._watcher = changed

    # ---- for the catalogue and the router

    def context(self, model: Model) -> int | None:
        """Return the tokens of one request, prompt and answer together; None if the engine has no such limit."""
        return self._engines.context(model, self._settings.context)

    def slots(self, model: Model) -> int:
        """Return the number of requests that one worker of this model works on concurrently."""
        chosen = model.options.get("slots")
        if isinstance(chosen, int) and chosen > 0:
            return chosen
        return self._settings.slots or self._engines.slots(model, self._threads())

    def _worker(self, model: Model) -> Worker:
        if self._draining:
            raise Draining("Roundhouse is shutting down.", retry_after=5)
        if chosen := self._chosen.get(model.id):
            model = model.model_copy(update={"options": {**model.options, **chosen}})
        worker = self._workers.get(model.id)
        if worker is None:
            worker = self._workers[model.id] = Worker(
                model, self, self._settings, log=self._log(model.id), clock=self._clock, observer=self._observer
            )
        elif worker.model != model:
            self._peaks.forget(model.id)
            worker.update(model)
        return worker

    # ---- Host

    async def prepare(self, worker: Worker) -> Launch:
        model = worker.model
        engine = self._engine(model)
        reason = await asyncio.to_thread(lambda: self._store.missing(model) or self._engines.missing_file(model))
        if reason is not None:
            raise ModelUnavailable(reason)
        inside = isinstance(model.source, LibrarySource) and model.source.uses is None
        path = None if inside else await asyncio.to_thread(self._store.path, model)
        context, slots = self.context(model), self.slots(model)
        need = await asyncio.to_thread(self._need, model, engine, path)
        await self._place(worker, need, self._allowed(model, engine))
        assert self._sockets is not None, "the supervisor was not started"
        spec = WorkerSpec(
            engine=engine.name,
            model_id=model.id,
            path=None if path is None else str(path),
            options=model.options,
            device=worker.device,
            socket=self._sockets.next_socket(),
            api_key=secrets.token_urlsafe(32),
            threads=self._threads(),
            slots=slots,
            extra=self._settings.extra,
            context=context,
            capabilities=model.capabilities,
        )
        return Launch(engine.command, spec, engine.explain)

    async def spawn(self, launch: Launch, log: WorkerLog) -> WorkerProcess:
        with log.append() as file:
            return await WorkerProcess.start(launch.command, launch.spec, log=file, environment=self._environment)

    async def overrun(self, worker: Worker) -> str:
        pid = worker.pid
        assert pid is not None
        while True:
            await asyncio.sleep(LOAD_INTERVAL)
            used, granted = await asyncio.to_thread(private_memory, pid), self._granted(worker)
            if used > granted:
                return (
                    f"it took {_mib(used)} MiB of memory while it loaded, more than the {_mib(granted)} MiB left "
                    "for it. Its files, its options or its chat template ask for too much"
                )

    def changed(self) -> None:
        self._moved.set()
        self._watcher()

    def _engine(self, model: Model) -> EngineInfo:
        if model.engine is None:
            raise ConfigurationError(f"The catalogue names no engine for '{model.id}'.")
        missing = self._engines.missing(model.engine)
        if missing is not None:
            raise missing
        return self._engines[model.engine]

    def _need(self, model: Model, engine: EngineInfo, path: Path | None) -> int:
        """Return the bytes to reserve: measured, else estimated by the engine, the row or the files' size.

        A measured peak is capped at the largest budget: some engines use all memory that is free.
        """
        seen = self._peaks.when_ready(model.id)
        if seen is None:
            seen, estimate = self._peaks.at_least(model.id), self._estimate(model, engine, path)
            if seen <= estimate:
                return estimate
        return min(seen, max(budget.size for budget in self._budgets))

    def _estimate(self, model: Model, engine: EngineInfo, path: Path | None) -> int:
        if engine.memory is not None and path is not None:
            return engine.memory(path, self.slots(model), self.context(model) or 0, model.options)
        if model.size.memory is not None:
            return model.size.memory
        return files_memory(path) if path is not None else 0

    def _allowed(self, model: Model, engine: EngineInfo) -> tuple[str, ...]:
        """List the devices that the engine can use, accelerators first. Raises ModelUnavailable."""
        usable = [d for d in self._devices if d.partition(":")[0] in engine.devices]
        if model.device is not None:
            if model.device not in usable:
                raise ModelUnavailable(
                    f"'{model.id}' is pinned to {model.device}, but its engine {engine.name} can use "
                    f"{', '.join(usable) or 'no device'} here."
                )
            return (model.device,)
        return tuple(sorted(usable, key=lambda device: device == "cpu"))

    def _granted(self, worker: Worker) -> int:
        """Return the bytes of this machine's memory that a loading worker may hold: its need, or all that no other
        worker uses.
        """
        host = next((budget for budget in self._budgets if budget.device == "cpu"), self._budgets[0])
        others = sum(each.memory for each in self._workers.values() if each is not worker and each.device == "cpu")
        return max(worker.reserved, host.size - others)

    async def _place(self, worker: Worker, need: int, allowed: tuple[str, ...]) -> None:
        """Reserve ``need`` bytes, evicting idle workers. One worker is placed at a time, in order of arrival.

        A busy worker whose memory is needed is drained once the newcomer has waited, and the worker has served,
        for ``drain_delay`` seconds. Raises ModelTooLarge if the model can never fit, and
        ModelTemporarilyUnavailable if no memory became free in time.
        """
        async with self._placing:
            since = self._clock()
            while True:
                decision = decide(need, allowed=allowed, budgets=self._budgets, tenants=self._tenants(worker))
                match decision:
                    case Place(device):
                        worker.reserve(device, need)
                        return
                    case TooLarge(_, largest):
                        raise ModelTooLarge(
                            f"'{worker.model.id}' needs about {_mib(need)} MiB, more than the {_mib(largest)} MiB "
                            "that workers may use on a device."
                        )
                    case Evict(_, models):
                        for model in models:
                            self._workers[model].ask_to_stop("evicted")
                        await asyncio.gather(*(self._workers[model].stopped() for model in models))
                    case _:
                        await self._wait_for_room(worker, decision.models, since)

    async def _wait_for_room(self, worker: Worker, busy: tuple[str, ...], since: float) -> None:
        now = self._clock()
        pause = since + self._settings.placement_timeout - now
        if pause <= 0:
            raise ModelTemporarilyUnavailable(
                f"No memory became free for '{worker.model.id}' in {now - since:.0f} s: other models are busy.",
                retry_after=10,
            )
        for model in busy:
            serving = self._workers[model].serving_since
            if serving is None:  # still loading: two loads that evict each other would never finish
                continue
            left = max(since, serving) + self._settings.drain_delay - now
            if left <= 0:
                self._workers[model].ask_to_stop("evicted")
            else:
                pause = min(pause, left)
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._moved.wait()

    def _tenants(self, newcomer: Worker) -> tuple[Tenant, ...]:
        return tuple(
            Tenant(model, worker.device, worker.memory, worker.idle, worker.leaving, worker.last_used)
            for model, worker in self._workers.items()
            if worker is not newcomer and worker.device
        )

    # ---- measuring

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sample_interval)
            for model, worker in list(self._workers.items()):
                pid, device = worker.pid, worker.device
                if pid is None:
                    continue
                # Asked before: what was measured while it loaded says little about what it will need.
                ready = worker.serving_since is not None
                used = await asyncio.to_thread(self._meter, pid, device)
                if worker.in_use:
                    worker.check()
                if used and worker.pid == pid:
                    worker.memory = self._peaks.note(model, used, ready=ready, reserved=worker.memory)
                rest = (pid, worker.view().last_used) if worker.idle and worker.pid == pid else None
                if self._runaways.check(model, rest, processor_time(pid)):
                    self._observer.died(model, "it kept computing while idle")
                    worker.ask_to_stop("runaway")
                await asyncio.to_thread(worker.log.trim)

    def _device_view(self, budget: DeviceBudget, workers: Sequence[WorkerView]) -> DeviceView:
        device = self._devices[budget.device]
        used = sum(worker.memory for worker in workers if worker.device == budget.device)
        return DeviceView(budget.device, device.name, device.memory, budget.size, used)

    def _budget(self, device: HostDevice) -> int:
        return self._settings.memory.get(device.id, int(device.memory * self._settings.memory_fraction))

    def _threads(self) -> int:
        return self._settings.threads or _cores()

    def _log(self, model_id: str) -> WorkerLog:
        return WorkerLog(self._logs, model_id, limit=self._settings.log_bytes)


def _no_watcher() -> None: ...


def _cores() -> int:
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _mib(size: int) -> int:
    return round(size / 2**20)
