"""The objects that callers keep, each seen by the key that made it and by no other."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from catalog.errors import InvalidRequest, NotFound, PayloadTooLarge
from catalog.types import Json
from routing.clock import Clock
from routing.state.records import Record, RecordQuery, Records, StorageFull, encoded, unanswered
from server.callers import Caller
from server.storage.settings import StorageSettings

_GIVE_WAY = ("response", "chat_completion")
"""Kinds whose records are kept by default or in passing: they give way to newer records. Their events go too."""


@dataclass(frozen=True, slots=True)
class Page:
    """The part of a list that a client asks for, as OpenAI's lists do.

    ``after`` and ``before`` are ids of the records around it.
    """

    limit: int = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    before: str | None = None


class Storage:
    """Keeps records of callers within the settings' bounds.

    ``hosts`` are those that addresses of media may name although they are of a private network.
    """

    def __init__(
        self, records: Records, settings: StorageSettings, clock: Clock, *, hosts: Sequence[str] = ()
    ) -> None:
        self.records = records
        self.settings = settings
        self.hosts = hosts
        self._clock = clock
        self._secrets: dict[str, bytes] = {}

    def configure(self, settings: StorageSettings) -> None:
        """Use other bounds for what is kept from now on."""
        self.settings = settings

    def now(self) -> float:
        """The wall time, in seconds."""
        return self._clock.wall()

    async def secret(self, name: str) -> bytes:
        """32 random bytes, made when they are first asked for and shared by all gateways of this state.

        Raises Unavailable.
        """
        if name not in self._secrets:
            await self.records.add([Record("secret", name, {"key": secrets.token_hex(32)})])
            stored = await self.records.get("secret", name)
            if stored is None:
                raise unanswered()
            self._secrets[name] = bytes.fromhex(stored.body["key"])
        return self._secrets[name]

    def new(self, kind: str, name: str, body: Json, caller: Caller, **fields: Any) -> Record:
        """A record of the caller, not stored yet; it expires after ``settings.keep`` if ``fields`` do not tell."""
        now = self.now()
        fields = {"expires_at": now + self.settings.keep, **fields}
        return Record(kind, name, body, owner=caller.id, created_at=now, **fields)

    async def keep(self, *records: Record) -> None:
        """Store new records of one caller, all or none; the caller's oldest finished answers give way to them.

        Raises StorageFull, PayloadTooLarge for more than a key may store at all, and Unavailable.
        """
        room = self.settings.bytes_per_key
        try:
            await self.records.add(records, room=room, give_way=_GIVE_WAY)
        except StorageFull:
            if sum(len(encoded(record)) for record in records) <= room:
                raise
            raise PayloadTooLarge(
                f"This is more than the {room:,} bytes that all stored objects of one key may take. Send less, do "
                "not store it, or raise storage.bytes_per_key."
            ) from None

    async def found(self, kind: str, name: str, caller: Caller, *, param: str | None = None) -> Record:
        """A record of the caller. Raises NotFound, also for one of another key."""
        record = await self.records.get(kind, name, caller.id)
        if record is None:
            raise NotFound(f"There is no {kind.replace('_', ' ')} {name[:80]!r} (any more).", param=param)
        return record

    async def change(
        self, kind: str, name: str, caller: Caller, change: Callable[[Record], Record], *, tries: int = 20
    ) -> Record:
        """Apply ``change`` to a record of the caller, again when another request changes it at the same time.

        Raises NotFound, and what ``change`` raises.
        """
        for _ in range(tries):
            record = await self.found(kind, name, caller)
            stored = await self.records.replace(change(record))
            if stored is not None:
                return stored
        raise InvalidRequest(f"{name[:80]!r} is changed by other requests all the time. Try again.")

    async def page(
        self, query: RecordQuery, page: Page, *, keep: Callable[[Record], bool] | None = None
    ) -> tuple[list[Record], bool]:
        """One page of the records that a query selects and ``keep`` accepts, and whether there are more.

        Raises InvalidRequest for a cursor that names no record of the query's owner.
        """
        backwards = page.before is not None and page.after is None
        newest_first = (page.order == "desc") != backwards
        query = replace(query, newest_first=newest_first, limit=max(100, page.limit + 1))
        cursor, param = (page.before, "before") if backwards else (page.after, "after")
        if cursor is not None:
            at = await self.records.place(query.kind, cursor, query.owner)
            if at is None or query.parent not in (None, at[1]):
                raise no_cursor(cursor, param)
            query = replace(query, after=at[0])
        found: list[Record] = []
        while len(found) <= page.limit:
            rows = await self.records.find(query)
            found += [row for row in rows if keep is None or keep(row)]
            if len(rows) < query.limit:
                break
            query = replace(query, after=rows[-1].sequence)
        more = len(found) > page.limit
        found = found[: page.limit]
        return (found[::-1] if backwards else found), more


def no_cursor(cursor: str, param: str) -> InvalidRequest:
    """The error for a cursor that names no object of a list, or one that is gone for long."""
    return InvalidRequest(
        f"The list has no {cursor[:80]!r} to go on from (any more). Leave {param!r} out to begin anew.",
        param=param,
    )


def listed(objects: list[Json], more: bool) -> Json:
    """OpenAI's list object around one page of objects."""
    ends = {"first_id": objects[0].get("id"), "last_id": objects[-1].get("id")} if objects else {}
    return {"object": "list", "data": objects, "first_id": None, "last_id": None, **ends, "has_more": more}
