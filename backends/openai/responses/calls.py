"""One chat over the Responses API: the request, its stream of events, and the chunks of it.

A caller of the Responses API is passed through: its own body goes out, and its chunks carry the server's events.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing

from backends.base import Upstream
from backends.http import HttpClient, UpstreamResponse
from backends.http.errors import read_error
from backends.notices import DROPPED, note
from backends.openai.asked import AskedCall
from backends.openai.responses.errors import naming
from backends.openai.responses.native import native_request, stamp_reasoning
from backends.openai.responses.request import counted_body, translate
from backends.openai.responses.stream import ResponseReader
from backends.parameters import ParameterTable
from backends.plain import asks_plainly
from backends.streams.native import carry
from backends.translation import TranslatedRequest, reading
from backends.wire.chat import ChatRequest, Original
from backends.workers.engines.common.detokenization import StopFilter
from catalog.errors import InvalidRequest, RoundhouseError, UpstreamProtocolError
from catalog.types import Json

PATH = "/responses"
COUNT_PATH = "/responses/input_tokens"
UNREADABLE = "invalid_encrypted_content"
"""OpenAI's code for reasoning that it cannot decrypt."""
_AFTER_END = 0.05
"""Seconds in which a stream may end after its last event, so that its connection can be used again."""
_FOR_USAGE = 1.0
"""Seconds for which an answer is read on after a stop sequence: every further token is paid for."""


def request_for(
    request: ChatRequest, original: Original | None, upstream: Upstream, chats: ParameterTable
) -> TranslatedRequest:
    """The body of this chat: the caller's own if it is in the same language, else a translation.

    Raises InvalidRequest or a subclass for a request that cannot be sent.
    """
    return translate(request, upstream, chats) if original is None else native_request(original, upstream)


async def count(
    http: HttpClient, upstream: Upstream, made: TranslatedRequest, *, path: str, key_header: str
) -> Json:
    """The prompt tokens of a body by the server's own count; see :class:`backends.base.Count`."""
    answer = await http.post_json(upstream, path, counted_body(made.body), key_header=key_header)
    with reading(f"The endpoint '{upstream.endpoint}'"):
        return {"input_tokens": int(answer["input_tokens"])}


async def respond(
    http: HttpClient,
    upstream: Upstream,
    request: ChatRequest,
    original: Original | None,
    made: TranslatedRequest,
    *,
    path: str,
    key_header: str,
) -> AsyncGenerator[Json]:
    """The chunks of the answer to ``made``; see :class:`backends.base.Chat`.

    Stop sequences, which no response has, end the text here. Reasoning that the server cannot decrypt, made under
    another organisation's key or by another server, is left out and noted (:mod:`backends.notices`). Raises
    StreamBroken for an answer without an end.
    """
    answer = ResponseReader(upstream, created=int(time.time()), chat=original is None)
    body = dict(made.body)

    def ask() -> AskedCall:
        return AskedCall(
            http,
            upstream,
            path,
            body,
            plain=asks_plainly(request, upstream),
            key_header=key_header,
            errors=naming(read_error, body, chat=original is None),
            counts_itself=True,
        )

    stops = request.stop if original is None else None
    async with AsyncExitStack() as held:
        try:
            response = await held.enter_async_context(ask())
        except InvalidRequest as refusal:
            if refusal.code != UNREADABLE or not _drop_reasoning(body):
                raise
            note({DROPPED: "messages.thinking_blocks" if original is None else "input.reasoning"})
            response = await held.enter_async_context(ask())
        events = await held.enter_async_context(aclosing(_events(response, answer)))
        if stops:
            async with aclosing(_stopped(events, answer, stops)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        async for event in events:
            read = answer.feed(event)
            for chunk in read if original is None else _carried(read, event, upstream):
                yield chunk
            if answer.finished:
                await response.drain(_AFTER_END)
                break
    answer.close()


def _carried(read: Iterator[Json], event: Json, upstream: Upstream) -> Iterator[Json]:
    chunks = list(read)
    return carry(chunks, stamp_reasoning(event, upstream))


def _drop_reasoning(body: Json) -> bool:
    """Remove the reasoning items; False if there are none."""
    given = body["input"]
    kept = [item for item in given if item.get("type") != "reasoning"] if isinstance(given, list) else given
    body["input"] = kept
    return len(kept) < len(given)


async def _events(response: UpstreamResponse, answer: ResponseReader) -> AsyncGenerator[Json]:
    """The events of a stream, or those that a plain answer would have had."""
    if response.media_type == "application/json":
        for event in answer.whole(_document(await response.json(), answer.upstream)):
            yield event
        return
    async with aclosing(response.event_batches()) as batches:
        async for events in batches:
            for sent in events:
                if sent.done:
                    return
                yield _document(sent.json(), answer.upstream)


def _document(document: object, upstream: Upstream) -> Json:
    if not isinstance(document, dict):
        raise UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' sent something other than a JSON object.")
    return document


async def _stopped(
    events: AsyncIterator[Json], answer: ResponseReader, stops: Sequence[str]
) -> AsyncGenerator[Json]:
    """The chunks up to a stop sequence in the text, then the usage if the answer ends soon after.

    Leaving the stream ends the decoding, and loses the usage, which is then noted as dropped.
    """
    text = StopFilter(stops)
    async for event in events:
        for chunk in answer.feed(event):
            for choice in chunk["choices"]:
                delta = choice["delta"]
                if delta.get("content"):
                    delta["content"] = text.feed(delta["content"])
                if text.found:
                    choice |= {"finish_reason": "stop", "stop_reason": text.sequence}
                elif (choice["finish_reason"] or delta.get("tool_calls")) and (rest := text.end()):
                    delta["content"] = (delta.get("content") or "") + rest
            yield chunk
        if text.found:
            usage = await _usage_of(events, answer)
            if usage is None:
                note({DROPPED: "usage"})
            else:
                yield usage
            return
    answer.close()


async def _usage_of(events: AsyncIterator[Json], answer: ResponseReader) -> Json | None:
    """The chunk with the usage of an answer, if its end comes within :data:`_FOR_USAGE`."""
    with contextlib.suppress(TimeoutError, RoundhouseError):
        async with asyncio.timeout(_FOR_USAGE):
            async for event in events:
                for chunk in answer.feed(event):
                    if chunk.get("usage") is not None:
                        return chunk
    return None
