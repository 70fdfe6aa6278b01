"""Translates the events of ``ConverseStream`` into OpenAI's chunks. Source: botocore's model of the service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from backends.anthropic.results import annotation_of
from backends.base import Upstream
from backends.streams.assemble import joined_base64
from backends.streams.chunks import NO_COUNTS, ChunkWriter, added, usage
from backends.translation import reading
from catalog.errors import AnswerInvalid, StreamBroken
from catalog.types import Json

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
"""Others are failures of the model (``malformed_tool_use``) or unknown; an unknown one is an ordinary end."""

SERVED = {"default": "default", "flex": "flex", "priority": "priority"}
"""OpenAI's names of the tiers of service."""


@dataclass(slots=True)
class _Block:
    position: int | None = None
    has_input: bool = False
    text: list[str] = field(default_factory=list)
    signature: list[str] = field(default_factory=list)
    start: int = 0
    citations: list[Json] = field(default_factory=list)
    kind: str = ""
    picture: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ConverseStream:
    """Translates one answer: :meth:`feed` it the events in order, then :meth:`close` it.

    ``identity`` is the request's id at Bedrock, ``created`` in Unix seconds.
    """

    upstream: Upstream
    identity: str
    created: int
    finished: bool = False
    _blocks: dict[int, _Block] = field(default_factory=dict)
    _calls: int = 0
    _said: int = 0
    _chunks: ChunkWriter = field(init=False)

    def __post_init__(self) -> None:
        self._chunks = ChunkWriter(f"chatcmpl-{self.identity}", self.upstream.model, self.created)

    def feed(self, kind: str, event: Json) -> Iterator[Json]:
        """The chunks of an event of this kind, often none. Raises AnswerInvalid when the model failed."""
        with reading("Bedrock"):
            match kind:
                case "messageStart":
                    yield self._chunks.delta({"role": "assistant", "content": ""})
                case "contentBlockStart":
                    yield from self._start(event["contentBlockIndex"], event["start"])
                case "contentBlockDelta":
                    block = self._blocks.setdefault(event["contentBlockIndex"], _Block(start=self._said))
                    yield from self._delta(block, event["delta"])
                case "contentBlockStop":
                    yield from self._stop(self._blocks.pop(event["contentBlockIndex"], None))
                case "messageStop":
                    yield from self._end(event["stopReason"])
                case "metadata":
                    tier = event.get("serviceTier") or {}
                    self._chunks.service_tier = SERVED.get(str(tier.get("type")))
                    yield self._chunks.usage(_usage(event["usage"]))
                case _:  # kinds added to the API later
                    return

    def close(self) -> None:
        """Raises StreamBroken unless the answer came with a stop reason."""
        if not self.finished:
            raise StreamBroken("Bedrock's stream ended before the message did.")

    def _start(self, index: int, start: Json) -> Iterator[Json]:
        block = self._blocks[index] = _Block(start=self._said)
        if "image" in start:
            block.kind = start["image"]["format"]
        use = start.get("toolUse")
        if use is not None:
            block.position = self._calls
            self._calls += 1
            yield self._chunks.tool_start(block.position, use["toolUseId"], use["name"])

    def _delta(self, block: _Block, delta: Json) -> Iterator[Json]:
        if text := delta.get("text"):
            self._said += len(text)
            yield self._chunks.text(text)
        if "citation" in delta:
            block.citations.append(_cited(delta["citation"]))
        if "image" in delta:
            block.picture.append((delta["image"].get("source") or {}).get("bytes") or "")
        if "toolUse" in delta and block.position is not None and (given := delta["toolUse"]["input"]):
            block.has_input = True
            yield self._chunks.tool_arguments(block.position, given)
        reasoning = delta.get("reasoningContent")
        if reasoning is not None:
            if text := reasoning.get("text"):
                block.text.append(text)
                yield self._chunks.delta({"reasoning_content": text})
            if signature := reasoning.get("signature"):
                block.signature.append(signature)
            if data := reasoning.get("redactedContent"):
                yield self._chunks.delta({"thinking_blocks": [{"type": "redacted_thinking", "data": data}]})

    def _stop(self, block: _Block | None) -> Iterator[Json]:
        if block is None:
            return
        if block.signature:
            kept = {"type": "thinking", "thinking": "".join(block.text), "signature": "".join(block.signature)}
            yield self._chunks.delta({"thinking_blocks": [kept]})
        if block.citations:
            made = [annotation_of(one, block.start, self._said) for one in block.citations]
            yield self._chunks.delta({"annotations": made})
        if data := joined_base64(block.picture):
            url = f"data:image/{block.kind or 'png'};base64,{data}"
            yield self._chunks.delta({"images": [{"type": "image_url", "image_url": {"url": url}}]})
        if block.position is not None and not block.has_input:
            yield self._chunks.tool_arguments(block.position, "{}")

    def _end(self, reason: str) -> Iterator[Json]:
        if reason.startswith("malformed"):
            raise AnswerInvalid(f"'{self.upstream.model}' failed to answer ({reason}).")
        if FINISH_REASONS.get(reason) == "content_filter":
            yield self._chunks.delta({"refusal": f"Bedrock stopped the answer ({reason})."})
        yield self._chunks.delta({}, finish_reason=FINISH_REASONS.get(reason, "stop"))
        self.finished = True  # only now: what restores the chunk may still find the answer invalid


def _cited(citation: Json) -> Json:
    """A citation in Anthropic's words: of a page, of a result of the caller's own search, or of a document."""
    place = citation.get("location") or {}
    url = (place.get("web") or {}).get("url")
    if url is None and "searchResultLocation" in place:
        url = citation.get("source")
    text = "".join(one.get("text") or "" for one in citation.get("sourceContent") or ())
    return {"title": citation.get("title"), "url": url, "cited_text": text}


def _usage(counts: Json) -> Json:
    """Bedrock counts cached tokens beside the prompt's."""
    read = added(counts.get("cacheReadInputTokens") or 0)
    written = added(counts.get("cacheWriteInputTokens") or 0)
    lives = {
        f"ephemeral_{one['ttl']}_input_tokens": added(one["inputTokens"])
        for one in counts.get("cacheDetails") or ()
        if one["ttl"] in ("5m", "1h")
    }
    return usage(
        prompt=added(counts["inputTokens"], read, written),
        completion=added(counts["outputTokens"]),
        cached=read,
        cache_write=written,
        more={"cache_creation": lives} if lives else NO_COUNTS,
    )
