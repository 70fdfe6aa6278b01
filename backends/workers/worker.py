"""Manages the worker of one model: a task owns its state, and the methods send requests to that task.

Only :meth:`Worker._own` and the methods it calls change the state. Callers wait for a slot (:meth:`Worker.lease`)
or request a change (:meth:`Worker.ask_to_stop`, :meth:`Worker.keep`, :meth:`Worker.update`); none reads the state
and then acts on it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol

from backends.base import Upstream
from backends.queueing import FairSlots, Need
from backends.workers.health import CallFailures, unhealthy
from backends.workers.logs import WorkerLog
from backends.workers.observer import WorkerObserver
from backends.workers.pool import WorkerState, WorkerView
from backends.workers.process import WorkerProcess, describe_exit, explain_crash
from backends.workers.settings import WorkerSettings
from backends.workers.spec import WorkerSpec
from backends.workers.upstreams import worker_upstream
from catalog.errors import ConnectTimeout, Draining, RoundhouseError, UpstreamUnreachable, WorkerFailed
from catalog.model import Model

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Launch:
    """The command and spec of a placed worker; ``explain`` finds the cause of a failed start in its log."""

    command: tuple[str, ...]
    spec: WorkerSpec
    explain: Callable[[str], str | None]


class Host(Protocol):
    """The interface of the supervisor that a worker uses."""

    async def prepare(self, worker: Worker) -> Launch:
        """Check that the model is on disk, choose a device and evict idle workers. Raises RoundhouseError."""
        ...

    async def spawn(self, launch: Launch, log: WorkerLog) -> WorkerProcess: ...

    async def overrun(self, worker: Worker) -> str:
        """Watch a process that loads; return the reason once it holds more memory than it was granted."""
        ...

    def changed(self) -> None:
        """Called when a worker may have become idle or memory free."""
        ...


class Worker:
    """The worker of one model, with or without a process. A new ``model`` row applies from the next start."""

    def __init__(
        self,
        model: Model,
        host: Host,
        settings: WorkerSettings,
        *,
        log: WorkerLog,
        clock: Clock,
        observer: WorkerObserver,
    ) -> None:
        self.model = model
        self.log = log
        self.keep_alive = _keep_alive(model, settings)
        self.memory = self.reserved = 0
        self.device = ""
        self.leaving = False
        self.context: int | None = None
        self._host = host
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self._slots = FairSlots(max_queue=settings.max_queue, changed=self._on_change, clock=clock)
        self._state = WorkerState.STOPPED
        self._process: WorkerProcess | None = None
        self._upstream: Upstream | None = None
        self._socket = ""
        self._events = asyncio.Event()
        self._stopping: str | None = None
        self._forced = False
        self._check: asyncio.Task[None] | None = None
        self._unwell: str | None = None
        self._failures_in_a_row = CallFailures()
        self._capacity = 0
        self._closing = False
        self._failure: RoundhouseError | None = None
        self._retry_at = 0.0
        self._failures = 0
        self._crashes = 0
        self._restarts = 0
        self._started_at: float | None = None
        self._load_seconds: float | None = None
        self._gone = asyncio.Event()
        self._gone.set()
        # An empty context: the worker outlives the request that creates it and must not log under its trace id.
        self._task = asyncio.create_task(self._own(), name=f"worker {model.id}", context=Context())

    # ---- for other tasks

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def idle(self) -> bool:
        """Whether it is ready and unused: no leases, and no waiting requests unless it is draining."""
        unwanted = self._slots.idle or (self._stopping is not None and self._slots.users == 0)
        return self._state in (WorkerState.READY, WorkerState.DRAINING) and unwanted

    @property
    def serving_since(self) -> float | None:
        """The time at which it became ready; None while it is not."""
        return self._started_at

    @property
    def last_used(self) -> float:
        return self._slots.last_used or self._started_at or 0.0

    @property
    def loaded(self) -> bool:
        return self._process is not None or self._state is WorkerState.STARTING

    @property
    def in_use(self) -> bool:
        """Whether a lease is held or waited for."""
        return not self._slots.idle

    def view(self) -> WorkerView:
        """Describe the present state; no I/O."""
        ready = self._state is WorkerState.READY
        used = self._slots.last_used or self._started_at
        expires = None
        if ready and self._slots.idle and self.keep_alive is not None and used is not None:
            expires = used + self.keep_alive
        return WorkerView(
            model=self.model.id,
            engine=self.model.engine or "",
            device=self.device,
            state=self._state,
            pid=self.pid,
            memory=self.memory,
            slots=self._slots.capacity or 1,
            busy=self._slots.busy,
            queued=self._slots.waiting,
            queued_batch=self._slots.waiting_batch,
            restarts=self._restarts,
            started_at=self._started_at,
            last_used=self._slots.last_used,
            expires_at=expires,
            load_seconds=self._load_seconds,
            error=self._failure.message if self._failure else None,
            context=self.context if self._process else None,
            options=self.model.options,
        )

    @asynccontextmanager
    async def lease(self, need: Need) -> AsyncIterator[Upstream]:
        """Lease the worker once it is ready and has a free slot; its process is started if necessary."""
        while True:
            if self._closing:
                raise Draining("Roundhouse is shutting down.", retry_after=5)
            self._raise_recent_failure()
            grant = await self._slots.acquire(need)
            process, upstream = self._process, self._upstream
            if process is not None and upstream is not None and process.alive():
                break
            # The process has died, and the owner task is about to notice: wait for that and for the next process.
            self._slots.release(grant, completed=False)
            await self._gone.wait()
        completed = False
        try:
            yield upstream
            completed = True
        except RoundhouseError as error:
            if self._process is process:
                self._doubt(error)
            raise
        finally:
            if completed and need.slots:
                self._failures_in_a_row = CallFailures()
            self._slots.release(grant, completed=completed)

    async def ready(self) -> None:
        """Load it if necessary, and return when it is ready. Takes no slot."""
        async with self.lease(Need(slots=0)):
            pass

    def reserve(self, device: str, memory: int) -> None:
        """Record its device and count its memory as used; called during :meth:`Host.prepare`."""
        self.device, self.memory, self.reserved = device, memory, memory

    def keep(self, seconds: float) -> None:
        """Set the idle time after which it stops; never if negative. The next process has the row's own again."""
        self.keep_alive = None if seconds < 0 else seconds
        self._events.set()

    def update(self, model: Model) -> None:
        """Replace the catalogue row. A running process is drained; the next one is started with the new row."""
        if model == self.model:
            return
        self.model = model
        self.keep_alive = _keep_alive(model, self._settings)
        self._failure, self._failures = None, 0
        if self.loaded:
            self.ask_to_stop("reloaded")

    def ask_to_stop(self, why: str, *, force: bool = False) -> None:
        """Grant no more leases; stop once the present ones end, with ``force`` at once. The queue is kept."""
        if self.loaded:
            self._stopping = why
            self._forced = self._forced or force
            self.leaving = True
            self._slots.close()
            self._events.set()

    def check(self) -> None:
        """Ask a ready process for its health, once at a time; one that does not answer is replaced."""
        if self._check is None and self._process is not None and self._upstream is not None:
            examination = self._examine(self._process, self._socket)
            self._check = asyncio.create_task(examination, name=f"health {self.model.id}", context=Context())

    async def stopped(self) -> None:
        """Wait until it has no process."""
        await self._gone.wait()

    async def close(self) -> None:
        """Stop it now, even if it is busy."""
        self._closing = True
        self._slots.fail(lambda: Draining("Roundhouse is shutting down.", retry_after=5))
        self._task.cancel()
        if self._check is not None:
            self._check.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    # ---- health

    def _doubt(self, error: RoundhouseError) -> None:
        """Check the process after a failed call. Until then a worker that could not be reached gets no calls."""
        if isinstance(error, UpstreamUnreachable | ConnectTimeout):
            self._slots.close()
        elif not self._failures_in_a_row.count(error):
            return
        self.check()

    async def _examine(self, process: WorkerProcess, socket: str) -> None:
        try:
            reason = await unhealthy(socket, self._settings.unresponsive)
        finally:
            self._check = None
        if self._process is not process or not process.alive():
            return
        if reason is not None:
            self._unwell = reason
            self._slots.close()
            self._events.set()
        elif self._stopping is None and self._failures_in_a_row.too_many:
            self._observer.died(self.model.id, f"its last {self._failures_in_a_row.total} requests failed")
            self.ask_to_stop("failing")
        elif self._stopping is None and not self._slots.capacity:
            self._slots.resize(self._capacity)

    # ---- the owner task

    def _on_change(self) -> None:
        self._events.set()
        self._host.changed()

    def _raise_recent_failure(self) -> None:
        if self._failure is not None and self._state is WorkerState.FAILED:
            left = self._retry_at - self._clock()
            if left > 0:
                raise _copy(self._failure, retry_after=left)

    async def _own(self) -> None:
        try:
            while True:
                await self._until(lambda: self._slots.waiting > 0)
                await self._start_and_serve()
        finally:
            process, self._process = self._process, None
            if process is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(process.stop(self._settings.stop_grace))
            self._set(WorkerState.STOPPED)

    async def _start_and_serve(self) -> None:
        self._gone.clear()
        self._stopping, self._forced = None, False
        began = self._clock()
        try:
            launch = await self._while_wanted(self._start())
        except RoundhouseError as error:
            await self._end_process()
            self._fail(error)
            return
        if launch is None:
            await self._end_process()
            self._set(WorkerState.STOPPED)
            return
        self._load_seconds = self._clock() - began
        self._observer.loaded(self.model.id, self._load_seconds)
        self._failure, self._failures = None, 0
        self._started_at = self._clock()
        self._set(WorkerState.READY)
        self._slots.last_used = None
        self._unwell, self._failures_in_a_row = None, CallFailures()
        self._capacity = launch.spec.slots + launch.spec.extra
        self._slots.open(self._capacity, gives_way=self.device == "cpu")
        await self._serve()

    async def _start(self) -> Launch:
        self._set(WorkerState.STARTING)
        if self._crashes > 1:
            delay = self._settings.backoff * 2 ** (self._crashes - 2)
            await asyncio.sleep(min(delay, self._settings.backoff_limit))
        launch = await self._host.prepare(self)
        self.context, self._socket = launch.spec.context, launch.spec.socket
        before = self.log.size()
        self._process = await self._host.spawn(launch, self.log)
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                reason = await self._ready_or_overrun(self._process)
        except TimeoutError:
            reason = f"not ready within {self._settings.start_timeout:g} s"
        if reason is not None:
            logged = await asyncio.to_thread(self.log.tail, 200, since=before)
            reason = launch.explain(logged) or explain_crash(reason, logged)
            raise WorkerFailed(
                f"The worker of '{self.model.id}' did not start: {reason.rstrip('.')}. "
                f"Its log: roundhouse logs {self.model.id}"
            )
        self._upstream = await asyncio.to_thread(worker_upstream, launch.spec, self.model)
        return launch

    async def _ready_or_overrun(self, process: WorkerProcess) -> str | None:
        """Wait until it is ready; return None, or the reason why not. Kills one that takes too much memory."""
        ready = asyncio.create_task(process.ready())
        overrun = asyncio.create_task(self._host.overrun(self))
        try:
            await asyncio.wait({ready, overrun}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                return ready.result()
            self._process = None
            await process.stop(0)
            return overrun.result()
        finally:
            for task in (ready, overrun):
                task.cancel()
            await asyncio.gather(ready, overrun, return_exceptions=True)

    async def _while_wanted(self, start: Coroutine[Any, Any, Launch]) -> Launch | None:
        """Run the start; cancel it and return None once no request waits for it any more."""
        starting = asyncio.create_task(start)
        try:
            while not starting.done():
                self._events.clear()
                if not self._slots.waiting or self._stopping is not None:
                    return None
                event = asyncio.create_task(self._events.wait())
                await asyncio.wait({starting, event}, return_when=asyncio.FIRST_COMPLETED)
                event.cancel()
            return starting.result()
        finally:
            if not starting.done():
                starting.cancel()
                await asyncio.wait({starting})

    async def _serve(self) -> None:
        process = self._process
        assert process is not None
        exited = asyncio.create_task(process.wait())
        try:
            while not exited.done():
                self._events.clear()
                if self._unwell is not None:
                    await self._died(self._unwell, grace=0)
                    return
                left = self._time_left()
                if self._stopping is not None and self._state is WorkerState.READY:
                    self._set(WorkerState.DRAINING)
                leaves = self._stopping is not None and (self._forced or not self._slots.users)
                if leaves or (left is not None and left <= 0):
                    await self._stop()
                    return
                event = asyncio.create_task(self._events.wait())
                await asyncio.wait({exited, event}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                event.cancel()
            await self._died(describe_exit(exited.result()))
        finally:
            exited.cancel()

    def _time_left(self) -> float | None:
        """Return the seconds until its idle time is over; None while it is in use or has no such limit."""
        if not self._slots.idle or self.keep_alive is None or self._stopping is not None:
            return None
        since = self._slots.last_used or self._started_at or 0.0
        return since + self.keep_alive - self._clock()

    async def _stop(self) -> None:
        self._slots.close()
        self._set(WorkerState.DRAINING)
        self.leaving = True
        await self._end_process(0 if self._forced else None)
        self.keep_alive = _keep_alive(self.model, self._settings)
        self._set(WorkerState.STOPPED)
        self._observer.unloaded(self.model.id, evicted=self._stopping == "evicted")

    async def _died(self, reason: str, *, grace: float | None = None) -> None:
        self._crashes = 0 if self._slots.completed else self._crashes
        self._crashes += 1
        self._restarts += 1
        reason = explain_crash(reason, await asyncio.to_thread(self.log.tail, 100))
        self._observer.died(self.model.id, reason)
        await self._end_process(grace)
        if self._crashes >= self._settings.crash_limit:
            self._fail(
                WorkerFailed(
                    f"The worker of '{self.model.id}' died {self._crashes} times in a row, at last "
                    f"{reason}. Its log: roundhouse logs {self.model.id}"
                )
            )
        else:
            self._set(WorkerState.STOPPED)

    async def _end_process(self, grace: float | None = None) -> None:
        """Stop the process, if any, then release its memory and slots. ``grace`` defaults to the setting."""
        self._slots.lost()
        self._upstream = None
        process, self._process = self._process, None
        if process is not None:
            try:
                await process.stop(self._settings.stop_grace if grace is None else grace)
            except asyncio.CancelledError:
                await process.stop(0)
                raise
        self.memory, self.device, self.leaving = 0, "", False
        self._gone.set()
        self._host.changed()

    def _fail(self, error: RoundhouseError) -> None:
        self._failures += 1
        self._crashes = 0
        wait = min(60.0, self._settings.cool_down * 2 ** min(10, self._failures - 1))
        # No cool-down for other errors: the model may be pulled, or memory become free, at any moment.
        self._retry_at = self._clock() + (wait if isinstance(error, WorkerFailed) else 0.0)
        self._failure = error
        self._set(WorkerState.FAILED)
        self._observer.load_failed(self.model.id, error.message)
        self._slots.fail(lambda: _copy(error, retry_after=max(1.0, wait)))

    def _set(self, state: WorkerState) -> None:
        self._state = state
        if state is not WorkerState.READY:
            self._started_at = None if state is not WorkerState.DRAINING else self._started_at

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._events.clear()
            await self._events.wait()


def _copy(error: RoundhouseError, *, retry_after: float) -> RoundhouseError:
    """Copy an error: each caller needs its own object, as raising attaches a traceback."""
    copy = type(error).__new__(type(error))
    Exception.__init__(copy, error.message)
    copy.__dict__.update(error.__dict__)
    copy.retry_after = retry_after
    return copy


def _keep_alive(model: Model, settings: WorkerSettings) -> float | None:
    """Seconds that an idle worker is kept; ``None``: for ever."""
    if model.replicas.min:  # a cluster's manager ends those above the least number
        return None
    seconds = model.keep_alive if model.keep_alive is not None else settings.keep_alive
    return None if seconds is None or seconds < 0 else seconds
