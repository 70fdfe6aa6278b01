"""Translates chat chunks into Anthropic's events and message. Source: Anthropic's page on streaming."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from backends.adapting.arguments import INVALID, object_of
from backends.streams.chunks import unnumbered
from backends.streams.native import NativeChunk
from backends.streams.sealing import encode_thinking
from catalog.errors import RoundhouseError, StreamBroken, UpstreamProtocolError
from catalog.types import Json
from routing.calling.answer import TIMINGS
from routing.reading.tokens import estimate_tokens
from server.edge.errors import anthropic_error
from server.wires.messages.hosted import blocks_of, citation_of
from server.wires.messages.native import NativeMessage
from server.wires.translation import meant, picture

TIERS = {"default": "standard", "standard": "standard", "priority": "priority", "fast": "priority"}
"""Anthropic's names of OpenAI's service tiers; a message cannot name the others."""

_SEARCHES = ("web_search_requests", "web_fetch_requests")
"""The calls that a message's usage has fields for."""

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


@dataclass(slots=True)
class _OpenBlock:
    """The content block in progress; a stream has at most one."""

    kind: str
    block: Json
    pieces: list[str] = field(default_factory=list)
    position: int = -1
    told: bool = False
    """Whether the arguments of a call are passed on as they come: they begin as an object."""


