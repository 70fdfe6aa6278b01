"""Adapts chats of llama-server to OpenAI's API: ``n`` choices, tool calls with any template, regular chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from backends.local.logprobs import chat_logprobs
from backends.local.tool_schema import ToolPlan, new_call_id, plain_messages
from backends.streams.chunks import added
from catalog.types import Json

AT_ONCE = 4
"""The most choices of one request that are decoded at a time."""


@dataclass(slots=True)
class UsageSum:
    """Sums the usage of several calls; each prompt, by its number, counts once."""

    completion: int = 0
    prompts: dict[int, Json] = field(default_factory=dict)

    def add(self, usage: Json, prompt: int = 0) -> None:
        self.completion = added(self.completion, usage.get("completion_tokens", 0))
        self.prompts.setdefault(prompt, usage)

    def total(self) -> Json:
        details = [usage.get("prompt_tokens_details") for usage in self.prompts.values()]
        prompt = added(*(usage.get("prompt_tokens", 0) for usage in self.prompts.values()))
        cached = added(*(one.get("cached_tokens", 0) for one in details if isinstance(one, dict)))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.completion,
            "total_tokens": prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def choice_bodies(body: Json) -> list[Json]:
    """A body for each of ``n`` choices; with a seed, choice ``i`` has ``seed + i``."""
    single = {name: value for name, value in body.items() if name not in ("n", "best_of")}
    seed = body.get("seed")
    count = body.get("n") or 1
    return [single if seed is None else {**single, "seed": (seed + index) % 2**32} for index in range(count)]


def regular(chunk: Json, index: int) -> Json:
    """A chunk of llama-server in OpenAI's shape, for the choice ``index``."""
    chunk.pop("timings", None)
    for choice in chunk.get("choices") or ():
        choice["index"] = index
        delta = choice.setdefault("delta", {})
        if "role" in delta and delta.get("content") is None:
            delta["content"] = ""
        # vLLM sends the logprob of the end token, which is not part of the text.
        ended = choice.get("finish_reason") == "stop" and not delta.get("content")
        choice["logprobs"] = None if ended else chat_logprobs(choice.get("logprobs"))
    return chunk


def bind(body: Json, plan: ToolPlan) -> Json:
    """The body for a model whose template does not take tools, with the plan's schema for the answer."""
    bound = {name: value for name, value in body.items() if name not in _TOOL_FIELDS}
    bound["messages"] = plain_messages(body["messages"], plan.instructions())
    schema = {"name": "tool_call", "schema": plan.schema(), "strict": True}
    bound["response_format"] = {"type": "json_schema", "json_schema": schema}
    return bound


_TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})


async def as_tool_calls(chunks: AsyncGenerator[Json], plan: ToolPlan) -> AsyncGenerator[Json]:
    """Turns chunks of JSON text in a plan's schema into chunks of tool calls (or of content).

    The arguments of a named tool pass on at once; any other answer is parsed when it is complete, since only its
    end shows whether it is one call, several, or none. Closing this generator closes ``chunks``.
    """
    named = plan.named
    async with aclosing(chunks):
        async for chunk in _of_any_tool(chunks, plan) if named is None else _of_a_named_tool(chunks, named.name):
            yield chunk


async def _of_a_named_tool(chunks: AsyncGenerator[Json], name: str) -> AsyncGenerator[Json]:
    async for chunk in chunks:
        yield _on_choice(chunk, _arguments_of(name))


async def _of_any_tool(chunks: AsyncGenerator[Json], plan: ToolPlan) -> AsyncGenerator[Json]:
    pieces: list[str] = []
    async for chunk in chunks:
        choice = (chunk.get("choices") or [None])[0]
        if choice is None:
            yield chunk
            continue
        delta = choice["delta"]
        pieces.append(delta.pop("content", None) or "")
        choice["logprobs"] = None
        if choice["finish_reason"] == "stop":
            content, calls = plan.read("".join(pieces))
            delta.update({"content": content} if not calls else {"tool_calls": _whole_calls(calls)})
            yield {**chunk, "choices": [{**choice, "finish_reason": None}]}
            choice = {**choice, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"}
            yield {**chunk, "choices": [choice]}
        elif choice["finish_reason"]:  # cut by length: the incomplete call is passed on as text
            yield {**chunk, "choices": [{**choice, "delta": {"content": "".join(pieces)}, "finish_reason": None}]}
            yield {**chunk, "choices": [{**choice, "delta": {}}]}
        elif delta:
            yield chunk


def _whole_calls(calls: list[tuple[str, str]]) -> list[Json]:
    return [
        {
            "index": position,
            "id": new_call_id(),
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for position, (name, arguments) in enumerate(calls)
    ]


def _on_choice(chunk: Json, change: Callable[[Json], None]) -> Json:
    for choice in chunk.get("choices") or ():
        change(choice)
    return chunk


def _arguments_of(name: str) -> Callable[[Json], None]:
    """A function that turns a choice's text into arguments of a call of ``name``; the first has the call's id."""

    def change(choice: Json) -> None:
        delta: dict[str, Any] = choice["delta"]
        text = delta.pop("content", None)
        choice["logprobs"] = None
        if "role" in delta:
            start = {"name": name, "arguments": text or ""}
            delta["content"] = None
            delta["tool_calls"] = [{"index": 0, "id": new_call_id(), "type": "function", "function": start}]
        elif text:
            delta["tool_calls"] = [{"index": 0, "function": {"arguments": text}}]
        if choice["finish_reason"] == "stop":
            choice["finish_reason"] = "tool_calls"

    return change
