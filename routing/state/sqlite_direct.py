"""Short transactions of a SQLite file, in the thread of the event loop.

A job of the writer's thread (:mod:`routing.state.sqlite_writer`) costs two switches of threads, which take longer
than the transaction itself: a few rows are committed in a tenth of a millisecond. So a caller that waits for such
a job has it done here, where nothing can hold the event loop up:

- nobody is waited for: while another connection writes, also of another process, a job is declined;
- nothing is synced to the disk: this connection makes no checkpoints, and does not begin the WAL file anew, which
  syncs its header. After a checkpoint, which alone writes the file itself in WAL mode
  (https://www.sqlite.org/wal.html), jobs are declined until the writer has begun it;
- a disk that keeps a write waiting does so once: then jobs are declined for :data:`REST` seconds.

A declined job is for the writer. One that is committed here is as durable as there: it is in the WAL file before
its caller goes on.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, final
from urllib.parse import quote

T = TypeVar("T")
SLOW, REST = 0.02, 30.0
"""Seconds of a transaction that are too many, and for which none is done here after that."""
MOST = 100
"""Transactions between two of the writer's, which makes the checkpoints."""
_OF_DATA = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)


@final
class Declined:
    """The type of :data:`DECLINED`."""


DECLINED: Final = Declined()
"""The result of a job that was not done here, and changed nothing."""


class TakesLong(Exception):
    """Raised by a job that finds more to do than the event loop has time for; it is declined."""


class DirectTransactions:
    """A second connection to a writer's file. The event loop calls ``run``, the writer's thread the rest."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file_written: int | None = None
        self._committed = 0
        self._resting_until = 0.0

    def open(self) -> None:
        """Open the file, which must be there. Where it cannot have a WAL file, every job is declined."""
        connection = sqlite3.connect(
            f"file:{quote(str(self._path))}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=0,
            check_same_thread=False,
        )
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":  # some file systems lack what it needs, and every commit is synced
            connection.close()
            return
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        with self._lock:
            self._connection, self._file_written = connection, None

    def close(self) -> None:
        """Close the file; jobs are declined from now on."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def written(self, before: int | None, after: int | None) -> None:
        """Note that the writer has committed changes, by the file's time of change before and after that."""
        with self._lock:
            self._file_written = after if before == after else None
            self._committed = 0

    def run(self, apply: Callable[[sqlite3.Connection], T]) -> T | Declined:
        """Run a job and commit it, or decline it. Raises what the job raises because of its data."""
        began = self._clock()
        if began < self._resting_until or not self._lock.acquire(blocking=False):
            return DECLINED
        try:
            connection, known = self._connection, self._file_written
            if connection is None or known is None or self._committed >= MOST:
                return DECLINED
            return self._apply(connection, apply) if time_of_change(self._path) == known else DECLINED
        finally:
            self._lock.release()
            ended = self._clock()
            if ended - began > SLOW:
                self._resting_until = ended + REST

    def _apply(self, connection: sqlite3.Connection, apply: Callable[[sqlite3.Connection], T]) -> T | Declined:
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = apply(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            if isinstance(error, _OF_DATA) or not isinstance(error, TakesLong | sqlite3.Error):
                raise
            return DECLINED  # the writer tries again, and sees to a damaged file
        self._committed += 1
        return result


def time_of_change(path: Path) -> int | None:
    """When a file was last written, in nanoseconds; ``None`` if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
