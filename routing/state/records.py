"""Records: JSON objects that callers own and that outlive a request, such as responses, files and batches.

A record belongs to the key that made it, and may be part of a parent (an item of a conversation, a line of a
batch). Lists are in the order in which records were added. :class:`Records` is a part of every
:class:`routing.state.protocol.State`.

**Changes** are compare-and-swap: ``replace`` names the version that it read, and fails if another process was
faster. **Work** that must be done by one process at a time is held: ``hold`` gives a record to a process until a
time, and another process may take it over after that.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import orjson

from catalog.errors import RateLimited, Unavailable
from catalog.types import Json

STORE_TIMEOUT = 2.0
"""Seconds in which a store must have written; a caller's answer waits no longer for it."""

REMEMBERED = 3600.0
"""Seconds for which the place of a record that is gone is known in its lists."""


class StorageFull(RateLimited):
    """The records of a key take all the room that one key may use."""

    code = "storage_full"

    @classmethod
    def of(cls, room: int) -> StorageFull:
        """Make the error of a key that may use ``room`` bytes."""
        return cls(
            f"The stored objects of this key take all the {room:,} bytes that one key may use. Delete some "
            "(files, batches, responses, conversations), or raise storage.bytes_per_key."
        )


def unanswered() -> Unavailable:
    """The error of a store that does not answer in time."""
    return Unavailable("The state store does not answer: nothing can be stored or read at the moment. Try again.")


@dataclass(frozen=True, slots=True)
class Record:
    """One object of ``kind``, with an ``id`` that is unique in its kind.

    ``owner`` is the id of the virtual key that made it ("" without keys). ``status`` is what lists of unfinished
    work look for. Times are wall clock, in seconds. ``version`` increases with each change; ``sequence`` is the
    place in lists, given by the store.
    """

    kind: str
    id: str
    body: Json
    owner: str = ""
    parent: str = ""
    status: str = ""
    created_at: float = field(default_factory=time.time)
    expires_at: float | None = None
    version: int = 0
    sequence: int = 0

    def changed(self, *, status: str | None = None, **members: object) -> Record:
        """A copy with some members of the body, and perhaps the status, replaced."""
        return replace(self, body={**self.body, **members}, status=self.status if status is None else status)


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """Selects records of a kind. ``None`` as owner, parent or status: any.

    ``after`` is the ``sequence`` from which to go on, exclusive, in the direction of the list.
    """

    kind: str
    owner: str | None = None
    parent: str | None = None
    status: str | None = None
    newest_first: bool = False
    after: int | None = None
    limit: int = 100


class Records(Protocol):
    """A store of records. Every method raises Unavailable when the store does not answer in time.

    What was given up then is not written later.
    """

    async def add(
        self, records: Sequence[Record], *, room: int | None = None, give_way: Sequence[str] = ()
    ) -> None:
        """Store new records of one owner, all or none. One whose id is taken is left as it is stored.

        ``room`` is the number of bytes that the owner's records may take in all. If they would take more, the
        owner's oldest records of the kinds that ``give_way`` are deleted, with their parts. A record that has a
        status or a holder is not finished, and stays. Raises StorageFull, and deletes nothing, if that does not
        make enough room.
        """
        ...

    async def get(self, kind: str, name: str, owner: str | None = None) -> Record | None:
        """One record that has not expired; ``None`` if there is none of this owner (``None``: of any owner)."""
        ...

    async def find(self, query: RecordQuery) -> list[Record]:
        """The records that a query selects, at most ``limit``."""
        ...

    async def replace(self, record: Record) -> Record | None:
        """Store a changed record if its version is the stored one.

        Returns it with the new version, else ``None``.
        """
        ...

    async def delete(self, kind: str, name: str, owner: str | None = None) -> bool:
        """Delete a record and its parts; whether there was one."""
        ...

    async def place(self, kind: str, name: str, owner: str | None = None) -> tuple[int, str] | None:
        """The sequence and the parent of a record, also of one that is gone for at most ``REMEMBERED`` seconds.

        A list that is read while its objects are deleted, expire or give way goes on from there.
        ``None`` if there is none.
        """
        ...

    async def used(self, owner: str) -> int:
        """The bytes that the records of an owner take."""
        ...

    async def hold(self, kind: str, name: str, holder: str, until: float) -> bool:
        """Give a record to ``holder`` until a wall time, if nobody else holds it now. Its version stays.

        A holder calls again to renew, and with ``until`` 0 to let go.
        """
        ...

    async def prune(self, now: float) -> int:
        """Delete expired records and their parts; returns their number."""
        ...


def new_id(prefix: str) -> str:
    """A new id that cannot be guessed: ``prefix_`` and 32 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(16)}"


def encoded(record: Record) -> bytes:
    """The body of a record as JSON."""
    return orjson.dumps(record.body)


async def every(records: Records, query: RecordQuery) -> AsyncIterator[Record]:
    """All records that a query selects, read in pages of its ``limit``."""
    while page := await records.find(query):
        for record in page:
            yield record
        if len(page) < query.limit:
            return
        query = replace(query, after=page[-1].sequence)
