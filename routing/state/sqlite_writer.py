"""One thread that owns a SQLite connection and writes what it is handed, in order, many jobs a transaction.

Callers never wait for a disk unless they await a job's future. What a commit has acknowledged is in the WAL
file, hence in the operating system's hands: it survives the death of the process (``synchronous=NORMAL``;
see https://www.sqlite.org/wal.html and https://www.sqlite.org/pragma.html#pragma_synchronous).

A locked database, a full disk or an I/O error is no end: the batch is kept and tried again, the log says it
once, and once more when it is over. A damaged file is moved aside and a fresh one begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

Apply = Callable[[sqlite3.Connection], Any]

UNFIT = (sqlite3.IntegrityError, sqlite3.ProgrammingError, TypeError, ValueError, OverflowError)
"""Errors that say that what is to be written is wrong in itself."""
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
_GATHER = 0.02
"""Seconds that jobs nobody waits for are gathered into one transaction: waking the thread for each of them
would take the interpreter from the event loop once a request."""


@dataclass(slots=True)
class Job:
    """Something to do in the next transaction, which begins at once for an ``urgent`` one."""

    apply: Apply
    future: asyncio.Future[Any] | None = None
    urgent: bool = False


class SqliteWriter:
    """``submit`` from the event loop; ``start`` and ``stop`` around it."""

    def __init__(self, path: Path, schema: str, *, version: int, batch: int = 500) -> None:
        self.path = path
        self.generation = 0
        self._schema = schema
        self._version = version
        self._batch = batch
        self._jobs: deque[Job] = deque()
        self._wake = threading.Condition()
        self._urgent = False
        self._stopping: float | None = None
        self._ended = False
        self._troubled = False
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: sqlite3.Connection | None = None
        self._log = structlog.get_logger("roundhouse.state")

    async def start(self) -> None:
        """Open the file. Raises OSError or sqlite3.Error if there can be none."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="state-writer", daemon=True)
        self._thread.start()
        await opened

    async def stop(self, patience: float = 5.0) -> None:
        """Write what is left, but no longer than ``patience`` seconds, and close the file."""
        with self._wake:
            self._stopping = time.monotonic() + patience
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, patience + 5.0)

    def submit(self, apply: Apply) -> None:
        """Do it soon."""
        self._append(Job(apply))

    def dropped(self) -> None:
        """Something was not handed over, so much waits already: the log says it when the disk is well again."""
        self._dropped += 1

    def refused(self, error: Exception) -> None:
        """Something is wrong in itself and cannot be written, now or later."""
        self._log.error("state.job_failed", error=repr(error))

    def request(self, apply: Apply, *, urgent: bool = True) -> asyncio.Future[Any]:
        """Do it; the future has the answer once it is committed, or the error that it raised.

        At once, unless it is not ``urgent``: then with the jobs of the next moment in one transaction.
        """
        assert self._loop is not None, "the writer was not started"
        future: asyncio.Future[Any] = self._loop.create_future()
        self._append(Job(apply, future, urgent=urgent))
        return future

    def _append(self, job: Job) -> None:
        with self._wake:
            if not self._ended:
                self._jobs.append(job)
                self._urgent = self._urgent or job.urgent
                if self._urgent or len(self._jobs) in (1, self._batch):
                    self._wake.notify()
                return
        if job.future is not None:
            job.future.set_exception(ConnectionError(f"{self.path} is closed"))

    # ---- the thread

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            self._open_sound()
        except (OSError, sqlite3.Error) as error:
            self._tell([(opened, error, None)])
            return
        self._tell([(opened, None, None)])
        while jobs := self._next_batch():
            if not self._persist(jobs):
                self._log.error("state.lost", jobs=len(jobs) + len(self._jobs), path=str(self.path))
                self._give_up(jobs)
                break
        self._give_up([])
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()

    def _give_up(self, jobs: list[Job]) -> None:
        """Tell those who wait that it will not be written."""
        with self._wake:
            self._ended = True
            jobs = [*jobs, *self._jobs]
            self._jobs.clear()
        closed = ConnectionError(f"{self.path} was closed before this was written")
        self._tell([(job.future, closed, None) for job in jobs if job.future is not None])

    def _next_batch(self) -> list[Job]:
        with self._wake:
            while not self._jobs and self._stopping is None:
                self._wake.wait()
            self._wake.wait_for(self._is_due, _GATHER)
            batch = [self._jobs.popleft() for _ in range(min(self._batch, len(self._jobs)))]
            self._urgent = bool(self._jobs)
            return batch

    def _is_due(self) -> bool:
        return self._urgent or self._stopping is not None or len(self._jobs) >= self._batch

    def _persist(self, jobs: list[Job]) -> bool:
        """Commit a batch, however often it takes. ``False`` if the time to stop came before."""
        pause = _FIRST_PAUSE
        while True:
            try:
                answers = self._commit(jobs)
            except (OSError, sqlite3.Error) as error:
                self._recover(error)
                if self._stopping is not None and time.monotonic() > self._stopping:
                    return False
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
                continue
            if self._troubled:
                self._troubled = False
                self._log.warning("state.written_again", path=str(self.path), outcomes_dropped=self._dropped)
                self._dropped = 0
            self._tell(answers)
            return True

    def _commit(self, jobs: list[Job]) -> list[tuple[asyncio.Future[Any], BaseException | None, Any]]:
        if self._connection is None:
            self._open_sound()
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        answers: list[tuple[asyncio.Future[Any], BaseException | None, Any]] = []
        for job in jobs:
            error, answer = self._apply(connection, job)
            if job.future is not None:
                answers.append((job.future, error, answer))
            elif error is not None:
                self.refused(error)
        connection.execute("COMMIT")
        return answers

    def _apply(self, connection: sqlite3.Connection, job: Job) -> tuple[Exception | None, Any]:
        """Run a job in a savepoint, so that one that is wrong in itself does not take its batch along."""
        connection.execute("SAVEPOINT job")
        try:
            answer = job.apply(connection)
        except sqlite3.OperationalError:
            raise
        except UNFIT as error:
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            return error, None
        connection.execute("RELEASE job")
        return None, answer

    def _recover(self, error: Exception) -> None:
        """Roll back; replace the file if it is damaged; say it once."""
        damaged = is_damaged(error)
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
        if damaged:
            self._set_aside(error)
        elif not self._troubled:
            self._troubled = True
            self._log.error("state.not_written", path=str(self.path), error=str(error), will="try again")

    def _open_sound(self) -> None:
        """Open the file; if it is damaged, move it aside and begin a fresh one."""
        try:
            self._connection = self._open()
        except sqlite3.Error as error:
            if not is_damaged(error):
                raise
            self._set_aside(error)
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=0.25, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise Damaged(verdict)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, self._version):
                raise Damaged(f"its version is {version}, not {self._version}")
            connection.executescript(self._schema)
            connection.execute(f"PRAGMA user_version = {self._version:d}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self, error: Exception) -> None:
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

    def _tell(self, answers: list[tuple[asyncio.Future[Any], BaseException | None, Any]]) -> None:
        """Complete futures, all in one visit to the event loop."""
        if answers and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is waiting any more
                self._loop.call_soon_threadsafe(_complete, answers)


class Damaged(sqlite3.DatabaseError):
    """The file opens, but its own check says that it is not whole."""


def is_damaged(error: Exception) -> bool:
    """Whether an error means that the file itself is broken, rather than busy or out of space."""
    if isinstance(error, Damaged):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED


def _complete(answers: list[tuple[asyncio.Future[Any], BaseException | None, Any]]) -> None:
    for future, error, answer in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(answer)
        else:
            future.set_exception(error)
