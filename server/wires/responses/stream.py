"""Translates chat chunks into the events of a response and the response. Source: OpenAI's API reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from backends.streams.chunks import unnumbered
from backends.streams.native import NativeChunk
from backends.wire.responses import OWN_ID, ResponsesRequest
from catalog.errors import RoundhouseError, StreamBroken
from catalog.types import Json
from routing.calling.answer import TIMINGS
from server.answers.rounds import STEPS
from server.wires.responses.client_tools import CLIENT_TOOLS
from server.wires.responses.hosted import HostedItem, ItemStep, drawn
from server.wires.responses.native import NativeResponse
from server.wires.responses.output import (
    ClientToolItem,
    CustomToolItem,
    MessageItem,
    OutputItem,
    ReasoningItem,
    ToolItem,
)
from server.wires.responses.reasoning import signed_call
from server.wires.responses.tools import Toolbox


@dataclass(slots=True)
class ResponseStream:
    """One response. Call :meth:`start`, :meth:`feed` for each chunk, then :meth:`finish` or :meth:`fail`.

    Each returns the events to send, named by their ``type``; :meth:`response` is the object that they describe.
    ``response_id`` begins with ``resp_``, ``created_at`` is in Unix seconds. Reasoning becomes the summary of a
    reasoning item, and a provider's signed blocks and the signatures of calls its ``encrypted_content``. Of chunks
    that carry events of the Responses API, the events are passed on. ``state`` are the response's fields about its
    storage, and ``number`` is the next event's.
    """

    request: ResponsesRequest
    response_id: str
    created_at: int
    model: str = ""
    status: str = "in_progress"
    error: Json | None = None
    usage: Json | None = None
    state: Json = field(default_factory=dict)
    _items: list[OutputItem] = field(default_factory=list)
    _tools: dict[int, _Call] = field(default_factory=dict)
    _steps: dict[str, HostedItem] = field(default_factory=dict)
    _toolbox: Toolbox | None = None
    _open: MessageItem | ReasoningItem | None = None
    _finish_reason: str | None = None
    number: int = 0
    _said: int = 0
    _tier: str | None = None
    _native: NativeResponse | None = None

    def start(self) -> Iterator[Json]:
        """``response.created`` and ``response.in_progress``."""
        for kind in ("response.created", "response.in_progress"):
            yield self._event({"type": kind, "response": self.response()})

    def feed(self, chunk: Json) -> Iterator[Json]:
        """The events of one chunk, from its first choice only."""
        if isinstance(chunk, NativeChunk):
            if self._native is None:
                self._native = NativeResponse({"id": self.response_id, **self.state})
            yield from self._native.feed(chunk.event, chunk)
            return
        if self._native is not None:
            return
        self.model = self.model or chunk.get("model") or ""
        self._tier = chunk.get("service_tier") or self._tier
        if chunk.get("usage"):
            self.usage = _usage(chunk["usage"])
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                yield from map(self._event, self._choice(choice))

    def finish(self) -> Iterator[Json]:
        """Close all items, then ``response.completed`` or ``response.incomplete``.

        Raises :class:`StreamBroken` when no chunk had a finish reason.
        """
        if self._native is not None:
            yield from self._native.finish()
            return
        if self._finish_reason is None:
            raise StreamBroken("The answer ended without a finish_reason.")
        refused = any(isinstance(item, MessageItem) and item.refused for item in self._items)
        whole = self._finish_reason in ("stop", "tool_calls") or refused
        self.status = "completed" if whole else "incomplete"
        yield from map(self._event, self._close_all(self.status))
        yield self._event({"type": f"response.{self.status}", "response": self.response()})

    def fail(self, error: RoundhouseError) -> Iterator[Json]:
        """``response.failed``, which ends the stream. Its error has only codes that OpenAI's SDK knows."""
        self.status = "failed"
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        self.error = {"code": code, "message": error.message}
        if self._native is not None:
            yield from self._native.fail(self.error)
            return
        yield self._event({"type": "response.failed", "response": self.response()})

    def response(self) -> Json:
        """The response object so far."""
        if self._native is not None:
            return self._native.response
        request = self.request
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        incomplete = {"reason": reasons.get(self._finish_reason or "")} if self.status == "incomplete" else None
        wire = request.to_wire()
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created_at,
            "status": self.status,
            "background": False,
            "error": self.error,
            "incomplete_details": incomplete,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": request.max_tool_calls,
            "model": self.model or request.model,
            "output": [item.to_json() for item in self._items],
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": wire.get("reasoning") or {"effort": None, "summary": None},
            "service_tier": self._tier,
            "store": False,
            "temperature": request.temperature,
            "text": wire.get("text") or {"format": {"type": "text"}},
            "tool_choice": wire.get("tool_choice") or "auto",
            "tools": wire.get("tools") or [],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": request.top_p,
            "truncation": request.truncation or "disabled",
            "usage": self.usage,
            "user": request.user,
            "metadata": request.metadata or {},
            **self.state,
        }

    # ---- the parts of an answer

    def _event(self, event: Json) -> Json:
        numbered = {**event, "sequence_number": self.number}
        self.number += 1
        return numbered

    def _choice(self, choice: Json) -> Iterator[Json]:
        delta = choice.get("delta") or {}
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning:
            yield from self._reasoning_item(fresh=True)
            yield from self._reasoning().add(reasoning)
        if delta.get("thinking_blocks"):
            yield from self._blocks(delta["thinking_blocks"])
        if delta.get("content") or delta.get("refusal"):
            yield from self._message_item()
            message = self._open
            assert isinstance(message, MessageItem)
            if delta.get("content"):
                logprobs = (choice.get("logprobs") or {}).get("content") or []
                yield from message.add_text(delta["content"], logprobs, self._said)
                self._said += len(delta["content"])
            if delta.get("refusal"):
                yield from message.add_refusal(delta["refusal"])
        if delta.get("extra_content") and isinstance(self._open, MessageItem):
            self._open.extra_content = delta["extra_content"]
        if delta.get("grounding") and isinstance(self._open, MessageItem):
            self._open.ground(delta["grounding"])
        if not delta.keys().isdisjoint(_RESULTS):
            yield from self._results(delta)
        for call in delta.get("tool_calls") or ():
            yield from self._tool(call)
        self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def _blocks(self, blocks: list[Json]) -> Iterator[Json]:
        yield from self._reasoning_item(fresh=False)
        self._reasoning().blocks += map(unnumbered, blocks)

    def _results(self, delta: Json) -> Iterator[Json]:
        """The annotations, the pictures and the provider's own tool calls of a delta."""
        for annotation in delta.get("annotations") or ():
            yield from self._annotation(annotation)
        for image in delta.get("images") or ():
            item = drawn(unnumbered(image))
            if item is not None:
                yield from self._hosted(unnumbered(item))
            else:
                text = f"\n\n![image]({image['image_url']['url']})\n\n"
                yield from self._choice({"delta": {"content": text}})
        for item in delta.get("server_tool_calls") or ():
            yield from self._hosted(unnumbered(item))
        for step in delta.get(STEPS) or ():
            yield from self._step(step)

    def _step(self, step: ItemStep) -> Iterator[Json]:
        """The events of a step of a tool that the gateway runs."""
        item = self._steps.get(step.id)
        if item is None:
            yield from self._close()
            item = self._steps[step.id] = HostedItem(step.id, len(self._items), body={"type": step.kind})
            item.body |= step.fields
            self._items.append(item)
            yield item.added()
        yield from item.step(step)

    def _annotation(self, annotation: Json) -> Iterator[Json]:
        """Annotate the text that is meant; its item may be done already."""
        kind = str(annotation.get("type"))
        inner = annotation.get(kind)
        places = {"start_index": 0, "end_index": 0, "title": "", "url": ""} if kind == "url_citation" else {}
        made = {"type": kind, **places, **(inner if isinstance(inner, dict) else annotation)}
        made.pop("content", None)  # the cited text, which a response has no place for
        at = next((made[name] for name in ("start_index", "index") if type(made.get(name)) is int), 0)
        for item in reversed(self._items):
            events = item.annotate(made, at) if isinstance(item, MessageItem) else None
            if events is not None:
                yield from events
                return

    def _hosted(self, body: Json) -> Iterator[Json]:
        yield from self._close()
        given = body.get("id")
        name = given if isinstance(given, str) and given else self._id("item")
        item = HostedItem(name, len(self._items), body=body)
        self._items.append(item)
        yield from item.events()

    def _reasoning(self) -> ReasoningItem:
        assert isinstance(self._open, ReasoningItem)
        return self._open

    def _reasoning_item(self, *, fresh: bool) -> Iterator[Json]:
        """Open a reasoning item, unless one is open; ``fresh`` text needs one without signed blocks."""
        if isinstance(self._open, ReasoningItem) and not (fresh and self._open.blocks):
            return
        yield from self._close()
        self._open = ReasoningItem(self._id("rs"), len(self._items), model=self.model)
        self._items.append(self._open)
        yield self._open.added()

    def _message_item(self) -> Iterator[Json]:
        if isinstance(self._open, MessageItem):
            return
        yield from self._close()
        self._open = MessageItem(self._id("msg"), len(self._items))
        self._items.append(self._open)
        yield self._open.added()

    def _tool(self, delta: Json) -> Iterator[Json]:
        position = delta.get("index", 0)
        inner = delta.get("custom") or delta.get("function") or {}
        item = self._tools.get(position)
        if item is None:
            if delta.get("extra_content"):
                yield from self._blocks([signed_call(delta)])
            yield from self._close()
            item = self._tools[position] = self._new_tool(delta, inner.get("name") or "")
            self._items.append(item)
            yield item.added()
        given = inner.get("input") if isinstance(item, CustomToolItem) else inner.get("arguments")
        if given:
            yield from item.add(given)

    def _new_tool(self, delta: Json, name: str) -> _Call:
        self._toolbox = self._toolbox or Toolbox(self.request)
        key, at = self._toolbox.key_of(name), len(self._items)
        call_id, extra = delta.get("id") or self._id("call"), delta.get("extra_content")
        if delta.get("type") == "custom":
            made = CustomToolItem(self._id("ctc"), at, call_id=call_id, name=key.name, extra_content=extra)
            made.namespace = key.namespace
            return made
        tool = CLIENT_TOOLS.get(key.kind)
        if tool is not None:
            return ClientToolItem(self._id(tool.prefix), at, call_id=call_id, tool=tool, extra_content=extra)
        item = ToolItem(self._id("fc"), at, call_id=call_id, name=key.name, extra_content=extra)
        item.namespace = key.namespace
        return item

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{OWN_ID}{self.response_id.removeprefix('resp_')}{len(self._items):02x}"

    def _close(self, status: str = "completed") -> Iterator[Json]:
        if self._open is not None:
            closing, self._open = self._open, None
            yield from closing.done(status)

    def _close_all(self, status: str) -> Iterator[Json]:
        yield from self._close(status)
        for item in self._tools.values():
            yield from item.done(status)


_Call = ToolItem | CustomToolItem | ClientToolItem
_RESULTS = frozenset({"annotations", "images", "server_tool_calls", STEPS})
_COUNTED = ("cache_creation", "server_tool_use", TIMINGS)


def _usage(usage: Json) -> Json:
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage.get("prompt_tokens", 0),
        "input_tokens_details": {
            **prompt,
            "cached_tokens": prompt.get("cached_tokens") or 0,
            "cache_write_tokens": prompt.get("cache_write_tokens") or 0,
        },
        **{name: usage[name] for name in _COUNTED if name in usage},
        "output_tokens": usage.get("completion_tokens", 0),
        "output_tokens_details": {**completion, "reasoning_tokens": completion.get("reasoning_tokens") or 0},
        "total_tokens": usage.get("total_tokens", 0),
    }
