"""Gives the chunks of an answer the caller's names of tools, and its text the form that was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from backends.adapting.custom import input_of
from catalog.errors import AnswerInvalid
from catalog.types import Json

_FENCED = re.compile(r"\s*```(?:json)?\s*\n(?P<inner>.*?)\n?\s*```\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Restoration:
    """The differences of an answer from the caller's request: ``names`` gives the caller's name by the one sent.

    ``custom`` are the caller's names of custom tools that were sent as functions. ``json_object``: the model was
    told, not bound, to answer with a JSON object, so the answer is checked.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    custom: frozenset[str] = frozenset()
    json_object: bool = False


TELL_JSON = "Your answer must be one JSON object and nothing else: no text around it, no Markdown fence."
"""For models that cannot be bound to JSON; the answer is checked."""


@dataclass(slots=True)
class _Text:
    """The text of one choice. ``held`` until it begins with a brace, and for good if it begins otherwise."""

    pieces: list[str] = field(default_factory=list)
    passes: bool = False
    calls: bool = False

    def take(self, text: str) -> str:
        """The text that passes on now."""
        self.pieces.append(text)
        if self.passes:
            return text
        whole = "".join(self.pieces)
        self.passes = whole.lstrip().startswith("{")
        return whole if self.passes else ""

    def rest(self) -> str:
        """The text that was held, of an answer that was cut off or has calls."""
        return "" if self.passes else "".join(self.pieces)

    def end(self) -> str:
        """The text that was held. Raises AnswerInvalid unless the whole is one JSON object."""
        whole = "".join(self.pieces)
        fenced = None if self.passes else _FENCED.fullmatch(whole)
        text = fenced["inner"] if fenced else whole
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise AnswerInvalid("The model's answer is not the JSON object that response_format asks for.")
        return "" if self.passes else text


class Restorer:
    """Restores the chunks of one answer, in their order."""

    __slots__ = ("_custom", "_inputs", "_json_object", "_names", "_texts")

    def __init__(self, restoration: Restoration) -> None:
        self._names = restoration.names
        self._custom = restoration.custom
        self._inputs: dict[tuple[int, int], list[str]] = {}
        self._json_object = restoration.json_object
        self._texts: dict[int, _Text] = {}

    def restore(self, chunk: Json) -> Json:
        """The chunk in the caller's terms. Raises AnswerInvalid for a finished answer that is no JSON object."""
        for choice in chunk.get("choices") or ():
            for call in choice["delta"].get("tool_calls") or ():
                for kind in ("function", "custom"):
                    called = call.get(kind)
                    if called is not None and called.get("name") in self._names:
                        called["name"] = self._names[called["name"]]
            if self._custom:
                self._customize(choice)
            if self._json_object:
                _check(self._texts.setdefault(choice["index"], _Text()), choice)
        return chunk

    def _customize(self, choice: Json) -> None:
        """Hold the arguments of calls of custom tools until the choice ends, when their input is known."""
        index = choice["index"]
        for call in choice["delta"].get("tool_calls") or ():
            place, function = (index, call["index"]), call.get("function") or {}
            if function.get("name") in self._custom:
                self._inputs[place] = []
                call |= {"type": "custom", "custom": {"name": function["name"], "input": ""}}
            if place in self._inputs:
                call.pop("function", None)
                self._inputs[place].append(function.get("arguments") or "")
        if choice.get("finish_reason") is None:
            return
        ended = [place for place in self._inputs if place[0] == index]
        whole = choice["finish_reason"] in ("stop", "tool_calls")
        given = [
            {"index": place[1], "custom": {"input": input_of("".join(self._inputs.pop(place)), whole=whole)}}
            for place in ended
        ]
        if given:
            choice["delta"]["tool_calls"] = [*(choice["delta"].get("tool_calls") or ()), *given]


def restorer_of(restoration: Restoration | None) -> Restorer | None:
    return None if restoration is None else Restorer(restoration)


async def restored(chunks: AsyncGenerator[Json], restoration: Restoration) -> AsyncGenerator[Json]:
    """The chunks in the caller's terms. Closing this generator closes ``chunks``."""
    restorer = Restorer(restoration)
    async with aclosing(chunks):
        async for chunk in chunks:
            yield restorer.restore(chunk)


def _check(text: _Text, choice: Json) -> None:
    delta = choice["delta"]
    text.calls = text.calls or bool(delta.get("tool_calls"))
    if delta.get("content"):
        delta["content"] = text.take(delta["content"])
    reason = choice.get("finish_reason")
    if reason is None:
        return
    rest = text.end() if reason == "stop" and not text.calls else text.rest()
    if rest:
        delta["content"] = (delta.get("content") or "") + rest