@dataclass(slots=True)
class MessageStream:
    """One message. Call :meth:`feed` for each chunk, then :meth:`finish` or :meth:`fail`.

    Each returns the events to send, named by their ``type``; :meth:`message` is the message that they describe.
    ``message_id`` begins with ``msg_``. ``prompt_tokens`` is an estimate for ``message_start``, which precedes the
    provider's count; ``message_delta`` corrects it. Reasoning becomes thinking blocks with the provider's
    signature, or an empty one. ``stop_sequences`` are the caller's; ``members`` are the toolset and the member of
    a function that stands for one, ``names`` those of all functions. If it ``compacts``, the text is the summary
    in a compaction block, and all else is left out. Of chunks that carry Anthropic's own events, the events are
    passed on.
    """

    message_id: str
    model: str = ""
    prompt_tokens: int = 0
    stop_sequences: Sequence[str] = ()
    members: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    names: Collection[str] = ()
    compacts: bool = False
    _summary: list[str] = field(default_factory=list)
    _content: list[Json] = field(default_factory=list)
    _open: _OpenBlock | None = None
    _started: bool = False
    _finish_reason: str | None = None
    _refusal: list[str] = field(default_factory=list)
    _usage: Json = field(default_factory=dict)
    _stop: str | None = None
    _sequence: str | None = None
    _tier: str | None = None
    _titles: dict[str, str] = field(default_factory=dict)
    _native: NativeMessage | None = None
    _called: set[int] = field(default_factory=set)
    _waiting: dict[int, _OpenBlock] = field(default_factory=dict)
    """The calls that have begun and have no block yet, by their position."""
    _counted: bool = False
    """Whether the provider told the usage; else the tokens of the answer are estimated, as those of the prompt."""
    _later: list[Json] = field(default_factory=list)
    """Deltas with the text and reasoning that came within a call, until its end."""

    def feed(self, chunk: Json) -> Iterator[Json]:
        """The events of one chunk, from its first choice only."""
        if isinstance(chunk, NativeChunk):
            if self._native is None:
                self._native = NativeMessage()
            yield from self._native.feed(chunk.event, chunk)
            return
        if self._native is not None:
            return
        self.model = self.model or chunk.get("model") or ""
        if not self._started:
            self._started = True
            self._tier = TIERS.get(str(chunk.get("service_tier")))
            self._usage = {"input_tokens": self.prompt_tokens, "output_tokens": 0, **self._told({})}
            yield {"type": "message_start", "message": self.message()}
        if chunk.get("usage"):
            self._counted = True
            self._tier = TIERS.get(str(chunk.get("service_tier"))) or self._tier
            self._usage = {**_usage(chunk["usage"]), **self._told(chunk["usage"])}
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                yield from self._choice(choice)

    def finish(self) -> Iterator[Json]:
        """Close the open block, then ``message_delta`` and ``message_stop``.

        Raises :class:`StreamBroken` when no chunk had a finish reason.
        """
        if self._native is not None:
            yield from self._native.finish()
            return
        if self._finish_reason is None:
            raise StreamBroken("The answer ended without a finish_reason.")
        while self._waiting:
            yield from self._turn()
        yield from self._held()
        yield from self._close()
        if self.compacts:
            yield from self._compacted()
        if not self._counted:
            self._usage |= {"output_tokens": sum(map(_estimated, self._content))}
        self._stop = "refusal" if self._refusal else STOP_REASONS.get(self._finish_reason, "end_turn")
        if self._stop == "end_turn" and self._called:
            self._stop = (
                "tool_use"  # some servers end calls with "stop", and agents run tools for this reason alone
            )
        if self._stop == "end_turn" and self.compacts:
            self._stop = "compaction"
        elif self._stop == "end_turn" and self._sequence is not None:
            self._stop = "stop_sequence"
        else:
            self._sequence = None
        delta = {"stop_reason": self._stop, "stop_sequence": self._sequence, "stop_details": self._details()}
        usage = {name: value for name, value in self._usage.items() if name not in _OF_MESSAGE}
        yield {"type": "message_delta", "delta": delta, "usage": usage}
        yield {"type": "message_stop"}

    def fail(self, error: RoundhouseError) -> Iterator[Json]:
        """An ``error`` event, which ends the stream."""
        yield anthropic_error(error)

    def message(self) -> Json:
        """The message so far."""
        if self._native is not None:
            return self._native.message
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": list(self._content),
            "stop_reason": self._stop,
            "stop_sequence": self._sequence if self._stop else None,
            "stop_details": self._details() if self._stop else None,
            "usage": self._usage,
        }

    # ---- the parts of an answer

    def _told(self, usage: Json) -> Json:
        """The fields of the usage that a message has, and its last event has not."""
        told = {name: usage[name] for name in ("cache_creation", "inference_geo", "speed") if usage.get(name)}
        return told if self._tier is None else {**told, "service_tier": self._tier}

    def _details(self) -> Json | None:
        if not self._refusal:
            return None
        return {"type": "refusal", "category": None, "explanation": "".join(self._refusal)}

    def _compacted(self) -> Iterator[Json]:
        """The summary in a block, whole; without content where there is none, or the answer's limit cut it off."""
        text = "".join(self._summary).strip() if self._finish_reason == "stop" else ""
        summary: Json = {"content": text or None, "encrypted_content": None}
        block = {"type": "compaction", "content": None, "encrypted_content": None}
        yield {"type": "content_block_start", "index": 0, "content_block": block}
        yield self._delta({"type": "compaction_delta", **summary})
        yield {"type": "content_block_stop", "index": 0}
        self._content.append({"type": "compaction", **summary})

    def _choice(self, choice: Json) -> Iterator[Json]:
        delta = choice.get("delta") or {}
        if self.compacts:
            self._summary.append(delta.get("content") or "")
            self._refusal += [delta["refusal"]] if delta.get("refusal") else []
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            return
        if self._calling() and any(delta.get(name) for name in _SAID):
            self._later.append(delta)
        else:
            yield from self._said(delta)
        for call in delta.get("tool_calls") or ():
            yield from self._tool(call)
        if self._later and not self._calling():
            yield from self._held()
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        if choice.get("stop_reason") in self.stop_sequences:
            self._sequence = choice["stop_reason"]

    def _held(self) -> Iterator[Json]:
        """The text and reasoning that came within a call."""
        later, self._later = self._later, []
        for delta in later:
            yield from self._said(delta)

    def _said(self, delta: Json) -> Iterator[Json]:
        """The events of a delta but for its calls."""
        if text := delta.get("reasoning_content") or delta.get("reasoning"):
            yield from self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._add("thinking_delta", "thinking", text)
        for block in delta.get("thinking_blocks") or ():
            yield from self._signed(unnumbered(block))
        if text := delta.get("content"):
            yield from self._begin("text", {"type": "text", "text": ""})
            yield self._add("text_delta", "text", text)
        if delta.get("refusal"):
            self._refusal.append(delta["refusal"])
        if not delta.keys().isdisjoint(_RESULTS):
            yield from self._results(delta)

    def _results(self, delta: Json) -> Iterator[Json]:
        """The citations of the open text, or of an empty one; then pictures, and the provider's own tools."""
        citations = [made for one in delta.get("annotations") or () if (made := citation_of(one)) is not None]
        if citations:
            yield from self._begin("text", {"type": "text", "text": ""})
        for citation in citations:
            self._titles.setdefault(citation["url"], citation["title"] or "")
            assert self._open is not None
            self._open.block.setdefault("citations", []).append(citation)
            yield self._delta({"type": "citations_delta", "citation": citation})
        for image in delta.get("images") or ():
            yield from self._begin("text", {"type": "text", "text": ""})
            yield self._add("text_delta", "text", picture(image))
        for item in delta.get("server_tool_calls") or ():
            for block in blocks_of(unnumbered(item), self._titles):
                yield from self._whole(block)

    def _whole(self, block: Json) -> Iterator[Json]:
        """A block that came at once; the input of a call is a delta, as in Anthropic's streams."""
        yield from self._close()
        given = block.get("input")
        self._open = _OpenBlock(block["type"], dict(block))
        begun = block if given is None else {**block, "input": {}}
        yield {"type": "content_block_start", "index": len(self._content), "content_block": begun}
        if given is not None:
            yield self._delta({"type": "input_json_delta", "partial_json": orjson.dumps(given).decode()})
        yield from self._close()

    def _signed(self, block: Json) -> Iterator[Json]:
        """Sign and close the open thinking block, or add a whole one whose text was not streamed.

        Another provider's block is the signature itself, in the gateway's own encoding.
        """
        if block.get("type") == "thinking":
            yield from self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            assert self._open is not None
            self._open.block["signature"] = block.get("signature") or ""
            yield self._delta({"type": "signature_delta", "signature": block.get("signature") or ""})
            yield from self._close()
        elif block.get("type") == "redacted_thinking":
            yield from self._redacted(block.get("data"))
        elif self._open is not None and self._open.kind == "thinking":
            yield from self._signed({"type": "thinking", "signature": encode_thinking([block])})
        else:
            yield from self._redacted(encode_thinking([block]))

    def _redacted(self, data: Any) -> Iterator[Json]:
        yield from self._close()
        yield from self._begin("redacted_thinking", {"type": "redacted_thinking", "data": data})
        yield from self._close()

    def _tool(self, delta: Json) -> Iterator[Json]:
        """The events of a part of a call. Blocks do not overlap: the parts of a later call wait for its turn."""
        position = delta.get("index", 0)
        function = delta.get("function") or {}
        arguments = function.get("arguments") or ""
        if position not in self._called:
            if not function.get("name"):
                raise UpstreamProtocolError("A tool call continues that has not begun.")
            self._called.add(position)
            self._waiting[position] = _OpenBlock(
                "tool_use", self._call(delta, function["name"]), position=position
            )
        if self._open is not None and self._open.position == position:
            if arguments:
                yield from self._argue(arguments)
            return
        held = self._waiting.get(position)
        if held is None:
            if arguments.strip():
                raise UpstreamProtocolError("A tool call continues after its end.")
            return
        if arguments:
            held.pieces.append(arguments)
        while self._waiting and not self._calling():
            yield from self._turn()

    def _call(self, delta: Json, called: str) -> Json:
        if called not in self.names:
            called = meant(called, self.names) or called
        toolset, name = self.members.get(called, (None, called))
        block: Json = {"type": "tool_use", "id": delta.get("id"), "name": name, "input": {}}
        if toolset is not None:
            block["toolset_name"] = toolset
        if delta.get("extra_content"):
            block["extra_content"] = delta["extra_content"]
        return block

    def _calling(self) -> bool:
        """Whether the open block is a call whose arguments are incomplete."""
        if self._open is None or self._open.kind != "tool_use":
            return False
        arguments = "".join(self._open.pieces)
        if not arguments.rstrip().endswith("}"):
            return True
        try:
            orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return True
        return False

    def _turn(self) -> Iterator[Json]:
        """Close the open block, and begin that of the next call with the arguments that waited."""
        block = self._waiting.pop(next(iter(self._waiting)))
        yield from self._close()
        self._open = block
        yield {"type": "content_block_start", "index": len(self._content), "content_block": dict(block.block)}
        if block.pieces:
            arguments = "".join(block.pieces)
            block.pieces.clear()
            yield from self._argue(arguments)

    def _argue(self, arguments: str) -> Iterator[Json]:
        """More arguments of the open call. Those that are no object are held to their end."""
        block = self._open
        assert block is not None
        block.pieces.append(arguments)
        if block.told:
            yield self._delta({"type": "input_json_delta", "partial_json": arguments})
        elif (said := "".join(block.pieces).lstrip()).startswith("{"):
            block.told = True
            yield self._delta({"type": "input_json_delta", "partial_json": said})

    def _begin(self, kind: str, block: Json) -> Iterator[Json]:
        if self._open is not None and self._open.kind == kind:
            return
        yield from self._close()
        self._open = _OpenBlock(kind, block)
        yield {"type": "content_block_start", "index": len(self._content), "content_block": dict(block)}

    def _add(self, kind: str, name: str, text: str) -> Json:
        assert self._open is not None
        self._open.pieces.append(text)
        return self._delta({"type": kind, name: text})

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": len(self._content), "delta": delta}

    def _close(self) -> Iterator[Json]:
        if self._open is None:
            return
        closing, self._open = self._open, None
        text = "".join(closing.pieces)
        if closing.kind == "tool_use":
            closing.block["input"] = self._input(text)
            if not closing.told and closing.block["input"]:
                wrapped = orjson.dumps(closing.block["input"]).decode()
                yield self._delta({"type": "input_json_delta", "partial_json": wrapped})
        elif closing.kind in ("text", "thinking"):
            closing.block[closing.kind] = text
        yield {"type": "content_block_stop", "index": len(self._content)}
        self._content.append(closing.block)

    def _input(self, arguments: str) -> Json:
        """A call's arguments; a text that is no object as Anthropic gives it: under a name that says so.

        An agent tells its model what was wrong with a call, where an error would be asked for again and again.
        """
        given = object_of(arguments)
        cut = self._finish_reason == "length" and INVALID in given
        return {"partial_json": arguments} if cut else given


