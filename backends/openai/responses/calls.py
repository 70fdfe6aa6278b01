"""One chat over the Responses API: the request, its stream of events, and the chunks of it.

A caller of the Responses API is passed through: its own body goes out, and its chunks carry the server's events.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from backends.base import Upstream
from backends.http import HttpClient, UpstreamResponse
from backends.http.errors import read_error
from backends.openai.asked import AskedCall
from backends.openai.responses.errors import naming
from backends.openai.responses.native import native_request
from backends.openai.responses.request import translate
from backends.openai.responses.stream import ResponseReader
from backends.parameters import ParameterTable
from backends.plain import asks_plainly
from backends.streams.native import carry
from backends.translation import TranslatedRequest
from backends.wire.chat import ChatRequest, Original
from backends.workers.engines.common.detokenization import StopFilter
from catalog.errors import UpstreamProtocolError
from catalog.types import Json

PATH = "/responses"


def request_for(
    request: ChatRequest, original: Original | None, upstream: Upstream, chats: ParameterTable
) -> TranslatedRequest:
    """The body of this chat: the caller's own if it is in the same language, else a translation.

    Raises InvalidRequest or a subclass for a request that cannot be sent.
    """
    return translate(request, upstream, chats) if original is None else native_request(original, upstream)


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

    Stop sequences, which no response has, end the text here. Raises StreamBroken for an answer without an end.
    """
    answer = ResponseReader(upstream, created=int(time.time()), chat=original is None)
    call = AskedCall(
        http,
        upstream,
        path,
        dict(made.body),
        plain=asks_plainly(request, upstream),
        key_header=key_header,
        errors=naming(read_error, chat=original is None),
        counts_itself=True,
    )
    stops = () if original is not None or "stop" in made.dropped else request.stop or ()
    async with call as response, aclosing(_events(response, answer)) as events:
        if stops:
            async with aclosing(_stopped(events, answer, stops)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        async for event in events:
            read = answer.feed(event)
            for chunk in read if original is None else carry(read, event):
                yield chunk
    answer.close()


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
    events: AsyncIterator[Json], answer: ResponseReader, stops: list[str] | tuple[str, ...]
) -> AsyncGenerator[Json]:
    """The chunks up to a stop sequence in the text. Leaving the stream ends the decoding, and loses the usage."""
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
                return
    answer.close()
