"""The events of a foreground stream, stored with its response, so that it can be streamed again as it was.

An event is stored without the parts that the finished response has as well, and the pieces of one text together.
A background response is followed while it is made; its events are in :mod:`server.history.events`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import orjson

from catalog.errors import RoundhouseError
from catalog.types import Json
from routing.state.records import Record

RECORDING = "response_recording"
"""The kind of the record, a part of its response's."""
MOST_BYTES = 1 << 20
"""Bytes of the events of one stream; a longer one is not recorded."""
_PIECE = 8
_OF_PIECES = frozenset({"delta", "sequence_number", "obfuscation"})
_REPEATING = {
    "response.output_item.done": "item",
    "response.content_part.done": "part",
    "response.output_text.done": "text",
}
"""The members of events that the finished response repeats."""


class Stream(Protocol):
    """A translation that has events before its first chunk; see :class:`server.wires.translation.Translation`."""

    def start(self) -> Iterator[Json]: ...

    def feed(self, chunk: Json) -> Iterator[Json]: ...

    def finish(self) -> Iterator[Json]: ...

    def fail(self, error: RoundhouseError) -> Iterator[Json]: ...


class RecordedStream:
    """Passes a stream's events on and records them."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rows: list[Any] = []
        self._size = 0
        self._run: Json | None = None

    def start(self) -> Iterator[Json]:
        return self._recorded(self._stream.start())

    def feed(self, chunk: Json) -> Iterator[Json]:
        return self._recorded(self._stream.feed(chunk))

    def finish(self) -> Iterator[Json]:
        return self._recorded(self._stream.finish())

    def fail(self, error: RoundhouseError) -> Iterator[Json]:
        return self._stream.fail(error)

    def _recorded(self, events: Iterator[Json]) -> Iterator[Json]:
        for event in events:
            if self._size <= MOST_BYTES:
                self._add(event)
            yield event

    def _add(self, event: Json) -> None:
        delta = event.get("delta")
        if isinstance(delta, str):
            rest = {name: value for name, value in event.items() if name not in _OF_PIECES}
            run = self._run
            if (
                run is None
                or run["event"] != rest
                or run["first"] + len(run["deltas"]) != event["sequence_number"]
            ):
                self._run = run = {"event": rest, "first": event["sequence_number"], "deltas": []}
                self._rows.append(run)
                self._size += 200
            run["deltas"].append(delta)
            self._size += len(delta) + _PIECE
            return
        self._run = None
        if isinstance(event.get("response"), dict):
            self._rows.append(event)
        else:  # encoded at once: the parts of an item that is being made may change
            self._rows.append(encoded := orjson.dumps(event))
            self._size += len(encoded)

    def record(self, response: Record) -> Record:
        """The record of the events; ``response`` is the record of the finished response."""
        told = response.body["response"]
        rows = None if self._size > MOST_BYTES else [_stored(row, told) for row in self._rows]
        return Record(
            RECORDING,
            name_of(response.id),
            {"rows": rows},
            owner=response.owner,
            parent=response.id,
            created_at=response.created_at,
            expires_at=response.expires_at,
        )


def name_of(response_id: str) -> str:
    """The id of the record of a response's events."""
    return f"{response_id}:recording"


def recorded_events(recording: Record, response: Json) -> Iterator[Json] | None:
    """The events of a stream in order, with their numbers; ``None`` if they were too many to be recorded."""
    rows = recording.body["rows"]
    return None if rows is None else _events(rows, response)


def _events(rows: list[Json], response: Json) -> Iterator[Json]:
    for row in rows:
        event = row["event"]
        if "deltas" in row:
            for number, delta in enumerate(row["deltas"], start=row["first"]):
                yield {**event, "delta": delta, "sequence_number": number}
        elif "changed" in row:
            told = {name: value for name, value in response.items() if name not in row["without"]}
            yield {**event, "response": told | row["changed"]}
        elif "repeats" in row:
            yield {**event, row["repeats"]: _repeated(event, response)}
        else:
            yield event


def _stored(row: Any, response: Json) -> Json:
    if isinstance(row, bytes):
        event = orjson.loads(row)
        name = _REPEATING.get(event["type"])
        if name is None or event.get(name) != _repeated(event, response):
            return {"event": event}
        return {"event": {key: value for key, value in event.items() if key != name}, "repeats": name}
    if "deltas" in row:
        return dict(row)
    told = row["response"]
    return {
        "event": {name: value for name, value in row.items() if name != "response"},
        "changed": {
            name: value for name, value in told.items() if name not in response or response[name] != value
        },
        "without": [name for name in response if name not in told],
    }


def _repeated(event: Json, response: Json) -> Any:
    """The part of a finished response that an event repeats; ``None`` if it has none at that place."""
    try:
        item = response["output"][event["output_index"]]
        if event["type"] == "response.output_item.done":
            return item
        part = item["content"][event["content_index"]]
        return part if event["type"] == "response.content_part.done" else part.get("text")
    except (KeyError, IndexError, TypeError):
        return None