_RESULTS = frozenset({"annotations", "images", "server_tool_calls"})
_SAID = _RESULTS | {"reasoning_content", "reasoning", "thinking_blocks", "content", "refusal"}
_OF_MESSAGE = frozenset({"cache_creation", "service_tier", "inference_geo", "speed"})
"""Fields of a message's usage that the usage of its last event has not."""


def _estimated(block: Json) -> int:
    """The tokens of a block, about."""
    said = block.get("text") or block.get("thinking") or ""
    called = orjson.dumps(block["input"]).decode() if block.get("input") else ""
    return estimate_tokens(said) + estimate_tokens(called)


def _usage(usage: Json) -> Json:
    """Convert usage: OpenAI's prompt tokens include cached ones, Anthropic's input tokens do not."""
    prompt = usage.get("prompt_tokens_details") or {}
    cached = prompt.get("cached_tokens") or 0
    written = prompt.get("cache_write_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    ran = usage.get("server_tool_use")
    return {
        "input_tokens": max(0, usage.get("prompt_tokens", 0) - cached - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.get("completion_tokens", 0),
        "output_tokens_details": {"thinking_tokens": reasoning},
        **({"server_tool_use": {name: ran.get(name, 0) for name in _SEARCHES}} if isinstance(ran, dict) else {}),
        **({TIMINGS: usage[TIMINGS]} if TIMINGS in usage else {}),
    }
