"""Rows for SQLite that come one by one and are written many at once, in the order they came."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from routing.state.sqlite_writer import UNFIT, SqliteWriter

T = TypeVar("T")


class Gathered(Generic[T]):
    """Hands its writer one job for all rows that come before the job's turn.

    A job of its own for each row would cost both threads more than writing the row does. ``sql`` is one statement
    per row, ``values`` are what it is given: called by the writer's thread. ``most`` bounds the rows that wait
    while the disk is stuck; what comes after is dropped, and the writer's log counts it.
    """

    def __init__(
        self, writer: SqliteWriter, sql: str, values: Callable[[T], Sequence[Any]], *, most: int | None = None
    ) -> None:
        self._writer = writer
        self._sql = sql
        self._values = values
        self._most = most
        self._rows: deque[T] = deque()
        self._job: asyncio.Future[None] | None = None
        self._taken = True

    def add(self, row: T) -> asyncio.Future[None] | None:
        """Write the row soon. The future is done when it is committed; ``None`` for a row that was dropped."""
        if self._most is not None and len(self._rows) >= self._most:
            self._writer.dropped()
            return None
        self._rows.append(row)
        if self._taken or self._job is None:
            self._taken = False
            self._job = self._writer.request(self._new_job(), urgent=False)
            self._job.add_done_callback(_nobody_has_to_ask)
        return self._job

    def _new_job(self) -> Callable[[sqlite3.Connection], None]:
        """A job that takes what is there when its turn comes, and has it still if it must be done again."""
        rows: list[T] = []

        def job(db: sqlite3.Connection) -> None:
            # Before looking, not after: a row that comes meanwhile then has a job of its own, if a needless one.
            self._taken = True
            while self._rows:
                rows.append(self._rows.popleft())
            for row in rows:
                try:
                    db.execute(self._sql, self._values(row))
                except UNFIT as error:
                    self._writer.refused(error)

        return job


def _nobody_has_to_ask(job: asyncio.Future[None]) -> None:
    """Else asyncio complains of an error that nobody looked at: the writer has said that it was closed."""
    if not job.cancelled():
        job.exception()
