"""The events of a background response: stored while it is made, and read by followers in any process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self

from catalog.errors import NotFound, Unavailable
from catalog.types import Json
from routing.state.records import Record, RecordQuery
from server.history.context import RESPONSE
from server.storage.storage import Storage

EVENTS = "response_events"
"""The kind of records with some events each; parts of the response's record."""
PACE = 0.05
"""Seconds between two writes of events, and between two looks of a follower."""
_RETRY = 0.5
_LAST = frozenset(f"response.{end}" for end in ("completed", "incomplete", "failed", "cancelled"))


class EventLog:
    """Stores the events that are added while the block runs, those that came meanwhile in one record.

    A store that does not answer makes them wait, not the response.
    """

    def __init__(self, storage: Storage, response: Record) -> None:
        self._storage = storage
        self._response = response
        self._waiting: list[Json] = []
        self._added = asyncio.Event()
        self._closing = False
        self._writing: asyncio.Task[None] | None = None

    def add(self, event: Json) -> None:
        self._waiting.append(event)
        self._added.set()

    async def __aenter__(self) -> Self:
        self._writing = asyncio.create_task(self._write_always(), name=f"events {self._response.id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._writing is not None
        self._closing = True
        self._added.set()
        await asyncio.wait((self._writing,))

    async def _write_always(self) -> None:
        while not self._closing or self._waiting:
            await self._added.wait()
            self._added.clear()
            try:
                await self._write()
            except Unavailable:
                if self._closing:
                    return  # the response itself has the whole
                self._added.set()
                await asyncio.sleep(_RETRY)
            if not self._closing:
                await asyncio.sleep(PACE)

    async def _write(self) -> None:
        events = self._waiting[:]
        if events:
            await self._storage.records.add([record_of(self._response, events)])
            del self._waiting[: len(events)]


def record_of(response: Record, events: list[Json]) -> Record:
    """The record of some events of a response."""
    name = f"{response.id}:{events[0]['sequence_number']}"
    return Record(
        EVENTS,
        name,
        {"events": events},
        owner=response.owner,
        parent=response.id,
        created_at=response.created_at,
        expires_at=response.expires_at,
    )


async def next_number(storage: Storage, response: Record) -> int:
    """The number of a response's next event."""
    query = RecordQuery(EVENTS, parent=response.id, newest_first=True, limit=1)
    last = await storage.records.find(query)
    return last[0].body["events"][-1]["sequence_number"] + 1 if last else 0


async def follow(storage: Storage, response: Record, after: int) -> AsyncGenerator[Json]:
    """The events of a background response after the number ``after``, until its end.

    Raises NotFound for one that is deleted before its last event was read.
    """
    cursor: int | None = None
    ended = False
    while True:
        current = await storage.records.get(RESPONSE, response.id, response.owner)
        query = RecordQuery(EVENTS, parent=response.id, after=cursor, limit=100)
        found = await storage.records.find(query)
        for record in found:
            cursor = record.sequence
            for event in record.body["events"]:
                ended = event["type"] in _LAST
                if event["sequence_number"] > after:
                    yield event
        if not found:
            if current is None and not ended:
                raise NotFound(f"The response {response.id!r} was deleted.", param="response_id")
            if current is None or not current.status:
                return
            await asyncio.sleep(PACE)
