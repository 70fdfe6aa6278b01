"""Gives the tool calls of a streamed choice distinct positions and ids, where the server does not."""

from __future__ import annotations

from secrets import token_hex

from catalog.types import Json


class CallPlaces:
    """The tool calls of one choice so far.

    A call begins with a new index, or without an index with an id. A named part with another id begins one, too,
    at an index that is taken: some servers send every call at index 0. A call without an id gets one. The parts
    that go on with a call have its id or none: some servers send an empty or a random one.
    """

    __slots__ = ("_ids", "_last", "_places")

    def __init__(self) -> None:
        self._ids: list[tuple[int, str]] = []
        """The position and the id of each call."""
        self._places: dict[int, int] = {}
        """The position of the latest call, by the server's index."""
        self._last = -1

    def set(self, call: Json) -> None:
        """Set the position, and the id if the call begins here; remove an id that is not the call's."""
        index, call_id = call.get("index"), call.get("id") or ""
        named = bool((call.get("function") or call.get("custom") or {}).get("name"))
        place = self._place(index, call_id, named=named)
        if place is None:
            place = self._begin(index)
            if named and not call_id:
                call_id = call["id"] = f"call_{token_hex(12)}"
            self._ids.append((place, call_id))
        elif "id" in call and (place, call_id) not in self._ids:
            del call["id"]
        call["index"] = self._last = place

    def _place(self, index: int | None, call_id: str, *, named: bool) -> int | None:
        """The position of the call that goes on; None if one begins."""
        place = self._places.get(index) if index is not None else None if call_id or self._last < 0 else self._last
        if not call_id or (place, call_id) in self._ids:
            return place
        if named:
            return None
        return next((at for at, known in self._ids if known == call_id), place)

    def _begin(self, index: int | None) -> int:
        taken = [at for at, _ in self._ids]
        place = max(taken, default=-1) + 1 if index is None or index in taken else index
        if index is not None:
            self._places[index] = place
        return place
