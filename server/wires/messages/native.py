"""Passes Anthropic's own events on, and adds them up to its message. Source: Anthropic's page on streaming."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from backends.anthropic.stream import told
from backends.translation import reading
from catalog.errors import StreamBroken, UpstreamProtocolError
from catalog.types import Json
from routing.calling.answer import TIMINGS


class NativeMessage:
    """One answer in Anthropic's events, of which the name of the model alone becomes the gateway's own.

    The id stays Anthropic's, because threads and diagnostics of later requests refer to it.

    Call :meth:`feed` for each event, then :meth:`finish`; :attr:`message` is the sum. Kinds of blocks and deltas
    that are newer than this code are kept.
    """

    def __init__(self) -> None:
        self._inputs: dict[int, list[str]] = {}
        self._ended = False
        self.message: Json = {}

    def feed(self, event: Json, chunk: Json) -> Iterator[Json]:
        """The event to send. ``chunk`` has the gateway's name of the model and, if asked for, the times.

        Raises UpstreamProtocolError for an event of another shape.
        """
        with reading("Anthropic"):
            match event["type"]:
                case "message_start":
                    event["message"]["model"] = chunk["model"]
                    self.message = {**event["message"], "content": list(event["message"].get("content") or ())}
                case "content_block_start":
                    self._start(event["index"], event["content_block"])
                case "content_block_delta":
                    self._add(event["index"], event["delta"])
                case "content_block_stop":
                    self._stop(event["index"])
                case "message_delta":
                    self._end(event, chunk)
                case "message_stop":
                    self._ended = True
        yield event

    def finish(self) -> Iterator[Json]:
        """The last event, if the connection ended before it. Raises StreamBroken for an incomplete message."""
        if self.message.get("stop_reason") is None:
            raise StreamBroken("The answer ended without a stop_reason.")
        if not self._ended:
            yield {"type": "message_stop"}

    def _start(self, index: int, block: Json) -> None:
        content = self.message["content"]
        if index != len(content):
            raise UpstreamProtocolError("Anthropic's content blocks do not come in order.")
        content.append(dict(block))

    def _add(self, index: int, delta: Json) -> None:
        block = self.message["content"][index]
        for name, value in delta.items():
            if name == "type":
                continue
            if name == "partial_json":
                self._inputs.setdefault(index, []).append(value)
            elif name == "citation":
                block["citations"] = [*(block.get("citations") or ()), value]
            else:
                block[name] = _sum(block.get(name), value)

    def _stop(self, index: int) -> None:
        written = "".join(self._inputs.pop(index, ()))
        if not written:
            return
        try:
            self.message["content"][index]["input"] = orjson.loads(written)
        except orjson.JSONDecodeError:
            # Cut off by max_tokens: the caller of a whole message gets what Anthropic gives, text.
            self.message["content"][index]["input"] = {"partial_json": written}

    def _end(self, event: Json, chunk: Json) -> None:
        usage = event.get("usage")
        if isinstance(usage, dict):
            timings = (chunk.get("usage") or {}).get(TIMINGS)
            if timings is not None:
                usage[TIMINGS] = timings
            before = self.message.get("usage") or {}
            self.message["usage"] = {**before, **told(usage, before)}
        self.message |= event["delta"]
        self.message |= {name: value for name, value in event.items() if name not in ("type", "delta", "usage")}


def _sum(before: Any, more: Any) -> Any:
    """Texts and lists grow by a delta; any other value replaces the one before."""
    if isinstance(before, str) and isinstance(more, str):
        return before + more
    if isinstance(before, list) and isinstance(more, list):
        return [*before, *more]
    return more
