"""Turns the text of an answer that a :class:`ToolPlan` binds into chunks of tool calls or of content."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from backends.adapting.custom import INPUT
from backends.constraints.checker import Checker
from backends.local.tool_schema import CONTENT, CUSTOM, ToolPlan, new_call_id
from backends.wire.chat import FunctionDefinition
from catalog.errors import AnswerInvalid
from catalog.types import Json

_CALLS = re.compile(r'\s*\{\s*"tool_calls"\s*:\s*\[\s*')
_BETWEEN = re.compile(r"\s*,\s*")
_END = re.compile(r"\s*\]\s*\}\s*")
_DECODER = json.JSONDecoder()


async def as_tool_calls(
    chunks: AsyncGenerator[Json], plan: ToolPlan, checker: Checker, *, as_schema: bool = False
) -> AsyncGenerator[Json]:
    """Turns chunks of text in a plan's form into chunks of tool calls, or of content.

    Content and the arguments of a named tool pass on as they come; other calls are given whole at the end, those
    before a cut too. ``as_schema``: text is a JSON string, as :meth:`ToolPlan.schema` asks. Closing this generator
    closes ``chunks``. Raises AnswerInvalid for a finished answer that does not fit.
    """
    async with aclosing(chunks):
        if plan.named is not None and plan.named.name in plan.inputs:
            async for chunk in _of_a_named_input(chunks, plan.named.name, plan.inputs[plan.named.name], checker):
                yield chunk
        elif plan.named is not None:
            async for chunk in _of_a_named_tool(chunks, plan.named, checker):
                yield chunk
        else:
            async for chunk in _of_any_tool(chunks, plan, checker, as_schema=as_schema):
                yield chunk


async def _of_a_named_tool(
    chunks: AsyncGenerator[Json], tool: FunctionDefinition, checker: Checker
) -> AsyncGenerator[Json]:
    pieces: list[str] = []
    async for chunk in chunks:
        for choice in chunk.get("choices") or ():
            delta: Json = choice["delta"]
            text = delta.pop("content", None)
            pieces.append(text or "")
            choice["logprobs"] = None
            if "role" in delta:
                start = {"name": tool.name, "arguments": text or ""}
                delta["content"] = None
                delta["tool_calls"] = [{"index": 0, "id": new_call_id(), "type": "function", "function": start}]
            elif text:
                delta["tool_calls"] = [{"index": 0, "function": {"arguments": text}}]
            if choice["finish_reason"] == "stop":
                await check_call(tool, "".join(pieces), checker)
                choice["finish_reason"] = "tool_calls"
        yield chunk


async def _of_a_named_input(
    chunks: AsyncGenerator[Json], name: str, grammar: str, checker: Checker
) -> AsyncGenerator[Json]:
    """The call comes whole, because its arguments are known at the end."""
    pieces: list[str] = []
    async for chunk in chunks:
        for choice in chunk.get("choices") or ():
            delta: Json = choice["delta"]
            pieces.append(delta.pop("content", None) or "")
            choice["logprobs"] = None
            if choice["finish_reason"] is None:
                continue
            text = "".join(pieces)
            if choice["finish_reason"] == "stop":
                await checker.check_text(text, grammar)
                choice["finish_reason"] = "tool_calls"
            delta["tool_calls"] = [_custom_call(name, text)]
        yield chunk


def _custom_call(name: str, text: str) -> Json:
    arguments = json.dumps({INPUT: text}, ensure_ascii=False)
    function = {"name": name, "arguments": arguments}
    return {"index": 0, "id": new_call_id(), "type": "function", "function": function}


async def check_call(tool: FunctionDefinition, arguments: str, checker: Checker) -> None:
    """Raises AnswerInvalid for arguments that do not have the form of the tool's parameters."""
    await checker.check_json(arguments, {"type": "object"})
    if tool.parameters is not None:
        await checker.check_json(arguments, tool.parameters, sure=bool(tool.strict))


async def _of_any_tool(
    chunks: AsyncGenerator[Json], plan: ToolPlan, checker: Checker, *, as_schema: bool
) -> AsyncGenerator[Json]:
    reader = _Reader(plan, as_schema=as_schema)
    async for chunk in chunks:
        choice = (chunk.get("choices") or [None])[0]
        if choice is None:
            yield chunk
            continue
        delta, finish = choice["delta"], choice["finish_reason"]
        text = reader.take(delta.pop("content", None) or "")
        if finish is not None:
            text += reader.rest(cut=finish != "stop")
        if reader.branch != "text":
            choice["logprobs"] = None
        if text:
            delta["content"] = text
        if finish is None:
            if delta or choice["logprobs"]:
                yield chunk
            continue
        calls = reader.calls(cut=finish != "stop")
        if finish == "stop":
            await _check(plan, reader, calls, checker)
        if delta:
            yield {**chunk, "choices": [{**choice, "finish_reason": None}]}
        if calls:
            yield {**chunk, "choices": [{**choice, "delta": {"tool_calls": calls}, "finish_reason": None}]}
        ended = "tool_calls" if calls and finish == "stop" else finish
        yield {**chunk, "choices": [{**choice, "delta": {}, "finish_reason": ended}]}


