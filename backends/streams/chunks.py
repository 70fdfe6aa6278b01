"""Writes the chunks of a chat answer in OpenAI's shape, for providers that stream another one.

Some fields go beyond OpenAI's, under names that clients already read:

``reasoning_content``
    the text of the model's reasoning, named as by DeepSeek, vLLM and llama.cpp; deltas are concatenated;
``thinking_blocks``
    Anthropic's thinking blocks with their signatures, each complete, named as by LiteLLM; lists are concatenated.
    Tool use goes on if a client sends the assistant's message back unchanged;
``extra_content.google.thought_signature``
    Gemini's signature, on a tool call or on the message, named as by Google's own OpenAI endpoint;
``images``
    pictures that the model made, as parts ``{"type": "image_url", "image_url": {"url": "data:..."}}``, named as by
    OpenRouter; each is complete, lists are concatenated;
``server_tool_calls``
    calls of tools that the provider ran itself, each complete with its result, in the shape of the Responses API's
    output items (``web_search_call``, ``code_interpreter_call``...); ``extra_content`` has the provider's own;
``index``
    on an entry of one of these lists: its place in the list, from the list's second delta on. OpenAI's SDKs join
    lists by it, and take the first delta as it is;
``stop_reason``
    beside a choice's finish_reason: the stop sequence that ended the text, named as by vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from backends.streams.shapes import LISTS, WrongShape, regular_delta
from catalog.types import Json

NO_COUNTS: Mapping[str, int] = MappingProxyType({})


@dataclass(slots=True)
class ChunkWriter:
    """Writes ``chat.completion.chunk`` objects of one answer; ``created`` is in Unix seconds.

    ``service_tier`` is OpenAI's name of the tier that serves the request.
    """

    id: str
    model: str
    created: int
    service_tier: str | None = None
    _written: dict[tuple[int, str], int] = field(default_factory=dict)
    """Entries so far, by the choice and the name of the list."""

    def delta(self, delta: Json, *, index: int = 0, finish_reason: str | None = None) -> Json:
        """A chunk with one choice. Raises WrongShape when a part of the delta has another type than OpenAI's."""
        regular_delta(delta)
        if type(index) is not int:
            raise WrongShape("index", index, "a position")
        if not LISTS.isdisjoint(delta):
            delta = self._numbered(delta, index)
        choice: Json = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk([choice])

    def _numbered(self, delta: Json, choice: int) -> Json:
        numbered = dict(delta)
        for name in LISTS.intersection(delta):
            entries = delta[name] or []
            before = self._written.get((choice, name), 0)
            self._written[choice, name] = before + len(entries)
            if before:
                numbered[name] = [{**entry, "index": at} for at, entry in enumerate(entries, before)]
        return numbered

    def text(self, text: str, *, index: int = 0) -> Json:
        return self.delta({"content": text}, index=index)

    def tool_start(self, position: int, call_id: str, name: str, *, index: int = 0, **extra: Any) -> Json:
        """The first delta of a tool call; ``position`` counts the calls of this answer from 0."""
        call = {"index": position, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
        return self.delta({"tool_calls": [{**call, **extra}]}, index=index)

    def tool_arguments(self, position: int, arguments: str, *, index: int = 0) -> Json:
        return self.delta({"tool_calls": [{"index": position, "function": {"arguments": arguments}}]}, index=index)

    def usage(self, usage: Json) -> Json:
        """The last chunk: no choices, only usage."""
        return {**self._chunk([]), "usage": usage}

    def _chunk(self, choices: list[Json]) -> Json:
        chunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        return chunk if self.service_tier is None else {**chunk, "service_tier": self.service_tier}


def unnumbered(entry: Json) -> Json:
    """An entry of a delta's list without its place in the list."""
    return {name: value for name, value in entry.items() if name != "index"} if "index" in entry else entry


def added(*counts: Any) -> int:
    """The sum of a provider's counts; -1, which is not believed, when one of them is not a count."""
    return sum(counts) if all(type(count) is int for count in counts) else -1


def usage(
    *,
    prompt: int,
    completion: int,
    cached: int = 0,
    cache_write: int = 0,
    reasoning: int = 0,
    read: Mapping[str, int] = NO_COUNTS,
    written: Mapping[str, int] = NO_COUNTS,
    more: Mapping[str, Any] = NO_COUNTS,
) -> Json:
    """OpenAI's usage object. ``prompt`` includes cached and cache-written tokens, ``completion`` reasoning.

    ``read`` and ``written`` are tokens of the prompt and the answer by kind (``audio_tokens``, ``image_tokens``).
    ``more`` goes beyond OpenAI's, in Anthropic's words: ``cache_creation`` by time to live, ``server_tool_use``.
    """
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": cache_write, **read},
        "completion_tokens_details": {"reasoning_tokens": reasoning, **written},
        **more,
    }


def counts(given: Any) -> Json:
    """The whole numbers of a provider's object of counts."""
    if type(given) is not dict:
        return {}
    return {name: count for name, count in given.items() if type(count) is int and count >= 0}
