"""A fake OpenAI that plays a capable model: the tool calls that the user's words ask for, then a text.

The last user message with a directive is the script. ``Call NAME {...}`` is a call of a tool with these
arguments, a turn each; ``Say "..."`` is the text after them, which otherwise quotes the last tool's output.
Without a directive it calls the tools that :attr:`Scripted.arguments` names, or one that ``tool_choice`` demands,
whose texts are then the user's words in quotes. JSON without a schema has the words in quotes as its keys.

It is as strict as the strictest provider: unknown fields, a tool output without its call, a call without its
output, names and arguments that are not legal are refused with 400 and kept in :attr:`Scripted.refusals`, where a
client's retry does not hide them.

``python -m tests.fakes.scripted PORT`` serves one by hand.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
from aiohttp import web

from catalog.types import Json
from tests.fakes import openai_chat
from tests.fakes.openai_chat import Answer, example_of
from tests.fakes.openai_strict import StrictOpenAI
from tests.fakes.server import Call

_DIRECTIVE = re.compile(r"\b(?:Call (?P<tool>[\w.-]+)|Say) (?=[{\"])")
_QUOTES = re.compile(r"'([^']+)'")
_LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_QUOTED = 2000
"""Characters of a tool's output that the final text quotes."""


class Unscripted(Exception):
    """The request is one that a strict provider or the script refuses."""


@dataclass(frozen=True, slots=True)
class Script:
    """The calls of a conversation's last instruction, its final text, and the outputs that have come since."""

    calls: tuple[tuple[str, Any], ...] = ()
    text: str | None = None
    outputs: tuple[str, ...] = ()

    @classmethod
    def of(cls, messages: list[Json]) -> Script:
        script = cls()
        for message in messages:
            text = text_of(message)
            if message["role"] == "user" and (found := list(_directives(text))):
                calls = tuple((name, value) for name, value in found if name is not None)
                says = [value for name, value in found if name is None]
                script = cls(calls, says[-1] if says else None)
            elif message["role"] == "tool":
                script = replace(script, outputs=(*script.outputs, text))
        return script


class Scripted(StrictOpenAI):
    """``arguments`` are those of tools that it calls without being told to.

    With ``strict`` False it takes fields that it does not know, with ``system_first`` no system message but the
    first, as templates of Qwen3.5's kind.
    """

    def __init__(
        self, *, uds: Path | None = None, key: str | None = None, strict: bool = True, system_first: bool = False
    ) -> None:
        super().__init__(uds=uds, key=key)
        self.context = 1_000_000
        self.strict = strict
        self.system_first = system_first
        self.arguments: Mapping[str, Any] = {}
        self.refusals: list[str] = []

    async def chat(self, request: web.Request, call: Call) -> web.StreamResponse:
        try:
            check(call.body, system_first=self.system_first)
            return await super().chat(request, call)
        except Unscripted as reason:
            return self.refused(call, 400, str(reason), code="invalid_value")

    def refused(self, call: Call, status: int, message: str, **names: str | None) -> web.Response:
        self.refusals.append(f"{call.method} {call.path}: {status} {message}")
        return super().refused(call, status, message, **names)

    def answer(self, call: Call) -> Answer:
        body = call.body
        script = Script.of(body["messages"])
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        tools = {tool["function"]["name"]: tool["function"] for tool in body.get("tools") or ()}
        calls = list(self._calls(body, tools, script))
        if calls:
            said = tuple((name, json.dumps(arguments)) for name, arguments in calls)
            return Answer(calls=said, finish_reason="tool_calls", prefix=f"call_{turn}")
        form = (body.get("response_format") or {}).get("type", "text")
        quoted = _QUOTES.findall(text_of(body["messages"][-1]))
        if form == "json_object" and quoted and self.keeps_form:
            return openai_chat.limited(json.dumps(dict.fromkeys(quoted, self.reply)), body)
        if form != "text":
            return super().answer(call)
        text = script.text
        if text is None:
            text = f"The tool said: {script.outputs[-1][:_QUOTED]}" if script.outputs else self.reply
        return openai_chat.limited(text, body)

    def _calls(self, body: Json, tools: Mapping[str, Json], script: Script) -> Iterator[tuple[str, Any]]:
        choice = body.get("tool_choice", "auto")
        if not tools or choice == "none":
            return
        if isinstance(choice, dict):
            name = choice["function"]["name"]
            scripted = dict(script.calls) | dict(self.arguments)
            yield name, scripted.get(name, _example(tools[name], body["messages"]))
        elif script.calls[len(script.outputs) :]:
            asked, arguments = script.calls[len(script.outputs)]
            name = named(asked, tools)
            _held_to_schema(arguments, tools[name])
            yield name, arguments
        elif not script.outputs and (known := tools.keys() & self.arguments.keys()):
            yield from ((name, self.arguments[name]) for name in tools if name in known)
        elif choice == "required":
            name, tool = next(iter(tools.items()))
            yield name, _example(tool, body["messages"])


