"""Answers that stream: as server-sent events, or as bytes.

An error after the headers is an event ``data: {"error": {...}}`` and the end of the stream, without ``[DONE]``;
every OpenAI SDK raises on that. Source of the chunk shapes: OpenAI's API reference, "Streaming".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from functools import cache
from typing import Any, TypeVar

import orjson
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backends.streams.assemble import unplaced
from backends.streams.shapes import LISTS
from backends.wire.sampling import StreamOptions
from catalog.errors import InvalidRequest, RoundhouseError, StreamBroken
from catalog.types import Json
from routing.calling.job import Job
from server.answers.delivery import deliver
from server.answers.relay import Encoder, Relay
from server.edge.callers import caller_of
from server.edge.disconnect import Guard
from server.edge.services import runtime_of, services_of
from server.jobs import Opens, open_job

T = TypeVar("T")
S = TypeVar("S", bound=AsyncIterable[Any])
DONE = b"data: [DONE]\n\n"
WAITING = ServerSentEvent(comment="waiting for the model", sep="\n").encode()
KEEP_ALIVE = ServerSentEvent(comment="keep-alive", sep="\n").encode()


def usage_wanted(stream: bool | None, options: StreamOptions | None) -> bool:
    """Whether the stream ends with a chunk of usage. Raises InvalidRequest for stream options without a stream."""
    if options is None:
        return False
    if not stream:
        raise InvalidRequest("'stream_options' is only for 'stream: true'.", param="stream_options")
    return bool(options.include_usage)


def with_running_usage(encoder: ChunkEncoder, options: StreamOptions | None, prompt_tokens: int) -> Encoder[Json]:
    """The encoder, with the usage so far on every chunk if the caller wants it."""
    if options is None or not options.continuous_usage_stats:
        return encoder
    return RunningUsage(encoder, prompt_tokens=prompt_tokens)


def event(value: Any, name: str | None = None) -> bytes:
    """One event with a JSON value, ready to send."""
    data = b"data: " + orjson.dumps(value) + b"\n\n"
    return data if name is None else b"event: " + name.encode() + b"\n" + data


class ChunkEncoder:
    """Encodes chat and completion chunks as events.

    With ``include_usage`` every chunk has ``usage: null`` and a last one, without choices, has the figures;
    without it no chunk has ``usage``. The entries of a delta's lists leave whole, with the end of their choice:
    of a list that comes in several deltas, OpenAI's SDK for Node keeps the last one alone.
    """

    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._usage: Json | None = None
        self._last: Json | None = None
        self._finished = False
        self._lists: dict[int, Json] = {}
        self._head: Json = {}

    def encode(self, item: Json) -> bytes:
        usage = item.pop("usage", None)
        if usage is not None:
            self._usage = usage
        choices = item.get("choices")
        if not choices:
            return b""
        for choice in choices:
            ends = choice.get("finish_reason") is not None
            if ends:
                self._finished = True
            if self._lists or ("delta" in choice and not LISTS.isdisjoint(choice["delta"])):
                self._hold(item, choice, ends=ends)
        if self._include_usage:
            item["usage"] = None
            self._last = item
        return b"data: " + orjson.dumps(item) + b"\n\n"

    def _hold(self, item: Json, choice: Json, *, ends: bool) -> None:
        """Take the lists out of a delta, and put all of them into the last."""
        delta, lists = choice["delta"], self._lists.setdefault(choice["index"], {})
        for name in LISTS.intersection(delta):
            kept = lists.setdefault(name, [])
            kept += unplaced(delta.pop(name) or [], len(kept))
        if ends:
            delta.update(self._lists.pop(choice["index"]))
        self._head = item

    def _late(self) -> bytes:
        """The lists that came after the end of their choice."""
        choices = [
            {"index": index, "delta": lists, "finish_reason": None}
            for index, lists in self._lists.items()
            if lists
        ]
        return event({**self._head, "choices": choices}) if choices else b""

    def finish(self) -> bytes:
        if not self._finished:
            raise StreamBroken("The stream ended without a finish_reason; the answer is incomplete.")
        late = self._late() if self._lists else b""
        if self._include_usage and self._usage is not None and self._last is not None:
            return late + event({**self._last, "choices": [], "usage": self._usage}) + DONE
        return late + DONE

    def fail(self, error: RoundhouseError) -> bytes | None:
        return event(error.to_body())


class RunningUsage:
    """Adds the usage so far to every chunk: the worker's own figures, else an estimate, which says so.

    The estimate takes a chunk for a token; the figures at the end of the stream are always the model's.
    """

    def __init__(self, encoder: ChunkEncoder, *, prompt_tokens: int) -> None:
        self._encoder = encoder
        self._prompt = prompt_tokens
        self._made = 0

    def encode(self, item: Json) -> bytes:
        told = item.get("usage")
        encoded = self._encoder.encode(item)
        if not encoded:
            return b""
        chunk = orjson.loads(encoded.removeprefix(b"data: "))
        self._made += any(map(_has_text, chunk["choices"]))
        estimate = {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._made,
            "total_tokens": self._prompt + self._made,
            "estimated": True,
        }
        return event({**chunk, "usage": told or estimate})

    def finish(self) -> bytes:
        return self._encoder.finish()

    def fail(self, error: RoundhouseError) -> bytes | None:
        return self._encoder.fail(error)


def _has_text(choice: Json) -> bool:
    if "delta" not in choice:
        return bool(choice.get("text"))
    return any(value for name, value in choice["delta"].items() if name != "role")


class EventEncoder:
    """Encodes typed events (transcripts, images); an event of type ``final`` ends the answer."""

    def __init__(self, final: str) -> None:
        self._final = final
        self._finished = False

    def encode(self, item: Json) -> bytes:
        self._finished = self._finished or item.get("type") == self._final
        return event(item)

    def finish(self) -> bytes:
        if not self._finished:
            raise StreamBroken("The answer ended before it was complete.")
        return b""

    def fail(self, error: RoundhouseError) -> bytes | None:
        return event(error.to_body())


class BytesEncoder:
    """Passes bytes on unchanged; an error can only cut the connection."""

    def encode(self, item: bytes) -> bytes:
        return item

    def finish(self) -> bytes:
        return b""

    def fail(self, error: RoundhouseError) -> bytes | None:
        del error
        return None


async def stream_events(
    request: Request, job: Job[T], encoder: Encoder[T], opens: Opens[T] = open_job
) -> Response:
    """Answer with events; ``opens`` opens the job. Raises its error if the headers have not been sent."""
    settings = services_of(request).settings.server
    opening = opens(runtime_of(request), job, caller_of(request))
    on_use = runtime_of(request).on_use
    comment = _comment if on_use is not None and on_use.enabled else None
    relay, answer = await _begin(
        request, opening, encoder, timeout=settings.streams.headers_after, comment=comment
    )
    return EventStream(
        relay,
        {"x-roundhouse-trace": job.trace} if answer is None else answer.headers(),
        ping=settings.streams.ping,
        send_timeout=settings.timeouts.send,
        waiting=answer is None,
    )


def stream_items(request: Request, items: AsyncGenerator[Json], encoder: Encoder[Json]) -> Response:
    """Answer with the events of something that no job makes: stored ones, or those of work in the background."""
    services = services_of(request)
    settings = services.settings.server
    relay = Relay(
        aclosing(items),
        encoder,
        in_flight=services.in_flight,
        capacity=settings.streams.buffer,
        on_error=services.metrics.error,
    )
    return EventStream(relay, {}, ping=settings.streams.ping, send_timeout=settings.timeouts.send, waiting=False)


async def stream_bytes(request: Request, job: Job[T], encoder: Encoder[T], media_type: str) -> Response:
    """Answer with bytes; the headers wait for the first of them."""
    settings = services_of(request).settings.server
    opening = open_job(runtime_of(request), job, caller_of(request))
    relay, answer = await _begin(request, opening, encoder, timeout=None)
    assert answer is not None, "without an end to its timeout, opening gives an answer or raises"
    return ByteStream(relay, {**answer.headers(), "content-type": media_type}, settings.timeouts.send)


async def stream_work(
    request: Request,
    opening: AbstractAsyncContextManager[AsyncIterable[T]],
    encoder: Encoder[T],
    media_type: str,
) -> Response:
    """Answer with the progress of work that no model does. Raises what opening it raises."""
    relay, _ = await _begin(request, opening, encoder, timeout=None)
    return ByteStream(relay, {"content-type": media_type}, services_of(request).settings.server.timeouts.send)


async def _begin(
    request: Request,
    opening: AbstractAsyncContextManager[S],
    encoder: Encoder[Any],
    *,
    timeout: float | None,
    comment: Callable[[str], bytes] | None = None,
) -> tuple[Relay[S], S | None]:
    services = services_of(request)
    relay = Relay(
        opening,
        encoder,
        in_flight=services.in_flight,
        capacity=services.settings.server.streams.buffer,
        on_error=services.metrics.error,
        comment=comment,
    )
    try:
        async with Guard(request, services.in_flight):
            return relay, await relay.opened(timeout)
    except BaseException:
        relay.cancel()
        raise


def _comment(line: str) -> bytes:
    return ServerSentEvent(comment=line, sep="\n").encode()


@cache
def _event_headers() -> tuple[tuple[bytes, bytes], ...]:
    """sse-starlette's headers: no caching, no buffering by proxies, the media type. uvicorn has ``connection``."""
    return tuple(pair for pair in EventSourceResponse(iter(())).raw_headers if pair[0] != b"connection")


class EventStream(Response):
    """Sends a relay as server-sent events, with sse-starlette's headers and comments.

    sse-starlette's own response runs four tasks per stream, a tenth of the cost of a short one.
    """

    def __init__(
        self, relay: Relay[Any], headers: Mapping[str, str], *, ping: float, send_timeout: float, waiting: bool
    ) -> None:
        """``ping`` is the seconds without data after which a comment is sent; 0 sends none."""
        self._relay = relay
        self._ping = (ping, KEEP_ALIVE) if ping else None
        self._send_timeout = send_timeout
        self.status_code = 200
        self.background = None
        self.init_headers(headers)
        self.raw_headers += _event_headers()
        if waiting:
            relay.interject(WAITING)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await deliver(self._relay, head, scope, receive, send, send_timeout=self._send_timeout, ping=self._ping)


class ByteStream(Response):
    """Sends a relay's bytes, with the same watch and deadline."""

    def __init__(self, relay: Relay[Any], headers: Mapping[str, str], send_timeout: float) -> None:
        self._relay = relay
        self._send_timeout = send_timeout
        self.status_code = 200
        self.background = None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await deliver(self._relay, head, scope, receive, send, send_timeout=self._send_timeout)
