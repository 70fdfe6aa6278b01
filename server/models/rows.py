"""Rows of models and endpoints that were registered while the server runs, kept in the state."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson
import structlog

from catalog.errors import InvalidRequest, RoundhouseError
from catalog.types import Json
from routing.state.records import Record, RecordQuery, Records, every

MODEL, ENDPOINT = "registered_model", "registered_endpoint"
MOST = 2000
"""Rows that may be registered."""
LARGEST = 64 * 1024
"""Bytes of one row as JSON."""
_OWNER = "registry"
_CUT = 100
"""Characters of an id in a message."""
_ROW = re.compile(r"\[\[(model|endpoint)\]\] '([^']*)'")
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Registered:
    """The registered rows, by lower-case id.

    A model's entry has the fields of a ``[[model]]`` in ``given``, and in ``facts`` those that the files of a path
    give besides. An endpoint's is a table as an ``[[endpoint]]``.
    """

    models: Mapping[str, Json] = field(default_factory=dict)
    endpoints: Mapping[str, Json] = field(default_factory=dict)

    @property
    def tables(self) -> list[Json]:
        """The models as ``[[model]]`` tables."""
        return [_table(entry) for entry in self.models.values()]

    def given(self, model_id: str) -> Json:
        """The fields that were given for a model; none if it is not registered."""
        given: Json = self.models.get(model_id.lower(), {"given": {}})["given"]
        return given

    def beside(self, models: Sequence[Json], endpoints: Sequence[Json]) -> Registered:
        """Those whose ids no table of the settings has, which win."""
        taken = {str(table.get("id", "")).lower() for table in models}
        taken_too = {str(table.get("id", "")).lower() for table in endpoints}
        return Registered(
            {name: table for name, table in self.models.items() if name not in taken},
            {name: table for name, table in self.endpoints.items() if name not in taken_too},
        )

    def without(self, complaint: str) -> Registered:
        """Those that an error's message does not begin with; the same if it names none of them."""
        found = _ROW.match(complaint)
        if found is None:
            return self
        kind, name = found[1], found[2].lower()

        def rest(tables: Mapping[str, Json]) -> Mapping[str, Json]:
            return {each: table for each, table in tables.items() if each[:_CUT] != name[:_CUT]}

        return replace(self, **{f"{kind}s": rest(self.models if kind == "model" else self.endpoints)})


def _table(entry: Json) -> Json:
    facts, given = entry["facts"], entry["given"]
    options = {**facts.get("options", {}), **given.get("options", {})}
    return {**facts, **given, **({"options": options} if options else {})}


NONE_REGISTERED = Registered()


class RegisteredRows:
    """The registered tables of all gateways that share the state; ``current`` is what was read last."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self.current = Registered()

    async def read(self) -> None:
        """Read what is registered now. A store that does not answer changes nothing, which is logged."""
        found: dict[str, dict[str, Json]] = {MODEL: {}, ENDPOINT: {}}
        try:
            for kind, tables in found.items():
                async for record in every(self._records, RecordQuery(kind)):
                    tables[record.id] = record.body
        except (RoundhouseError, OSError) as error:
            structlog.get_logger("server.models").warning("registered rows cannot be read", reason=str(error))
        else:
            self.current = Registered(found[MODEL], found[ENDPOINT])

    async def keep(self, kind: str, name: str, entry: Json) -> None:
        """Store an entry under a lower-case id.

        Raises InvalidRequest for one that is too large, or one too many, and Unavailable.
        """
        if len(orjson.dumps(entry)) > LARGEST:
            raise InvalidRequest(f"A registered row takes at most {LARGEST:,} bytes.")
        known = self.current.models if kind == MODEL else self.current.endpoints
        if name not in known and len(known) >= MOST:
            raise InvalidRequest(f"{MOST} rows are registered, which is the most. Delete some.", param="id")
        for _ in range(_TRIES):
            stored = await self._records.get(kind, name)
            if stored is None:
                record = Record(kind, name, entry, owner=_OWNER)
                await self._records.add([record])
                stored = await self._records.get(kind, name)
                if stored is not None and stored.body == entry:
                    return
            elif await self._records.replace(replace(stored, body=entry)) is not None:
                return
        raise InvalidRequest(f"'{name[:80]}' is changed by other requests all the time. Try again.", param="id")

    async def drop(self, kind: str, name: str) -> bool:
        """Delete an entry; whether there was one. Raises Unavailable."""
        return await self._records.delete(kind, name.lower())