def named(asked: str, tools: Mapping[str, Json]) -> str:
    """The tool of this name, or the only one whose name ends with it. Raises Unscripted."""
    found = [name for name in tools if name == asked] or [name for name in tools if name.endswith(asked)]
    if len(found) != 1:
        raise Unscripted(f"The script calls '{asked}', and the tools are {sorted(tools)}.")
    return found[0]


def _example(tool: Json, messages: list[Json]) -> Any:
    """Arguments that the tool's schema allows, with the user's first quoted words as its texts."""
    made = example_of(tool.get("parameters") or {})
    quoted = _QUOTES.findall(text_of(messages[-1]))
    if quoted and isinstance(made, dict):
        return {name: quoted[0] if isinstance(value, str) else value for name, value in made.items()}
    return made


def text_of(message: Json) -> str:
    """A message's content as one text."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text") or "" for part in content)


def check(body: Json, *, system_first: bool = False) -> None:
    """Hold a chat to the rules that the strictest servers and templates have. Raises Unscripted."""
    names = [tool[tool["type"]]["name"] for tool in body.get("tools") or ()]
    for name in names:
        if not _LEGAL.fullmatch(name) or names.count(name) > 1:
            raise Unscripted(f"Invalid 'tools': the name '{name}' is not legal, or not unique.")
    for tool in body.get("tools") or ():
        if (tool.get("function") or {}).get("parameters", {"type": "object"}).get("type") != "object":
            raise Unscripted(f"Invalid schema for function '{tool['function']['name']}': not of type object.")
    roles = [message["role"] for message in body["messages"]]
    if system_first and {"system", "developer"} & {*roles[1:]}:
        raise Unscripted("System message must be at the beginning.")
    _check_pairs(body["messages"])


def _check_pairs(messages: list[Json]) -> None:
    """Every call is answered once, right after it."""
    waiting: set[str] = set()
    for message in [*messages, {"role": "end"}]:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                raise Unscripted("Messages with role 'tool' must be a response to a preceding 'tool_calls'.")
            waiting.remove(message["tool_call_id"])
        elif waiting:
            raise Unscripted(f"These tool_call_ids have no response messages: {', '.join(sorted(waiting))}.")
        for call in message.get("tool_calls") or ():
            waiting.add(call["id"])
            if call["type"] == "function":
                _parsed(call["function"]["arguments"])


def _parsed(arguments: str) -> None:
    try:
        json.loads(arguments)
    except ValueError:
        raise Unscripted(f"A call in the messages has arguments that are not JSON: {arguments[:200]}") from None


def _held_to_schema(arguments: Any, tool: Json) -> None:
    try:
        jsonschema.validate(arguments, tool.get("parameters") or {})
    except jsonschema.ValidationError as wrong:
        raise Unscripted(f"The script's arguments do not fit '{tool['name']}': {wrong.message}") from None


def _directives(text: str) -> Iterator[tuple[str | None, Any]]:
    """The directives of a text: the tool's name and its arguments, or None and a text."""
    for found in _DIRECTIVE.finditer(text):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, found.end())
        except ValueError:
            continue
        yield found["tool"], value


async def _serve(port: int) -> None:
    server = Scripted()
    await server.start(port)
    print(f"serving {server.models[0]} at {server.base_url}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
