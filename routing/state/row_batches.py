"""Batches of rows for SQLite: added one by one, written together, in order."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from routing.state.sqlite_writer import INVALID_DATA, SqliteWriter

T = TypeVar("T")


class RowBatcher(Generic[T]):
    """Submits one job for all rows that are added before the writer runs it.

    One job per row would cost both threads more than writing the row. ``sql`` is a statement for one row, and
    ``values``, called in the writer's thread, returns its parameters. ``max_rows`` bounds the rows that wait while
    the disk is stuck; further rows are dropped and counted by the writer.
    """

    def __init__(
        self, writer: SqliteWriter, sql: str, values: Callable[[T], Sequence[Any]], *, max_rows: int | None = None
    ) -> None:
        self._writer = writer
        self._sql = sql
        self._values = values
        self._max_rows = max_rows
        self._rows: deque[T] = deque()
        self._job: asyncio.Future[None] | None = None
        self._job_started = True

    def add(self, row: T) -> asyncio.Future[None] | None:
        """Write the row soon. The future is done when it is committed; ``None`` if it was dropped."""
        if self._max_rows is not None and len(self._rows) >= self._max_rows:
            self._writer.count_dropped()
            return None
        self._rows.append(row)
        if self._job_started or self._job is None:
            self._job_started = False
            self._job = self._writer.request(self._new_job(), urgent=False)
            self._job.add_done_callback(_retrieve_exception)
        return self._job

    def _new_job(self) -> Callable[[sqlite3.Connection], None]:
        """A job that takes the rows waiting when it runs, and keeps them in case it is retried."""
        rows: list[T] = []

        def job(db: sqlite3.Connection) -> None:
            # Set before the rows are taken: a row added meanwhile then gets its own job, perhaps a needless one.
            self._job_started = True
            while self._rows:
                rows.append(self._rows.popleft())
            for row in rows:
                try:
                    db.execute(self._sql, self._values(row))
                except INVALID_DATA as error:
                    self._writer.log_invalid(error)

        return job


def _retrieve_exception(job: asyncio.Future[None]) -> None:
    """Keep asyncio from logging an exception that was never retrieved: the writer has logged it."""
    if not job.cancelled():
        job.exception()
