"""Adapts chats of llama-server to OpenAI's API: ``n`` choices, tools in messages, regular chunks."""

from __future__ import annotations

from dataclasses import dataclass, field

from backends.local.logprobs import chat_logprobs
from backends.local.tool_schema import ToolPlan, plain_messages
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


def regular(chunk: Json, index: int, top: int = 0) -> Json:
    """A chunk of llama-server in OpenAI's shape, for the choice ``index``, with ``top`` alternatives a token."""
    chunk.pop("timings", None)
    chunk.pop("usage", None)
    for choice in chunk.get("choices") or ():
        choice["index"] = index
        delta = choice.setdefault("delta", {})
        if "role" in delta and delta.get("content") is None:
            delta["content"] = ""
        # vLLM sends the logprob of the end token, which is not part of the text.
        ended = choice.get("finish_reason") == "stop" and not delta.get("content")
        choice["logprobs"] = None if ended else chat_logprobs(choice.get("logprobs"), top)
    return chunk


def bind(body: Json, plan: ToolPlan) -> Json:
    """The body for a model whose template does not take tools, without the form of the answer."""
    bound = {name: value for name, value in body.items() if name not in _TOOL_FIELDS}
    bound["messages"] = plain_messages(body["messages"], plan.instructions(), plan.inputs)
    return bound


_TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
