"""Translates the events of a response into OpenAI's chunks. Source: OpenAI's API reference and SDK types.

Calls of hosted tools are ``server_tool_calls``, each complete, and pictures ``images``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from backends.base import Upstream
from backends.openai.responses.errors import error_of, named, read_failure
from backends.openai.responses.reasoning import block_of
from backends.streams.chunks import ChunkWriter, added, usage
from backends.streams.shapes import WrongShape
from backends.translation import reading
from catalog.errors import StreamBroken, UpstreamProtocolError
from catalog.types import Json

FINISH_REASONS = {"max_output_tokens": "length", "max_messages": "length", "content_filter": "content_filter"}
"""The finish reason of an incomplete response; of one that was steered it is "stop"."""

_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Items that are tool calls of a chat, and the field with what the tool is given."""

_PARAGRAPH = "\n\n"
_PLACES = ("start_index", "end_index", "index")
_DELTAS = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.reasoning_text.delta": "reasoning",
    "response.function_call_arguments.delta": "given",
    "response.custom_tool_call_input.delta": "given",
}


@dataclass(slots=True)
class _Item:
    """An output item in progress. ``said`` is whether its text came in pieces already."""

    kind: str
    position: int = -1
    said: bool = False


@dataclass(slots=True)
class ResponseReader:
    """Translates one answer: :meth:`feed` it the events in order, then :meth:`close` it.

    ``created`` (Unix seconds) is used if the response has no time. ``chat``: the caller asked in a chat, so errors
    name its fields.
    """

    upstream: Upstream
    created: int
    chat: bool = True
    finished: bool = False
    _writer: ChunkWriter | None = None
    _items: dict[int, _Item] = field(default_factory=dict)
    _thoughts: list[Json] = field(default_factory=list)
    _calls: int = 0
    _texts: int = 0
    _said: int = 0
    _begins: int = 0
    _summaries: int = 0
    _separate: bool = False

    def feed(self, event: Json) -> Iterator[Json]:
        """The chunks of this event, often none.

        Raises the typed error of a failure, UpstreamProtocolError for an event of another shape.
        """
        with reading("The Responses API"):
            _need_kind(event)
            match event["type"]:
                case "response.created":
                    yield from self._start(event["response"])
                case "response.output_item.added":
                    yield from self._added(event["output_index"], event["item"])
                case "response.output_text.annotation.added":
                    yield from self._annotation(event.get("annotation"))
                case "response.content_part.added":
                    self._begin_part()
                case "response.reasoning_summary_part.added":
                    self._separate = self._summaries > 0
                case "response.output_item.done":
                    yield from self._done(event["output_index"], event["item"])
                case "response.completed" | "response.incomplete":
                    yield from self._end(event["response"])
                case "response.failed" | "error" as kind:
                    failure = error_of(event) if kind == "error" else event["response"].get("error")
                    raise named(read_failure(failure, self.upstream), chat=self.chat)
                case kind if kind in _DELTAS:
                    yield from self._delta(kind, self._items[event["output_index"]], event)
                case _:  # parts and ends of what came in pieces, hosted tools, and kinds added to the API later
                    return

    def whole(self, response: Json) -> Iterator[Json]:
        """The events that a response which came as one document would have had."""
        with reading("The Responses API"):
            yield {"type": "response.created", "response": {**response, "output": [], "status": "in_progress"}}
            for index, item in enumerate(response["output"]):
                yield {"type": "response.output_item.added", "output_index": index, "item": _begun(item)}
                yield {"type": "response.output_item.done", "output_index": index, "item": item}
            yield {"type": f"response.{response['status']}", "response": response}

    def close(self) -> None:
        """Raises StreamBroken unless the response ended."""
        if not self.finished:
            raise StreamBroken(f"The endpoint '{self.upstream.endpoint}' ended its answer before it was complete.")

    @property
    def _chunks(self) -> ChunkWriter:
        if self._writer is None:
            raise UpstreamProtocolError("The Responses API's stream did not begin with response.created.")
        return self._writer

    def _start(self, response: Json) -> Iterator[Json]:
        made = response.get("created_at")
        self._writer = ChunkWriter(
            id=f"chatcmpl-{response['id']}",
            model=response.get("model") or self.upstream.model,
            created=int(made) if isinstance(made, int | float) else self.created,
        )
        yield self._writer.delta({"role": "assistant", "content": ""})

    def _added(self, index: int, item: Json) -> Iterator[Json]:
        kind = item["type"]
        made = self._items[index] = _Item(kind)
        if kind in _CALLS:
            yield from self._thought(item["call_id"])
            made.position = self._calls
            self._calls += 1
            if kind == "function_call":
                yield self._chunks.tool_start(made.position, item["call_id"], item["name"])
            else:
                custom = {"name": item["name"], "input": ""}
                call = {"index": made.position, "id": item["call_id"], "type": "custom", "custom": custom}
                yield self._chunks.delta({"tool_calls": [call]})
        elif kind == "message":
            yield from self._thought(None)
            self._texts += 1
            self._begin_part()

    def _delta(self, kind: str, item: _Item, event: Json) -> Iterator[Json]:
        text = event["delta"]
        match _DELTAS[kind]:
            case "text":
                item.said = True
                yield from self._text(text, event.get("logprobs"))
            case "refusal":
                item.said = True
                yield self._chunks.delta({"refusal": text})
            case "reasoning":
                item.said = True
                yield self._reasoning(text)
            case _:
                yield from self._given(item, text)

    def _given(self, item: _Item, text: str) -> Iterator[Json]:
        if not text or item.kind not in _CALLS:
            return
        item.said = True
        if item.kind == "function_call":
            yield self._chunks.tool_arguments(item.position, text)
        else:
            yield self._chunks.delta({"tool_calls": [{"index": item.position, "custom": {"input": text}}]})

    def _begin_part(self) -> None:
        """Note where a text begins in the answer; a second message, after a comment, is a paragraph of its own."""
        self._begins = self._said + (len(_PARAGRAPH) if self._texts > 1 else 0)

    def _text(self, text: str, logprobs: Any = None) -> Iterator[Json]:
        if self._texts > 1:
            self._texts = 1
            text = _PARAGRAPH + text
        self._said += len(text)
        chunk = self._chunks.text(text)
        if logprobs:
            chunk["choices"][0]["logprobs"] = {"content": list(map(_token, logprobs)), "refusal": None}
        yield chunk

    def _reasoning(self, text: str) -> Json:
        self._summaries += 1
        if self._separate:
            text, self._separate = f"\n\n{text}", False
        return self._chunks.delta({"reasoning_content": text})

    def _annotation(self, annotation: Any) -> Iterator[Json]:
        """An annotation in a chat's form, with places in the whole text instead of those in its part."""
        if isinstance(annotation, dict):
            kind = annotation["type"]
            inner = {name: value for name, value in annotation.items() if name != "type"}
            inner |= {name: inner[name] + self._begins for name in _PLACES if type(inner.get(name)) is int}
            yield self._chunks.delta({"annotations": [{"type": kind, kind: inner}]})

    def _done(self, index: int, item: Json) -> Iterator[Json]:
        """Note a finished reasoning item; of an item that did not come in pieces, give the whole."""
        known = self._items.get(index) or _Item(item["type"])
        if item["type"] == "image_generation_call":
            yield from self._picture(item)
        elif item["type"].endswith("_call") and item["type"] not in _CALLS:
            self._thoughts.append(item)
            yield self._chunks.delta({"server_tool_calls": [item]})
        elif item["type"] == "reasoning":
            self._thoughts.append(item)
            told = [part["text"] for part in (*(item.get("summary") or ()), *(item.get("content") or ()))]
            if told and not known.said:
                yield self._reasoning("\n\n".join(told))
        elif known.said:
            return
        elif item["type"] in _CALLS:
            yield from self._given(known, item[_CALLS[item["type"]]])
        elif item["type"] == "message":
            for part in item["content"]:
                if part["type"] == "refusal":
                    yield self._chunks.delta({"refusal": part["refusal"]})
                elif part["type"] == "output_text":
                    self._begin_part()
                    yield from self._text(part["text"], part.get("logprobs"))
                    for annotation in part.get("annotations") or ():
                        yield from self._annotation(annotation)

    def _picture(self, item: Json) -> Iterator[Json]:
        if item.get("result"):
            url = f"data:image/{item.get('output_format') or 'png'};base64,{item['result']}"
            yield self._chunks.delta({"images": [{"type": "image_url", "image_url": {"url": url}}]})

    def _thought(self, before: str | None) -> Iterator[Json]:
        """The reasoning items and calls of hosted tools since the last text or call, as thinking blocks."""
        thoughts, self._thoughts = self._thoughts, []
        blocks = [block for item in thoughts if (block := block_of(item, self.upstream, before)) is not None]
        if blocks:
            yield self._chunks.delta({"thinking_blocks": blocks})

    def _end(self, response: Json) -> Iterator[Json]:
        yield from self._thought(None)
        reason = "tool_calls" if self._calls else "stop"
        if response["status"] == "incomplete":
            details = response.get("incomplete_details") or {}
            reason = FINISH_REASONS.get(str(details.get("reason")), "stop")
        self._chunks.service_tier = response.get("service_tier")
        yield self._chunks.delta({}, finish_reason=reason)
        self.finished = True
        if isinstance(response.get("usage"), dict):
            yield self._chunks.usage(_usage(response["usage"], response))