async def _check(plan: ToolPlan, reader: _Reader, calls: list[Json], checker: Checker) -> None:
    by_name = {tool.name: tool for tool in plan.tools}
    for call in calls:
        tool = by_name.get(call["function"]["name"])
        if tool is None:
            raise AnswerInvalid("The model called a tool that is not among the request's.")
        if tool.name in plan.inputs:
            given = json.loads(call["function"]["arguments"])[INPUT]
            await checker.check_text(given, plan.inputs[tool.name])
        else:
            await check_call(tool, call["function"]["arguments"], checker)
    if not calls and plan.content is not None:
        await checker.check(reader.content, plan.content)


class _Reader:
    """Reads one answer as it comes. The first characters tell its ``branch``; ``content`` is its text so far."""

    def __init__(self, plan: ToolPlan, *, as_schema: bool) -> None:
        self.branch: Literal["text", "content", "calls", "custom"] | None = None
        if not plan.optional and not plan.inputs:
            self.branch = "calls"
        self.content = ""
        self._as_schema = as_schema
        self._held = ""

    def take(self, text: str) -> str:
        """The content that may pass on after this piece of text."""
        self._held += text
        if self.branch is None:
            start = self._held.lstrip()
            if start and not start.startswith("{"):
                self.branch = "text"
            elif start.startswith(CONTENT):
                self.branch, self._held = "content", start.removeprefix(CONTENT)
            elif start.startswith(CUSTOM):
                self.branch = "custom"
            elif not CONTENT.startswith(start) and not CUSTOM.startswith(start):
                self.branch = "calls"
        if self.branch == "text":
            return self._pass(len(self._held))
        if self.branch == "content" and not self._as_schema:
            return self._pass(len(self._held.rstrip().removesuffix("}")))
        return ""

    def rest(self, *, cut: bool) -> str:
        """The content that was held back until the end."""
        if self.branch is None and not self._held.strip():
            return self._pass(len(self._held))
        if self.branch != "content":
            return ""
        if not self._as_schema:
            return "" if not cut else self._pass(len(self._held))
        value = self._held.rstrip().removesuffix("}")
        try:
            decoded = json.loads(value)
        except ValueError:
            decoded = value
        self._held = decoded if isinstance(decoded, str) else value
        return self._pass(len(self._held))

    def calls(self, *, cut: bool) -> list[Json]:
        """The whole calls. Raises AnswerInvalid for an answer that has none, or something beside them, uncut."""
        if self.branch in ("text", "content"):
            return []
        if self.branch == "custom":
            head, _, given = self._held.lstrip().partition("\n")
            name = head.removeprefix(CUSTOM).removesuffix("}").strip().strip('"')
            return [_custom_call(name, given)]
        text, found = self._held, []
        start = _CALLS.match(text)
        position = start.end() if start else 0
        try:
            while start is not None:
                call, position = _DECODER.raw_decode(text, position)
                found.append((call["name"], json.dumps(call["arguments"], ensure_ascii=False)))
                between = _BETWEEN.match(text, position)
                if between is None:
                    break
                position = between.end()
        except (ValueError, KeyError, TypeError, RecursionError):
            position = -1
        whole = bool(found) and position >= 0 and _END.fullmatch(text, position) is not None
        if not whole and not cut and self._held.strip():
            raise AnswerInvalid("The model's answer is not the tool call that the request asks for.")
        return [
            {
                "index": position,
                "id": new_call_id(),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for position, (name, arguments) in enumerate(found)
        ]

    def _pass(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        self.content += text
        return text


async def checked_native(
    chunks: AsyncGenerator[Json], tools: tuple[FunctionDefinition, ...], checker: Checker, *, must: bool
) -> AsyncGenerator[Json]:
    """The chunks of a server that makes tool calls itself; calls of strict tools are checked at the end.

    Raises AnswerInvalid, also for a finished answer without a call if it ``must`` have one.
    """
    strict = {tool.name: tool for tool in tools if tool.strict}
    calls: dict[int, tuple[str, list[str]]] = {}
    async with aclosing(chunks):
        async for chunk in chunks:
            for choice in chunk.get("choices") or ():
                for call in choice["delta"].get("tool_calls") or ():
                    function = call.get("function") or {}
                    entry = calls.setdefault(call.get("index", 0), (function.get("name") or "", []))
                    entry[1].append(function.get("arguments") or "")
                if choice["finish_reason"] in ("tool_calls", "stop"):
                    if must and not calls:
                        raise AnswerInvalid("The model's answer has no tool call, and the request asks for one.")
                    for name, pieces in calls.values():
                        if name in strict:
                            await check_call(strict[name], "".join(pieces), checker)
            yield chunk
