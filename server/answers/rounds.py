"""Answers in rounds: the server runs tools that a chat model calls, and the model goes on from their results.

Each round is a job of its own, and so is what a tool asks of other models: the caller's limits, the spend and the
trace hold for all of them. One job is open at a time, so that the models may share a device.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import orjson

from backends.headers import header_list
from backends.notices import DROPPED
from backends.streams.assemble import ChatAssembler
from backends.streams.native import NativeChunk
from backends.wire.chat import Message, TranslatedChat
from catalog.errors import RoundhouseError
from catalog.types import Json
from routing.calling.answer import TIMINGS, Answer
from routing.calling.job import Job
from server.answers.wrapping import Wrapping
from server.callers import Caller, Origin
from server.jobs import Opens, chat_job, open_job
from server.runtime import Runtime

MOST_ROUNDS = 8
"""Rounds of one answer; in the last one the model may call no tool."""
STEPS = "item_steps"
"""The name in a delta of the steps of a tool, for the answer's translation."""
_CALLED = frozenset({"tool_calls", "stop"})
_HEAD = ("id", "object", "created", "model", "service_tier")
_REASONING = frozenset({"reasoning_content", "thinking_blocks"})
_SENT_BACK = _REASONING | {"content", "tool_calls", "extra_content", "server_tool_calls"}


@dataclass(slots=True)
class ServerCall:
    """One call of a tool that the server runs.

    ``id`` is the chat's, ``number`` counts such calls of the answer from 0, ``arguments`` is JSON, and ``result``
    the text that the model reads. A call beyond the caller's limit is not ``counted``, and not run. ``spent`` are
    the dollars of the request when the call has been run, and ``dropped`` names the tool's parameters that the
    model which it asked did not take.
    """

    id: str
    name: str
    number: int
    counted: bool = True
    arguments: str = ""
    result: str = ""
    spent: float | None = None
    dropped: tuple[str, ...] = ()


class ServerTool(Protocol):
    """A tool that the server runs. Its steps are told to the answer's translation."""

    def begin(self, call: ServerCall) -> Any:
        """The step of a call that the model begins."""
        ...

    def run(self, call: ServerCall, job: Job[Json]) -> AsyncGenerator[Any]:
        """Run a whole call of ``job``'s answer: yields its steps, and sets its result and what was spent.

        An error of the tool is its result.
        """
        ...

    def abandon(self, call: ServerCall) -> Any:
        """The last step of a call that was begun and is not run."""
        ...


class Rounds(Wrapping):
    """Opens a chat's job, whose answer goes on after calls of ``tools``, which are named as in the chat.

    A round that also calls tools of the client is the last one: the client brings their results. ``most_calls``
    is the caller's limit of calls that are run; ``opens`` opens each round. Entering raises what that raises.
    """

    def __init__(
        self,
        runtime: Runtime,
        job: Job[Json],
        caller: Caller,
        *,
        origin: Origin,
        tools: Mapping[str, ServerTool],
        most_calls: int | None = None,
        opens: Opens[Json] = open_job,
    ) -> None:
        self.job = job
        self.tools = tools
        self.most_calls = most_calls
        self._runtime = runtime
        self._caller = caller
        self._origin = origin
        self._opens = opens

    async def __aenter__(self) -> Answer[Json]:
        self._answer = answer = RoundsAnswer(self, await self._open())
        return answer

    async def close(self, answer: Answer[Json]) -> None:
        """End the round that is open, which gave this answer."""
        await self._end_job()
        self.count(answer.spent)

    def count(self, spent: float | None) -> None:
        """Let limits on cost count what the request has cost so far, in dollars."""
        if spent is not None:
            self.job = replace(self.job, spent=spent)

    async def go_on(self, turn: _Round, answered_by: str, *, most: int | None, free: bool) -> Answer[Json]:
        """Ask the same model again, after its calls and their results. Raises as opening a job.

        ``most`` bounds the tokens of the answer, and ``free`` tells whether it may call tools.
        """
        chat = self.job.request
        assert isinstance(chat, TranslatedChat)
        messages = turn.messages()
        makers = {0: answered_by} if not messages[0].keys().isdisjoint(_REASONING) else {}
        changes: Json = {"model": answered_by, "tool_choice": "auto" if free else "none"}
        if most is not None:
            changes["max_completion_tokens"] = most
        further = chat.followed_by([Message.model_validate(each) for each in messages], makers, changes)
        made = chat_job(further, self._origin)
        facts = replace(made.facts, intent=self.job.facts.intent)
        before = self.job
        self.job = replace(
            made, facts=facts, kept=before.kept, left_out=before.left_out, further=True, spent=before.spent
        )
        return await self._open()

    async def _open(self) -> Answer[Json]:
        opening = self._opens(self._runtime, self.job, self._caller)
        answer = await opening.__aenter__()
        self._opening = opening
        return answer


