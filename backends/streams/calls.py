"""Gives the tool calls of a streamed choice distinct positions and ids and an order, if the server does not."""

from __future__ import annotations

from secrets import token_hex

import orjson

from backends.streams.shapes import WrongShape
from catalog.types import Json


class CallPlaces:
    """The tool calls of one choice so far.

    A call begins with a new index, or without an index with an id. A named part with another id begins one, too,
    at an index that is taken: some servers send every call at index 0. A call without an id gets one. The parts
    that go on with a call have its id or none: some servers send an empty or a random one.
    """

    __slots__ = ("_ids", "_last", "_places", "nameless")

    def __init__(self) -> None:
        self.nameless: set[int] = set()
        """The positions of the calls whose name has not come."""
        self._ids: list[tuple[int, str]] = []
        """The position and the id of each call."""
        self._places: dict[int, int] = {}
        """The position of the latest call, by the server's index."""
        self._last = -1

    def set(self, call: Json) -> None:
        """Set the position, and the id and type if the call begins here; remove an id that is not the call's."""
        index, call_id = call.get("index"), call.get("id") or ""
        named = bool((call.get("function") or call.get("custom") or {}).get("name"))
        place = self._place(index, call_id, named=named)
        if place is None:
            place = self._begin(index)
            if named and not call_id:
                call_id = call["id"] = f"call_{token_hex(12)}"
            if named and not call.get("type"):
                call["type"] = "custom" if "custom" in call else "function"
            self._ids.append((place, call_id))
            self.nameless.add(place)
        elif "id" in call and (place, call_id) not in self._ids:
            del call["id"]
        call["index"] = self._last = place
        if named:
            self.nameless.discard(place)

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


class CallOrder:
    """The parts of a choice's calls, one call after another: parts of a later one wait for the call before.

    OpenAI streams calls so, and its SDK takes a call as whole once a part of another comes. A call is whole with
    its arguments, JSON, or at the end of the choice; the input of a custom call is any text, and no other waits
    for it.
    """

    __slots__ = ("_current", "_places", "_told", "_waiting")

    def __init__(self) -> None:
        self._places = CallPlaces()
        self._current = -1
        self._told: list[str] | None = None
        """The arguments of the current call so far; None for a custom one."""
        self._waiting: dict[int, list[Json]] = {}

    def take(self, calls: list[Json], *, ended: bool) -> list[Json]:
        """The parts that go on now, of those that waited and these; all of them if the choice has ``ended``.

        Raises WrongShape at the end for a call that got no name: nobody could run it.
        """
        passing: list[Json] = []
        for call in calls:
            self._places.set(call)
            if self._current < 0:
                self._current = call["index"]
                self._told = None if "custom" in call else []
            if call["index"] == self._current:
                self._pass(call, passing)
            else:
                self._waiting.setdefault(call["index"], []).append(call)
        while self._waiting and (ended or self._whole()):
            self._current = next(iter(self._waiting))
            parts = self._waiting.pop(self._current)
            self._told = None if "custom" in parts[0] else []
            for part in parts:
                self._pass(part, passing)
        if ended and self._places.nameless:
            raise WrongShape("tool_calls.function.name", None, "a text")
        return passing

    def _pass(self, call: Json, passing: list[Json]) -> None:
        if self._told is not None and (told := (call.get("function") or {}).get("arguments")):
            self._told.append(told)
        passing.append(call)

    def _whole(self) -> bool:
        if self._told is None:
            return True
        try:
            orjson.loads("".join(self._told))
        except orjson.JSONDecodeError:
            return False
        return True
