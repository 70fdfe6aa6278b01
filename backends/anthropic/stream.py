"""Translates Anthropic's event stream into OpenAI's chunks.

Source: Anthropic's page on streaming and SDK types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from backends.anthropic.errors import read_stream_error
from backends.anthropic.results import RESULTS, SERVER_CALLS, annotation_of, item_of, uncounted_kind
from backends.base import Upstream
from backends.streams.chunks import ChunkWriter, added, counts, usage
from backends.translation import reading
from catalog.errors import StreamBroken, UpstreamProtocolError
from catalog.types import Json

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
MAX_PAUSES = 8
"""The most times that a paused answer goes on; then it ends as one that is cut off."""

_TIERS = {"standard": "default", "priority": "priority"}
_COUNTED = ("cache_creation", "server_tool_use")
_TOLD = ("inference_geo", "speed")
"""Fields of the usage that a price may depend on."""


def told(counts: Json, before: Json) -> Json:
    """The counts of a usage object that say something: servers of this wire end with a 0 for the prompt, too."""
    return {
        name: value for name, value in counts.items() if value is not None and (value != 0 or name not in before)
    }


@dataclass(slots=True)
class _Block:
    kind: str
    position: int = -1
    text: list[str] = field(default_factory=list)
    signature: list[str] = field(default_factory=list)
    given: Json = field(default_factory=dict)
    start: int = 0
    citations: list[Json] = field(default_factory=list)


@dataclass(slots=True)
class AnthropicStream:
    """Translates one answer: :meth:`feed` it the events' data in order, then :meth:`close` it.

    With ``answer_by_tool`` the input of the one tool is the answer's text. ``created`` is in Unix seconds. With
    ``resumes``, an answer that Anthropic pauses, in a long run of its own tools, is :attr:`paused` and can
    :meth:`resume`; a chat cannot tell its caller to ask again. ``service_tier`` is OpenAI's name of the tier that
    serves the request, if it is told beside the events.
    """

    upstream: Upstream
    created: int
    answer_by_tool: bool = False
    resumes: bool = False
    finished: bool = False
    paused: bool = False
    service_tier: str | None = None
    _writer: ChunkWriter | None = None
    _blocks: dict[int, _Block] = field(default_factory=dict)
    _calls: int = 0
    _said: int = 0
    _running: dict[str, Json] = field(default_factory=dict)
    _content: list[Json] = field(default_factory=list)
    _pauses: int = 0
    _earlier: list[Json] = field(default_factory=list)
    _ran: Counter[str] = field(default_factory=Counter)
    _usage: Json = field(default_factory=dict)
    _container: Json = field(default_factory=dict)

    def feed(self, event: Json) -> Iterator[Json]:
        """The chunks of this event, often none.

        Raises the typed error of an ``error`` event, :class:`UpstreamProtocolError` for an event of another shape.
        """
        with reading("Anthropic"):
            match event["type"]:
                case "message_start":
                    yield from self._start(event["message"])
                case "content_block_start":
                    yield from self._block_start(event["index"], event["content_block"])
                case "content_block_delta":
                    yield from self._block_delta(self._blocks[event["index"]], event["delta"])
                case "content_block_stop":
                    yield from self._block_stop(self._blocks.pop(event["index"]))
                case "message_delta":
                    yield from self._message_delta(event)
                case "error":
                    raise read_stream_error(event, self.upstream)
                case _:  # ping, message_stop, and kinds added to the API later
                    return

    def resume(self, body: Json) -> Json:
        """The body that lets a paused answer go on, after what it said. Feed its events to this stream, too."""
        turn = {"role": "assistant", "content": self._content}
        self._content, self.paused = [], False
        place = {"container": self._place} if self._place else {}
        return {**body, **place, "messages": [*body["messages"], turn]}

    def close(self) -> None:
        """Raises :class:`StreamBroken` unless the answer came with a stop reason."""
        if not self.finished and not self.paused:
            raise StreamBroken("Anthropic's stream ended before the message did.")

    @property
    def _chunks(self) -> ChunkWriter:
        if self._writer is None:
            raise UpstreamProtocolError("Anthropic's stream did not begin with message_start.")
        return self._writer

    def _start(self, message: Json) -> Iterator[Json]:
        self._container = message.get("container") or self._container
        if self._writer is not None:
            self._count(message.get("usage"))
            return
        self._writer = ChunkWriter(
            id=f"chatcmpl-{message['id']}", model=message.get("model") or self.upstream.model, created=self.created
        )
        self._count(message.get("usage"))
        self._writer.service_tier = self.service_tier or _TIERS.get(str(self._usage.get("service_tier")))
        yield self._chunks.delta({"role": "assistant", "content": ""})

    def _block_start(self, index: int, content: Json) -> Iterator[Json]:
        block = self._blocks[index] = _Block(content["type"], given=content, start=self._said)
        match block.kind:
            case "text":
                block.citations += content.get("citations") or ()
                block.text.append(content.get("text") or "")
                yield from self._text(block.text[0])
            case "thinking":
                block.text.append(content.get("thinking") or "")
                block.signature.append(content.get("signature") or "")
                if block.text[0]:
                    yield self._chunks.delta({"reasoning_content": block.text[0]})
            case "redacted_thinking":
                kept = {"type": "redacted_thinking", "data": content["data"]}
                self._content.append(kept)
                yield self._chunks.delta({"thinking_blocks": [kept]})
            case "tool_use" if not self.answer_by_tool:
                block.position = self._calls
                self._calls += 1
                yield self._chunks.tool_start(block.position, content["id"], content["name"])

    def _block_delta(self, block: _Block, delta: Json) -> Iterator[Json]:
        match delta["type"]:
            case "text_delta":
                block.text.append(delta["text"])
                yield from self._text(delta["text"])
            case "thinking_delta":
                block.text.append(delta["thinking"])
                yield self._chunks.delta({"reasoning_content": delta["thinking"]})
            case "citations_delta":
                block.citations.append(delta["citation"])
            case "signature_delta":
                block.signature.append(delta["signature"])
            case "input_json_delta" if delta["partial_json"]:
                block.text.append(delta["partial_json"])
                yield from self._input(block, delta["partial_json"])

    def _block_stop(self, block: _Block) -> Iterator[Json]:
        if block.kind == "thinking":
            kept = {"type": "thinking", "thinking": "".join(block.text), "signature": "".join(block.signature)}
            self._content.append(kept)
            yield self._chunks.delta({"thinking_blocks": [kept]})
        elif block.kind == "tool_use" and not block.text:
            yield from self._input(block, orjson.dumps(block.given.get("input") or {}).decode())
        elif block.kind in SERVER_CALLS:
            call = self._running[block.given["id"]] = self._server_call(block)
            if (kind := uncounted_kind(call)) is not None:
                self._ran[f"{kind}_requests"] += 1
            self._content.append(call)
        elif block.kind.endswith(RESULTS):
            self._content.append(block.given)
            made = self._running.pop(block.given["tool_use_id"], None)
            if made is not None:
                yield self._chunks.delta({"server_tool_calls": [item_of(made, block.given, self._place)]})
        elif block.kind == "text" and not self.answer_by_tool:
            yield from self._text_stop(block)

    def _text_stop(self, block: _Block) -> Iterator[Json]:
        text = "".join(block.text)
        cited = {"citations": block.citations} if block.citations else {}
        if text:
            self._content.append({"type": "text", "text": text, **cited})
        if block.citations:
            made = [annotation_of(citation, block.start, self._said) for citation in block.citations]
            yield self._chunks.delta({"annotations": made})

    @staticmethod
    def _server_call(block: _Block) -> Json:
        """The block of a call with its whole input; one that was cut off is kept as text."""
        text = "".join(block.text)
        try:
            given = orjson.loads(text) if text else block.given.get("input")
        except orjson.JSONDecodeError:
            given = {"partial_json": text}
        return {**block.given, "input": given if isinstance(given, dict) else {}}

    def _text(self, text: str | None) -> Iterator[Json]:
        if text and not self.answer_by_tool:
            self._said += len(text)
            yield self._chunks.text(text)

    def _input(self, block: _Block, partial: str) -> Iterator[Json]:
        if block.kind != "tool_use":
            return
        if self.answer_by_tool:
            yield self._chunks.text(partial)
        else:
            yield self._chunks.tool_arguments(block.position, partial)

    def _message_delta(self, event: Json) -> Iterator[Json]:
        self._count(event.get("usage"))
        delta = event["delta"]
        self._container = delta.get("container") or self._container
        stop = delta.get("stop_reason")
        if stop is None or self.finished:
            return
        if stop == "pause_turn" and self.resumes and self._content and self._pauses < MAX_PAUSES:
            self._pauses += 1
            self.paused = True
            self._earlier.append(self._usage)
            self._usage = {}
            return
        if self._running:
            unfinished = [item_of(call, None, self._place) for call in self._running.values()]
            yield self._chunks.delta({"server_tool_calls": unfinished})
        if stop == "refusal":
            details = delta.get("stop_details") or {}
            yield self._chunks.delta({"refusal": details.get("explanation") or "The model refused to answer."})
        reason = FINISH_REASONS.get(stop, "stop")
        if stop == "pause_turn" and self.resumes:
            reason = "length"
        if self.answer_by_tool and reason == "tool_calls":
            reason = "stop"
        last = self._chunks.delta({}, finish_reason=reason)
        if delta.get("stop_sequence") is not None:
            last["choices"][0]["stop_reason"] = delta["stop_sequence"]
        if self._container:
            last["container"] = self._container
        yield last
        self.finished = True
        yield self._chunks.usage(self._total())

    @property
    def _place(self) -> str:
        """The id of the container that runs code; empty until it is told, which may be at the end."""
        return str(self._container.get("id") or "")

    def _count(self, counts: Any) -> None:
        """Counts are cumulative: a later one replaces an earlier one, and an absent one or a 0 changes nothing."""
        if isinstance(counts, dict):
            self._usage |= told(counts, self._usage)

    def _total(self) -> Json:
        """The sum over the requests of the answer: each tells its own counts."""
        all_ = [*self._earlier, self._usage]

        def total(name: str) -> int:
            return added(*(one.get(name, 0) for one in all_))

        cached, written = total("cache_read_input_tokens"), total("cache_creation_input_tokens")
        thoughts = [counts(one.get("output_tokens_details")).get("thinking_tokens", 0) for one in all_]
        more: Json = {}
        for name in _COUNTED:
            told = [counts(one.get(name)) for one in all_]
            if names := {kind: None for one in told for kind in one}:
                more[name] = {kind: sum(one.get(kind, 0) for one in told) for kind in names}
        beside = dict(self._ran)
        if self._container:  # a container is what runs of code cost
            beside.pop("code_execution_requests", None)
            beside["containers"] = 1
        if beside:
            more["server_tool_use"] = {**more.get("server_tool_use", {}), **beside}
        more |= {name: self._usage[name] for name in _TOLD if type(self._usage.get(name)) is str}
        return usage(
            prompt=added(total("input_tokens"), cached, written),
            completion=total("output_tokens"),
            cached=cached,
            cache_write=written,
            reasoning=sum(thoughts),
            more=more,
        )
