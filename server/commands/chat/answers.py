"""One streamed answer of a chat: its text as it comes, and its figures."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from catalog.errors import RoundhouseError, StreamBroken
from catalog.types import Json
from server.commands.client import ServerClient

Show = Callable[[str, bool], None]
"""Is called with each piece of an answer, and whether it is reasoning."""
_TRACE_WAIT = (0.0, 0.05, 0.2)
"""Seconds to wait before each look at the trace, which is complete a moment after the stream's end."""


@dataclass
class ChatAnswer:
    """An answer, whole or in the making. Times in seconds, the cost in dollars; unknown figures are ``None``."""

    text: str = ""
    reasoning: str = ""
    model: str | None = None
    trace: str | None = None
    reason: str | None = None
    notice: str | None = None
    dropped: str | None = None
    finish: str | None = None
    tokens: int | None = None
    prompt_tokens: int | None = None
    first_token: float | None = None
    seconds: float | None = None
    cost: float | None = None
    stopped: bool = False

    @property
    def tokens_per_second(self) -> float | None:
        """The speed after the first token."""
        if self.tokens is None or self.first_token is None or self.seconds is None or self.tokens < 2:
            return None
        taken = self.seconds - self.first_token
        return (self.tokens - 1) / taken if taken > 0 else None

    def figures(self) -> Json:
        """The answer and its figures as a JSON object."""
        return {
            "text": self.text,
            "reasoning": self.reasoning or None,
            "model": self.model,
            "finish_reason": self.finish,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "tokens_per_second": self.tokens_per_second,
            "time_to_first_token": self.first_token,
            "seconds": self.seconds,
            "cost_dollars": self.cost,
            "reason": self.reason,
            "trace": self.trace,
        }

    def line(self) -> str:
        """The figures as one line, as in ``qwen3-8b, 12 tokens/s, first after 0.31 s, 84 tokens, free``."""
        speed = self.tokens_per_second
        told = [
            self.model or "",
            "" if speed is None else f"{speed:.0f} tokens/s",
            "" if self.first_token is None else f"first after {self.first_token:.2f} s",
            "" if self.tokens is None else f"{self.tokens} tokens",
            "stopped" if self.stopped else "",
            "cut at its limit" if self.finish == "length" else "",
            _dollars(self.cost),
        ]
        return ", ".join(part for part in told if part)


def _dollars(cost: float | None) -> str:
    if cost is None:
        return "cost unknown"
    if cost == 0:
        return "free"
    return f"${cost:.2f}" if cost >= 0.01 else f"${cost:.6f}".rstrip("0")


def ask(client: ServerClient, body: Json, show: Show) -> ChatAnswer:
    """Ask for a chat completion and show its pieces as they come. KeyboardInterrupt stops the answer alone.

    Raises the server's error, and StreamBroken for a stream without its end.
    """
    answer = ChatAnswer()
    began = time.monotonic()
    request = {**body, "stream": True, "stream_options": {"include_usage": True}, "timings": True}
    try:
        with client.stream("POST", "/v1/chat/completions", json=request) as response:
            _take_headers(answer, response)
            for event in events(response):
                _take(answer, event, began, show)
    except KeyboardInterrupt:
        answer.stopped = True
    if answer.seconds is None:
        answer.seconds = time.monotonic() - began
    with contextlib.suppress(RoundhouseError, KeyboardInterrupt):
        _take_trace(answer, client)
    return answer


def events(response: httpx.Response) -> Iterator[Json]:
    """The data of the events, until ``[DONE]``. Raises StreamBroken without that, and for an error event."""
    rest = b""
    for piece in response.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if event.keys() == {"error"}:
                raise StreamBroken(str(event["error"].get("message")))
            yield event
    raise StreamBroken("The answer broke off before its end. See: roundhouse doctor")


def _take_headers(answer: ChatAnswer, response: httpx.Response) -> None:
    answer.model = response.headers.get("x-roundhouse-model")
    answer.trace = response.headers.get("x-roundhouse-trace")
    answer.reason = response.headers.get("x-roundhouse-reason")
    answer.notice = response.headers.get("x-roundhouse-notice")
    answer.dropped = response.headers.get("x-roundhouse-dropped")


def _take(answer: ChatAnswer, event: Json, began: float, show: Show) -> None:
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        answer.finish = choice.get("finish_reason") or answer.finish
        thought, said = delta.get("reasoning_content"), delta.get("content") or delta.get("refusal")
        if (thought or said) and answer.first_token is None:
            answer.first_token = time.monotonic() - began
        if thought:
            answer.reasoning += thought
            show(thought, True)
        if said:
            answer.text += said
            show(said, False)
    usage = event.get("usage")
    if usage:
        answer.tokens, answer.prompt_tokens = usage.get("completion_tokens"), usage.get("prompt_tokens")
        timings = usage.get("x-roundhouse") or {}
        answer.first_token = timings.get("time_to_first_token") or answer.first_token
        answer.seconds = timings.get("latency")


def _take_trace(answer: ChatAnswer, client: ServerClient) -> None:
    """Take the cost, and what late headers did not tell, from the trace."""
    if answer.trace is None:
        return
    for wait in _TRACE_WAIT:
        time.sleep(wait)
        found: Any = client.get(f"/v1/traces/{answer.trace}")
        if found["status"] != "running":
            break
    answer.model = found["answered_by"] or answer.model
    answer.reason = answer.reason or found["plan"]["reason"]
    costs = [attempt["cost"] for attempt in found["attempts"]]
    answer.cost = None if None in costs or not costs else sum(costs)
