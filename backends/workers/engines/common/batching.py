"""Dynamic batching: combines texts of concurrent requests into batches of similar length, to save padding."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from heapq import merge
from typing import Generic, Protocol, TypeVar

from backends.workers.program.threads import WorkerStats

R = TypeVar("R")
_SLACK = 16
"""Tokens by which texts may exceed the first of their batch, at least (else a quarter of its length)."""

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised text, including special tokens. ``types`` are segment ids (0 first, 1 second)."""

    ids: Sequence[int]
    types: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.ids)


class Interrupt(Protocol):
    """Stops a running batch."""

    def __call__(self) -> None: ...


class BatchRunner(Protocol[R_co]):
    """Runs a model on batches.

    ``begin`` is called on the event loop and returns two functions: a blocking one that runs the batch and returns
    a result per text, in order; and one that interrupts it from another thread, after which the first may raise
    anything.
    """

    def begin(self, batch: Sequence[Tokens]) -> tuple[Callable[[], Sequence[R_co]], Interrupt]: ...


@dataclass(slots=True, eq=False)
class _Job(Generic[R]):
    """One request: its waiting texts (index and tokens, longest first) and its results so far."""

    waiting: deque[tuple[int, Tokens]]
    results: dict[int, R]
    finished: asyncio.Future[None]
    size: int


_Entry = tuple[_Job[R], int, Tokens]


@dataclass(slots=True, eq=False)
class _Run(Generic[R]):
    """A running batch: the requests that have texts in it, and its interrupt."""

    jobs: set[_Job[R]]
    interrupt: Interrupt


class Batcher(Generic[R]):
    """Runs batches of at most ``budget`` padded tokens (or one text, if that is longer) on ``runner``.

    ``lanes`` batches run concurrently, so that the single-threaded and Python parts of one overlap with the
    others.

    Requests begin batches in turn, so a small one does not wait for all of a large one; the rest of a batch is
    filled with the texts of any request that are nearest in length. Texts of a cancelled request are dropped, and
    a batch without a waiting request is interrupted.
    """

    def __init__(self, runner: BatchRunner[R], *, budget: int, lanes: int = 1) -> None:
        self._runner = runner
        self._budget = budget
        self._lanes = lanes
        self._threads = ThreadPoolExecutor(lanes, thread_name_prefix="device")
        self._turns: deque[_Job[R]] = deque()
        self._open: set[_Job[R]] = set()
        self._begun: set[_Job[R]] = set()
        self._runs: set[_Run[R]] = set()
        self._working = 0
        self._pumps: set[asyncio.Task[None]] = set()
        self._totals = WorkerStats()

    @property
    def stats(self) -> WorkerStats:
        """The counts; a request is active from the start of its first batch to the end of its last."""
        active = len((self._open & self._begun).union(*(run.jobs for run in self._runs)))
        return replace(self._totals, active=active, queued=len(self._open - self._begun))

    async def run(self, texts: Sequence[Tokens]) -> list[R]:
        """Return the result of each text, in order. Raises the runner's exception if one of them fails."""
        if not texts:
            return []
        longest_first = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        finished = asyncio.get_running_loop().create_future()
        job: _Job[R] = _Job(deque((i, texts[i]) for i in longest_first), {}, finished, len(texts))
        self._turns.append(job)
        self._open.add(job)
        while self._working < self._lanes:
            self._working += 1
            pump = asyncio.create_task(self._work())
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)
        try:
            await finished
        except asyncio.CancelledError:
            self._totals.cancelled += 1
            raise
        except Exception:
            self._totals.failed += 1
            raise
        finally:
            self._forget(job)
        self._totals.done += 1
        return [job.results[i] for i in range(job.size)]

    def close(self) -> None:
        """Interrupt the running batches and end the threads."""
        for run in tuple(self._runs):
            run.interrupt()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _forget(self, job: _Job[R]) -> None:
        job.waiting.clear()
        if job in self._turns:
            self._turns.remove(job)
        self._open.discard(job)
        self._begun.discard(job)
        for run in self._runs:
            if run.jobs.isdisjoint(self._open):
                run.interrupt()

    async def _work(self) -> None:
        """Run batches one after the other in a lane, while there are texts."""
        try:
            while batch := self._next_batch():
                await self._run(batch)
        finally:
            self._working -= 1

    async def _run(self, batch: list[_Entry[R]]) -> None:
        loop = asyncio.get_running_loop()
        call, interrupt = self._runner.begin([text for _, _, text in batch])
        run = _Run({job for job, _, _ in batch}, interrupt)
        self._runs.add(run)
        self._begun |= run.jobs
        try:
            results = await loop.run_in_executor(self._threads, call)
        except Exception as error:  # handed to the request that caused it
            await self._blame(batch, run.jobs & self._open, error)
        else:
            for (job, index, _), result in zip(batch, results, strict=True):
                job.results[index] = result
            for job in run.jobs & self._open:
                if len(job.results) == job.size:
                    self._settle(job)
        finally:
            self._runs.discard(run)

    async def _blame(self, batch: list[_Entry[R]], jobs: set[_Job[R]], error: Exception) -> None:
        """Fail the one request of a batch; run the parts of several apart, as one of them may be the cause."""
        if len(jobs) == 1:
            self._settle(jobs.pop(), error)
        for job in jobs:
            await self._run([entry for entry in batch if entry[0] is job])

    @staticmethod
    def _settle(job: _Job[R], error: Exception | None = None) -> None:
        if job.finished.done():
            return
        if error is None:
            job.finished.set_result(None)
        else:
            job.waiting.clear()
            job.finished.set_exception(error)

    def _next_batch(self) -> list[_Entry[R]]:
        """Take the next request's longest text, then others of similar or shorter length, the longest first."""
        while self._turns and not self._turns[0].waiting:
            self._turns.popleft()
        if not self._turns:
            return []
        job = self._turns[0]
        self._turns.rotate(-1)
        index, head = job.waiting.popleft()
        batch: list[_Entry[R]] = [(job, index, head)]
        limit = len(head) + max(_SLACK, len(head) // 4)
        # Each job's texts are sorted, longest first, so a merge yields the candidates in order.
        candidates = merge(
            *(
                [(-len(text), turn) for _, text in other.waiting if len(text) <= limit]
                for turn, other in enumerate(self._turns)
            )
        )
        padded = len(head)
        for negative, turn in candidates:
            padded = max(padded, -negative)
            if (len(batch) + 1) * padded > self._budget:
                break
            other = self._turns[turn]
            position = next(k for k, (_, text) in enumerate(other.waiting) if len(text) == -negative)
            index, text = other.waiting[position]
            del other.waiting[position]
            batch.append((other, index, text))
        return batch
