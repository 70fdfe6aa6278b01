"""A thread that owns a SQLite connection and runs jobs in order, many per transaction.

Callers wait for the disk only if they await a job's future. A committed transaction is in the WAL file, that is,
in the operating system's page cache: it survives the death of the process, though not always a power cut
(``synchronous=NORMAL``; see https://www.sqlite.org/wal.html and
https://www.sqlite.org/pragma.html#pragma_synchronous).

When the database is locked, the disk full or an I/O error occurs, the batch is kept and retried; the log says so
once, and once more on recovery. Reads do not wait for that: they are answered from what was written. A damaged
file is moved aside and replaced by an empty one; one of an older layout is brought up to date, and one of a newer
layout is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import structlog

from catalog.errors import Unavailable
from routing.state.sqlite_direct import DECLINED, Declined, DirectTransactions, time_of_change

T = TypeVar("T")
Apply = Callable[[sqlite3.Connection], Any]

INVALID_DATA = (sqlite3.IntegrityError, sqlite3.ProgrammingError, TypeError, ValueError, OverflowError)
"""Errors of the data to write, for which a retry cannot help."""
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_MIN_RETRY_DELAY, _MAX_RETRY_DELAY = 0.02, 1.0
_BUSY_TIMEOUT = 0.25
_BATCH_DELAY = 0.02
"""Seconds in which jobs that are not urgent are collected into one transaction. Waking the thread for each job
would take the GIL from the event loop once per request."""


@dataclass(slots=True)
class DatabaseJob:
    """A function to run in the next transaction, which starts at once if the job is ``urgent``.

    One that only ``reads`` does not wait for a transaction that cannot be committed.
    """

    apply: Apply
    future: asyncio.Future[Any] | None = None
    urgent: bool = False
    reads: bool = False


class SqliteWriter:
    """Runs jobs between ``start`` and ``stop``; ``submit`` and ``request`` are called from one event loop."""

    def __init__(
        self,
        path: Path,
        schema: str,
        *,
        version: int,
        upgrades: Mapping[int, Sequence[str]] = MappingProxyType({}),
        batch: int = 500,
    ) -> None:
        self.path = path
        self.generation = 0
        self._schema = schema
        self._version = version
        self._upgrades = upgrades
        self._batch = batch
        self._jobs: deque[DatabaseJob] = deque()
        self._wake = threading.Condition()
        self._urgent = False
        self._reads_wait = False
        self._stopping: float | None = None
        self._ended = False
        self._failing_since: float | None = None
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: sqlite3.Connection | None = None
        self._direct = DirectTransactions(path)
        self._log = structlog.get_logger("roundhouse.state")

    @property
    def lag(self) -> float:
        """Seconds for which nothing could be committed; 0 while it works."""
        since = self._failing_since
        return 0.0 if since is None else max(time.monotonic() - since, 0.001)

    async def start(self) -> None:
        """Open the file. Raises OSError or sqlite3.Error if that is impossible, NewerLayout for a newer file."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="state-writer", daemon=True)
        self._thread.start()
        await opened

    async def stop(self, timeout: float = 5.0) -> None:
        """Write what is pending, for up to ``timeout`` seconds, and close the file."""
        with self._wake:
            self._stopping = time.monotonic() + timeout
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, timeout + 5.0)

    def submit(self, apply: Apply, *, urgent: bool = False) -> None:
        """Run a job soon, without a result; at once if it is ``urgent``."""
        self._append(DatabaseJob(apply, urgent=urgent))

    def count_dropped(self) -> None:
        """Count a row that was dropped because too many wait; logged when the disk recovers."""
        self._dropped += 1

    def log_invalid(self, error: Exception) -> None:
        """Log data that cannot be written, now or later."""
        self._log.error("state.job_failed", error=repr(error))

    def request(self, apply: Apply, *, urgent: bool = True, reads: bool = False) -> asyncio.Future[Any]:
        """Run a job; the future gets its result once it is committed, or the error that it raised.

        A job that is not ``urgent`` waits for others, to share their transaction.
        """
        assert self._loop is not None, "the writer was not started"
        future: asyncio.Future[Any] = self._loop.create_future()
        self._append(DatabaseJob(apply, future, urgent=urgent, reads=reads))
        return future

    def at_once(self, apply: Callable[[sqlite3.Connection], T]) -> T | Declined:
        """Run a short job at once, in this thread; or ``DECLINED``, and it is for :meth:`request`.

        It may overtake jobs that were submitted before. Raises what the job raises because of its data.
        """
        return DECLINED if self._failing_since is not None else self._direct.run(apply)

    def read(self, apply: Apply) -> asyncio.Future[Any]:
        """Run a job that writes nothing. It sees all earlier jobs, except those that cannot be written at present.

        The future gets Unavailable if the file cannot be read either.
        """
        return self.request(apply, reads=True)

    def _append(self, job: DatabaseJob) -> None:
        with self._wake:
            if not self._ended:
                self._jobs.append(job)
                self._urgent = self._urgent or job.urgent
                self._reads_wait = self._reads_wait or job.reads
                if self._urgent or len(self._jobs) in (1, self._batch):
                    self._wake.notify()
                return
        if job.future is not None:
            job.future.set_exception(ConnectionError(f"{self.path} is closed"))

    # ---- the thread

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            self._open_or_replace()
        except (OSError, sqlite3.Error) as error:
            self._resolve([(opened, error, None)])
            return
        self._resolve([(opened, None, None)])
        while jobs := self._next_batch():
            if not self._persist(jobs):
                self._log.error("state.lost", jobs=len(jobs) + len(self._jobs), path=str(self.path))
                self._reject(jobs)
                break
        self._reject([])
        self._direct.close()
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()

    def _reject(self, jobs: list[DatabaseJob]) -> None:
        """Fail the futures of jobs that will not be written."""
        with self._wake:
            self._ended = True
            jobs = [*jobs, *self._jobs]
            self._jobs.clear()
        closed = ConnectionError(f"{self.path} was closed before this was written")
        self._resolve([(job.future, closed, None) for job in jobs if job.future is not None])

    def _next_batch(self) -> list[DatabaseJob]:
        with self._wake:
            while not self._jobs and self._stopping is None:
                self._wake.wait()
            self._wake.wait_for(self._is_due, _BATCH_DELAY)
            batch = [self._jobs.popleft() for _ in range(min(self._batch, len(self._jobs)))]
            self._urgent = bool(self._jobs)
            return batch

    def _is_due(self) -> bool:
        return self._urgent or self._stopping is not None or len(self._jobs) >= self._batch

    def _persist(self, jobs: list[DatabaseJob]) -> bool:
        """Commit a batch, with retries. ``False`` if the writer was to stop before it succeeded."""
        delay = _MIN_RETRY_DELAY
        while True:
            try:
                results = self._commit(jobs)
            except (OSError, sqlite3.Error) as error:
                self._recover(error)
                if self._stopping is not None and time.monotonic() > self._stopping:
                    return False
                jobs[:] = self._without_reads(jobs, delay)
                if not jobs:
                    return True
                delay = min(_MAX_RETRY_DELAY, delay * 2)
                continue
            if self._failing_since is not None:
                self._failing_since = None
                self._log.warning("state.written_again", path=str(self.path), outcomes_dropped=self._dropped)
                self._dropped = 0
            self._resolve(results)
            return True

    def _without_reads(self, jobs: list[DatabaseJob], seconds: float) -> list[DatabaseJob]:
        """Answer the reads of a batch and those that arrive within ``seconds``; returns the rest of the batch."""
        until = time.monotonic() + seconds
        reads = [job for job in jobs if job.reads]
        while True:
            self._resolve([self._read(job) for job in reads])
            with self._wake:
                if not self._wake.wait_for(lambda: self._reads_wait, max(0.0, until - time.monotonic())):
                    return [job for job in jobs if not job.reads]
                reads = [job for job in self._jobs if job.reads]
                self._jobs = deque(job for job in self._jobs if not job.reads)
                self._reads_wait = False

    def _read(self, job: DatabaseJob) -> tuple[asyncio.Future[Any], BaseException | None, Any]:
        assert job.future is not None
        try:
            if self._connection is None:
                raise sqlite3.OperationalError("it is not open")
            return job.future, None, job.apply(self._connection)
        except (sqlite3.Error, *INVALID_DATA) as error:
            return job.future, Unavailable(f"The state in {self.path} cannot be read: {error}"), None

    def _commit(self, jobs: list[DatabaseJob]) -> list[tuple[asyncio.Future[Any], BaseException | None, Any]]:
        if self._connection is None:
            self._open_or_replace()
        connection = self._connection
        assert connection is not None
        file_written, changes = time_of_change(self.path), connection.total_changes
        connection.execute("BEGIN IMMEDIATE")
        if self._failing_since is not None:  # jobs that only read, or were given up, would show no room to write
            connection.execute("CREATE TABLE room_to_write (it)")
            connection.execute("DROP TABLE room_to_write")
        results: list[tuple[asyncio.Future[Any], BaseException | None, Any]] = []
        for job in jobs:
            error, result = self._apply(connection, job)
            if job.future is not None:
                results.append((job.future, error, result))
            elif error is not None:
                self.log_invalid(error)
        connection.execute("COMMIT")
        if connection.total_changes != changes:
            self._direct.written(file_written, time_of_change(self.path))
        return results

    def _apply(self, connection: sqlite3.Connection, job: DatabaseJob) -> tuple[Exception | None, Any]:
        """Run a job in a savepoint, so that one with invalid data does not fail its batch."""
        connection.execute("SAVEPOINT job")
        try:
            result = job.apply(connection)
        except sqlite3.OperationalError:
            raise
        except INVALID_DATA as error:
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            return error, None
        connection.execute("RELEASE job")
        return None, result

    def _recover(self, error: Exception) -> None:
        """Roll back; set the file aside if it is damaged, else log the failure once."""
        damaged = is_damaged(error)
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
        if damaged:
            self._set_aside(error)
        elif self._failing_since is None:
            self._failing_since = time.monotonic()
            self._log.error("state.not_written", path=str(self.path), error=str(error), will="try again")

    def _open_or_replace(self) -> None:
        """Open the file; set a damaged one aside and create an empty one."""
        try:
            self._connection = self._open()
        except sqlite3.Error as error:
            if not is_damaged(error):
                raise
            self._set_aside(error)
            self._connection = self._open()
        self._direct.open()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(
            self.path, isolation_level=None, timeout=_BUSY_TIMEOUT, check_same_thread=False
        )
        try:
            version = _layout(connection)
            if version > self._version:
                raise NewerLayout(
                    f"its layout is {version}, and this Roundhouse reads layouts up to {self._version}"
                )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise DamagedFile(verdict)
            if 0 < version < self._version:
                self._upgrade(connection)
            connection.executescript(self._schema)
            connection.execute(f"PRAGMA user_version = {self._version:d}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        """Bring an older layout up to date in one transaction. A copy of the file as it was stays beside it."""
        connection.execute("PRAGMA busy_timeout = 60000")  # another process may be at it
        connection.execute("BEGIN IMMEDIATE")
        found = _layout(connection)
        if found < self._version:
            kept_as = self._copy(found)
            for older in range(found, self._version):
                for statement in self._upgrades[older]:
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {self._version:d}")
            self._log.info("state.upgraded", path=str(self.path), layout=self._version, kept_as=str(kept_as))
        connection.execute("COMMIT")
        connection.execute(f"PRAGMA busy_timeout = {1000 * _BUSY_TIMEOUT:.0f}")

    def _copy(self, layout: int) -> Path:
        """Copy what is committed, by a connection of its own: that of a transaction cannot."""
        copy = self.path.with_name(f"{self.path.name}.layout-{layout}")
        part = copy.with_name(f"{copy.name}.part")
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_RDWR, 0o600))
        with (
            contextlib.closing(sqlite3.connect(self.path)) as source,
            contextlib.closing(sqlite3.connect(part)) as to,
        ):
            source.backup(to)
        return part.replace(copy)

    def _set_aside(self, error: Exception) -> None:
        self._direct.close()
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        aside = self.path.with_name(
            f"{self.path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6}"
        )
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.replace(aside.with_name(aside.name + suffix))
        self.generation += 1
        self._log.warning("state.set_aside", path=str(self.path), kept_as=str(aside), error=str(error))

    def _resolve(self, results: list[tuple[asyncio.Future[Any], BaseException | None, Any]]) -> None:
        """Complete futures, all in one callback of the event loop."""
        if results and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it every future
                self._loop.call_soon_threadsafe(_complete, results)


class DamagedFile(sqlite3.DatabaseError):
    """The file opens but fails SQLite's integrity check."""


class NewerLayout(sqlite3.DatabaseError):
    """The file was written by a newer Roundhouse, whose layout this one does not know."""


def _layout(connection: sqlite3.Connection) -> int:
    """The number of a file's layout; 0 of a new file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def is_damaged(error: Exception) -> bool:
    """Whether an error means that the file is damaged, rather than locked or out of space."""
    if isinstance(error, DamagedFile):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED


def _complete(results: list[tuple[asyncio.Future[Any], BaseException | None, Any]]) -> None:
    for future, error, result in results:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
            if isinstance(error, ConnectionError):
                future.exception()  # logged as state.lost; asyncio would log each future that is not awaited, too