class RoundsAnswer(Answer[Json]):
    """The answer of all rounds: the chunks of each, the steps of the tools, then one end with the whole usage."""

    def __init__(self, rounds: Rounds, first: Answer[Json]) -> None:
        self._rounds = rounds
        self._current = first
        self._number = 1
        self._earlier_attempts = 0
        self._of_tools: tuple[str, ...] = ()
        self._items: AsyncGenerator[Json] | None = None
        self.trace, self.model = first.trace, first.model

    @property
    def spent(self) -> float:
        return self._current.spent

    @property
    def dropped(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._current.dropped, *self._of_tools)))

    def headers(self) -> dict[str, str]:
        headers = self._current.headers()
        attempts = self._earlier_attempts + int(headers["x-roundhouse-attempts"])
        if self._of_tools:
            headers[DROPPED] = header_list(self.dropped)
        return {**headers, "x-roundhouse-attempts": str(attempts)}

    async def resume(self, error: RoundhouseError) -> None:
        """As :meth:`Answer.resume`, in the first round alone: a tool is not run twice."""
        if self._number > 1:
            raise error
        await self._current.resume(error)
        self.model = self._current.model

    async def aclose(self) -> None:
        """Close what the answer has open, but for the round's own job."""
        if self._items is not None:
            await self._items.aclose()

    def __aiter__(self) -> AsyncIterator[Json]:
        self._items = self._run()
        return self._items

    async def _run(self) -> AsyncGenerator[Json]:
        usage: Json | None = None
        calls = 0
        limit = getattr(self._rounds.job.request, "output_limit", None)
        while True:
            turn = _Round(self._rounds.tools, calls, self._rounds.most_calls)
            async with aclosing(self._said(turn)) as said:
                async for chunk in said:
                    yield chunk
            if turn.native:
                return
            usage, calls = added(usage, turn.usage), calls + len(turn.calls)
            if not turn.calls or turn.finish not in _CALLED or self._number == MOST_ROUNDS:
                break
            self._earlier_attempts += int(self._current.headers()["x-roundhouse-attempts"])
            await self._rounds.close(self._current)
            async with aclosing(self._results(turn)) as results:
                async for chunk in results:
                    yield chunk
            left = None if limit is None else limit - ((usage or {}).get("completion_tokens") or 0)
            if turn.others or (left is not None and left < 1):
                yield turn.end(usage, None if turn.others else "length")
                return
            self._number += 1
            free = self._number < MOST_ROUNDS and (turn.all_counted or self._has_others())
            self._current = await self._rounds.go_on(turn, self.model.id, most=left, free=free)
        for call in turn.calls.values():
            if call.counted and turn.finish is not None:
                yield turn.told(self._rounds.tools[call.name].abandon(call))
        yield turn.end(usage)

    async def _said(self, turn: _Round) -> AsyncGenerator[Json]:
        """The chunks of a round for the client."""
        items = self._current.__aiter__()
        try:
            async for chunk in items:
                if isinstance(chunk, NativeChunk):
                    turn.native = True
                    yield chunk
                elif (told := turn.take(chunk)) is not None:
                    yield told
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    async def _results(self, turn: _Round) -> AsyncGenerator[Json]:
        """Run a round's calls, one after another; the chunks have their steps."""
        for call in turn.calls.values():
            if not call.counted:
                call.result = "Not run: the user's limit of tool calls is reached. Answer without this tool."
                continue
            async with aclosing(self._rounds.tools[call.name].run(call, self._rounds.job)) as steps:
                async for step in steps:
                    yield turn.told(step)
            self._rounds.count(call.spent)
            self._of_tools += call.dropped

    def _has_others(self) -> bool:
        chat = self._rounds.job.request
        assert isinstance(chat, TranslatedChat)
        names = {tool.function.name if tool.function else None for tool in chat.tools or ()}
        return not names <= self._rounds.tools.keys()


