"""Turns a language model's tokens into the chunks of a chat or a completion, in llama-server's shape.

For engines that only decode tokens. Chunks never split a character or show a stop sequence; they carry the
logprobs of exactly their text, one finish reason, and the usage at the end.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, Protocol

from backends.wire.sampling import StreamOptions
from backends.workers.engines.common.detokenization import IncrementalDetokenizer, StopFilter, VisibleText
from backends.workers.program.app import sse_event
from catalog.types import Json

Finish = Literal["stop", "length"]
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Token:
    """One decoded token.

    ``logprob`` is taken before the temperature is applied; ``top`` holds the likeliest tokens with theirs, in
    descending order; ``finish`` is set on the last token.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """The text and logprobs that become visible with a token. ``count`` is the number of tokens so far.

    ``stop`` is the stop sequence that ended the text, if one did.
    """

    text: str
    logprobs: list[Json]
    count: int
    finish: Finish | None = None
    stop: str | None = None


class ChatOutputParser(Protocol):
    """Separates a model's output into content, reasoning and tool calls."""

    called: bool
    """Whether the output contains a tool call."""

    def take(self, text: str, *, last: bool) -> Iterator[Json]:
        """Yield the deltas of ``text``; with ``last``, everything that was held back, too."""
        ...


class PlainOutputParser:
    """Treats all output as content, for models whose reasoning and tool calls cannot be recognised."""

    called = False

    def take(self, text: str, *, last: bool) -> Iterator[Json]:
        del last
        if text:
            yield {"content": text}


async def visible_pieces(
    tokens: AsyncGenerator[Token],
    *,
    decode: Callable[[list[int]], str],
    prompt: Sequence[int],
    stop: str | list[str] | None,
    logprobs: bool,
) -> AsyncGenerator[Piece]:
    """Yield the visible text of ``tokens``. A stop sequence ends it; closing it closes ``tokens``."""
    listed = [stop] if isinstance(stop, str) else list(stop or ())
    written = VisibleText(IncrementalDetokenizer(decode, prompt), StopFilter(listed))
    count = 0
    async with aclosing(tokens):
        async for token in tokens:
            count += 1
            ended = token.finish == "stop"
            entry = _entry(token, decode) if logprobs and not ended else None
            text, entries = ("", []) if ended else written.add(token.id, entry)
            if written.stop.found:
                yield Piece(text, entries, count, "stop", written.stop.sequence)
                return
            if token.finish is None:
                yield Piece(text, entries, count)
                continue
            rest, last = written.end()
            finish = "stop" if written.stop.found else token.finish
            yield Piece(text + rest, entries + last, count, finish, written.stop.sequence)


async def chat_events(
    pieces: AsyncGenerator[Piece],
    text: ChatOutputParser,
    *,
    model: str,
    prompt_tokens: int,
    options: StreamOptions | None = None,
) -> AsyncGenerator[bytes]:
    """Yield the server-sent events of a chat (``chat.completion.chunk``), with the usage and ``[DONE]``.

    With ``continuous_usage_stats`` in the request's ``options``, which is vLLM's, each delta has the usage so far.
    """
    each = bool(options and options.continuous_usage_stats)
    head = _head("chatcmpl", "chat.completion.chunk", model)
    begun = False
    async with aclosing(pieces):
        async for piece in pieces:
            if not begun:
                begun = True
                yield _chunk(head, {"delta": {"role": "assistant", "content": None}})
            if each:
                head = {**head, "usage": _usage(prompt_tokens, piece.count)}
            logprobs = piece.logprobs
            last = piece.finish is not None
            for delta in text.take(piece.text, last=last) if piece.text or last else ():
                yield _chunk(head, {"delta": delta, "logprobs": _entries(logprobs)})
                logprobs = []
            if logprobs:
                yield _chunk(head, {"delta": {}, "logprobs": _entries(logprobs)})
            if piece.finish is not None:
                reason = "tool_calls" if text.called and piece.finish == "stop" else piece.finish
                stopped = {} if piece.stop is None else {"stop_reason": piece.stop}
                yield _chunk(head, {"delta": {}, **stopped}, finish=reason)
                yield sse_event({**head, "choices": [], "usage": _usage(prompt_tokens, piece.count)})
    yield DONE


async def completion_events(
    pieces: AsyncGenerator[Piece], *, model: str, prompt_tokens: int
) -> AsyncGenerator[bytes]:
    """Yield the server-sent events of a completion (``text_completion``), with the usage and ``[DONE]``."""
    head = _head("cmpl", "text_completion", model)
    async with aclosing(pieces):
        async for piece in pieces:
            if piece.text or piece.logprobs:
                yield _chunk(head, {"text": piece.text, "logprobs": _entries(piece.logprobs)})
            if piece.finish is not None:
                yield _chunk(head, {"text": ""}, finish=piece.finish)
                yield sse_event({**head, "choices": [], "usage": _usage(prompt_tokens, piece.count)})
    yield DONE


def _head(prefix: str, kind: str, model: str) -> Json:
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def _chunk(head: Json, choice: Json, *, finish: str | None = None) -> bytes:
    return sse_event({**head, "choices": [{"index": 0, "finish_reason": finish, **choice}]})


def _entry(token: Token, decode: Callable[[list[int]], str]) -> Json:
    """Convert a token's logprob to OpenAI's shape."""

    def named(each: int, logprob: float) -> Json:
        text = decode([each])
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}

    return {**named(token.id, token.logprob), "top_logprobs": [named(*each) for each in token.top]}


def _entries(logprobs: list[Json]) -> Json | None:
    return {"content": logprobs} if logprobs else None


def _usage(prompt: int, completion: int) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