def _need_kind(event: Json) -> None:
    """Check the type of an event, which a caller of the Responses API gets as its name. Raises WrongShape."""
    kind = event["type"]
    if type(kind) is not str or not kind.isprintable():
        raise WrongShape("type", kind, "a name")


def _begun(item: Json) -> Json:
    """A whole item as it was when it began."""
    begun = {name: value for name, value in item.items() if name not in ("summary", "encrypted_content")}
    empty = {"content": [], "arguments": "", "input": ""}
    return {**begun, **{name: empty[name] for name in empty.keys() & item.keys()}}


def _token(entry: Json) -> Json:
    top = [{"bytes": None, **one} for one in entry.get("top_logprobs") or ()]
    return {"token": entry["token"], "bytes": entry.get("bytes"), "logprob": entry["logprob"], "top_logprobs": top}


def _usage(counts: Json, response: Json) -> Json:
    given = counts.get("input_tokens_details") or {}
    said = counts.get("output_tokens_details") or {}
    ran = _runs(response)
    more: Json = {"server_tool_use": ran} if ran else {}
    made = usage(
        prompt=added(counts.get("input_tokens", 0)),
        completion=added(counts.get("output_tokens", 0)),
        cached=added(given.get("cached_tokens") or 0),
        cache_write=added(given.get("cache_write_tokens") or 0),
        reasoning=added(said.get("reasoning_tokens") or 0),
        more=more,
    )
    if isinstance(given.get("cache_write_tokens_details"), dict):
        made["prompt_tokens_details"]["cache_write_tokens_details"] = given["cache_write_tokens_details"]
    return made


def _runs(response: Json) -> Json:
    """The searches, pictures, containers and other calls that may be paid by the piece, in Anthropic's words.

    ``tool_usage`` has OpenAI's own count of the searches; without it each search is one.
    """
    items = response.get("output") or ()
    told = (response.get("tool_usage") or {}).get("web_search") or {}
    calls = [item for item in items if item["type"] == "web_search_call"]
    searches = told.get("num_requests", sum((call.get("action") or {}).get("type") == "search" for call in calls))
    containers = {str(item.get("container_id")) for item in items if item["type"] == "code_interpreter_call"}
    shells = [item.get("environment") for item in items if item["type"] == "shell_call"]
    containers |= {
        str(place["container_id"]) for place in shells if isinstance(place, dict) and "container_id" in place
    }
    kinds = [item["type"] for item in items]
    counts = {
        "web_search_requests": searches,
        "containers": len(containers),
        "file_search_requests": kinds.count("file_search_call"),
        "image_generation_requests": kinds.count("image_generation_call"),
        "mcp_requests": kinds.count("mcp_call"),
    }
    return {name: count for name, count in counts.items() if count}