@dataclass(slots=True)
class _Round:
    """One round of the model, of which ``calls`` are those of the server's tools, by their index.

    ``earlier`` is the number of such calls before it; ``others`` tells of calls that the client runs.
    """

    tools: Mapping[str, ServerTool]
    earlier: int
    most: int | None
    calls: dict[int, ServerCall] = field(default_factory=dict)
    others: bool = False
    native: bool = False
    finish: str | None = None
    usage: Json | None = None
    _head: Json = field(default_factory=dict)
    _whole: ChatAssembler = field(default_factory=ChatAssembler)

    def take(self, chunk: Json) -> Json | None:
        """The chunk without calls of the server's tools, its finish reason and usage, which the end has."""
        self._whole.add(chunk)
        self.usage = chunk.get("usage") or self.usage
        self._head |= {name: chunk[name] for name in _HEAD if name in chunk}
        told = []
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            self.finish = choice.get("finish_reason") or self.finish
            delta = choice.get("delta") or {}
            if delta.get("tool_calls"):
                delta = self._split(delta)
            if delta:
                told.append({**choice, "delta": delta, "finish_reason": None})
        return {**self._head, "choices": told} if told else None

    @property
    def all_counted(self) -> bool:
        """Whether no call is beyond the caller's limit."""
        return all(call.counted for call in self.calls.values())

    def told(self, step: Any) -> Json:
        """A chunk with a step of a tool."""
        choice = {"index": 0, "delta": {STEPS: [step]}, "finish_reason": None}
        return {**self._head, "choices": [choice]}

    def end(self, usage: Json | None, reason: str | None = None) -> Json:
        """The last chunk of the answer. Calls of the server's tools alone leave nothing to do for the client."""
        finish = reason or self.finish
        if finish == "tool_calls" and not self.others:
            finish = "stop"
        choice = {"index": 0, "delta": {}, "finish_reason": finish}
        return {**self._head, "choices": [choice], "usage": usage}

    def messages(self) -> list[Json]:
        """The assistant's message and the results of its calls, for the next round."""
        said = self._whole.result()["choices"][0]["message"]
        message: Json = {name: value for name, value in said.items() if name in _SENT_BACK and value}
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": call.result} for call in self.calls.values()
        ]
        for position, call in zip(sorted(self.calls), message["tool_calls"], strict=True):
            call["id"] = self.calls[position].id
            if not _is_object(call["function"]["arguments"]):
                call["function"]["arguments"] = "{}"  # providers refuse others; the result says what is wrong
        return [{"content": None, **message, "role": "assistant"}, *results]

    def _split(self, delta: Json) -> Json:
        others, steps = [], []
        for given in delta["tool_calls"]:
            position, function = given.get("index", 0), given.get("function") or {}
            call = self.calls.get(position)
            name = str(function.get("name"))
            if call is None and name in self.tools:
                number = self.earlier + len(self.calls)
                counted = self.most is None or number < self.most
                call = ServerCall(given.get("id") or f"call_{number}", name, number, counted)
                self.calls[position] = call
                if counted:
                    steps.append(self.tools[name].begin(call))
            if call is None:
                self.others = True
                others.append(given)
            else:
                call.arguments += function.get("arguments") or ""
        rest = {name: value for name, value in delta.items() if name != "tool_calls"}
        return {**rest, **({"tool_calls": others} if others else {}), **({STEPS: steps} if steps else {})}


def added(total: Json | None, usage: Json | None) -> Json | None:
    """The sum of two usage objects; of what is no count, and of times, the newest."""
    if total is None or usage is None:
        return usage or total
    made = {**total, **usage}
    for name in total.keys() & usage.keys() - {TIMINGS}:
        before, now = total[name], usage[name]
        if isinstance(before, dict) and isinstance(now, dict):
            made[name] = added(before, now)
        elif isinstance(before, int | float) and isinstance(now, int | float):
            made[name] = before + now
    return made


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except ValueError:
        return False
