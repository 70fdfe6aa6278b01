"""Keeps the bounds of a chat's answer that a server ignored: stop sequences, one tool call at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from backends.wire.chat import ChatRequest
from backends.workers.engines.common.detokenization import StopFilter
from catalog.types import Json


def bounded(chunks: AsyncGenerator[Json], request: ChatRequest) -> AsyncGenerator[Json]:
    """The chunks within the request's bounds; the same generator if it sets none. Closing it closes ``chunks``."""
    if request.tools and request.parallel_tool_calls is False:
        chunks = _one_call(chunks)
    # vLLM's own field asks for the sequence itself at the end of the text.
    if request.stop and not (request.model_extra or {}).get("include_stop_str_in_output"):
        chunks = _until(chunks, list(request.stop))
    return chunks


async def _one_call(chunks: AsyncGenerator[Json]) -> AsyncGenerator[Json]:
    """The chunks with the first call of each choice alone: the model makes the next when it has its result."""
    first: dict[int, int] = {}
    async with aclosing(chunks):
        async for chunk in chunks:
            for choice in chunk["choices"]:
                calls = choice["delta"].get("tool_calls")
                if not calls:
                    continue
                kept = first.setdefault(choice["index"], calls[0]["index"])
                choice["delta"]["tool_calls"] = [call for call in calls if call["index"] == kept]
                if not choice["delta"]["tool_calls"]:
                    del choice["delta"]["tool_calls"]
            yield chunk


async def _until(chunks: AsyncGenerator[Json], stops: Sequence[str]) -> AsyncGenerator[Json]:
    """The chunks with each choice's text up to a stop sequence, which its end has as ``stop_reason``.

    Text that may begin a sequence is held back. The rest is read for the usage, and left out.
    """
    texts: dict[int, StopFilter] = {}
    async with aclosing(chunks):
        async for chunk in chunks:
            choices = chunk["choices"]
            chunk["choices"] = [choice for choice in choices if _cut(choice, texts, stops)]
            if chunk["choices"] or not choices:
                yield chunk


def _cut(choice: Json, texts: dict[int, StopFilter], stops: Sequence[str]) -> bool:
    """Cut the text of a choice; False if it has ended before."""
    text = texts.get(choice["index"])
    if text is None:
        text = texts[choice["index"]] = StopFilter(stops)
    if text.found:
        return False
    delta = choice["delta"]
    if delta.get("content"):
        delta["content"] = text.feed(delta["content"])
    if text.sequence is not None:
        delta.pop("tool_calls", None)
        choice |= {"finish_reason": "stop", "stop_reason": text.sequence}
    elif (choice.get("finish_reason") or delta.get("tool_calls")) and (rest := text.end()):
        delta["content"] = (delta.get("content") or "") + rest
    return True
