"""The upstream of the benchmarks: as little HTTP as a server can be, in a process of its own.

``python -m tests.bench.upstream PORT`` listens on loopback. The model's name says how it behaves:

``fast``     the answer at once; a stream's chunks one by one, each in a turn of the loop of its own
``paced``    a stream's chunks 20 ms apart
``stall``    a stream's first chunk, then nothing more
``failing``  HTTP 500

The content is numbered, ``0 1 2 ...``, so that a client can see that no chunk is lost, doubled or out of order.
``max_tokens`` (50 without it) is the number of chunks, and of words of a plain answer.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any, cast

import orjson
import uvloop

CHUNKS = 50
PACE = 0.02
_HEAD = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": "bench"}
_JSON = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    """One chunk of a chat stream as an event."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return event({**_HEAD, "object": "chat.completion.chunk", "choices": [choice]})


def event(value: Any) -> bytes:
    """One event, framed as a piece of a chunked body."""
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    return b"%x\r\ndata: %s\n\n\r\n" % (len(data) + 8, data)


def usage(tokens: int) -> dict[str, int]:
    """OpenAI's usage object."""
    return {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": tokens + 10}


def stream(tokens: int, *, with_usage: bool) -> Iterator[bytes]:
    """The pieces of a streamed answer."""
    yield chunk({"role": "assistant", "content": ""})
    for number in range(tokens):
        yield chunk({"content": f"{number} "})
    yield chunk({}, "stop")
    if with_usage:
        yield event({**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": usage(tokens)})
    yield event(b"[DONE]") + b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection, kept alive; requests one after another."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._held = b""
        self._pieces: Iterator[bytes] = iter(())
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._pace = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._next()

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0
            if len(self._held) < end + 4 + length:
                return
            body = self._held[end + 4 : end + 4 + length]
            self._held = self._held[end + 4 + length :]
            self._answer(head.split(b" ", 2)[1], orjson.loads(body or b"{}"))

    def _answer(self, path: bytes, body: dict[str, Any]) -> None:
        assert self._transport is not None
        model = body.get("model", "fast")
        tokens = int(body.get("max_completion_tokens") or body.get("max_tokens") or CHUNKS)
        if model == "failing":
            self._document({"error": {"message": "It was told to fail.", "type": "server_error"}}, 500)
        elif path.endswith(b"/embeddings"):
            inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
            data = [{"object": "embedding", "index": at, "embedding": [0.6, 0.8]} for at in range(len(inputs))]
            self._document({"object": "list", "model": "bench", "data": data, "usage": usage(0)})
        elif not body.get("stream"):
            content = "".join(f"{number} " for number in range(tokens))
            message = {"role": "assistant", "content": content}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            self._document({**_HEAD, "object": "chat.completion", "choices": choices, "usage": usage(tokens)})
        else:
            options = body.get("stream_options") or {}
            pieces = stream(tokens, with_usage=bool(options.get("include_usage")))
            self._transport.write(_STREAM + next(pieces))
            if model == "stall":
                self._transport.write(next(pieces))
                return
            self._pieces = pieces
            self._pace = PACE if model == "paced" else 0.0
            self._next()

    def _document(self, value: Any, status: int = 200) -> None:
        assert self._transport is not None
        data = orjson.dumps(value)
        self._transport.write(_JSON % (status, b"OK" if status == 200 else b"Error", len(data), data))

    def _next(self) -> None:
        if self._transport is None or self._paused:
            return
        piece = next(self._pieces, None)
        if piece is None:
            return
        self._transport.write(piece)
        self._timer = asyncio.get_running_loop().call_later(self._pace, self._next)


async def serve(port: int) -> None:
    """Listen until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    from tests.bench.limits import raise_open_files

    raise_open_files()
    uvloop.run(serve(int(sys.argv[1])))
