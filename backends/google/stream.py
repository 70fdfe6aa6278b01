"""Translates Gemini's stream into OpenAI's chunks. Source: Google's Gemini API reference, its SDK's types."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from backends.base import Upstream
from backends.google.errors import read_stream_error
from backends.streams.chunks import ChunkWriter, added, usage
from backends.translation import reading
from catalog.errors import AnswerInvalid, StreamBroken, UpstreamProtocolError
from catalog.types import Json

FINISH_REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "ESCALATION"),
            *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR"),
        ),
        "content_filter",
    ),
}
"""Any other reason (a malformed call, an unknown failure) is an error of this one answer."""


@dataclass(slots=True)
class _Candidate:
    calls: int = 0
    reason: str | None = None


@dataclass(slots=True)
class GeminiStream:
    """Translates one answer: :meth:`feed` it the events' data in order, then :meth:`finish` it.

    ``created`` is in Unix seconds. A tool call without an id gets one made of the answer's id and the call's
    position, so the same answer always has the same ids.
    """

    upstream: Upstream
    created: int
    _writer: ChunkWriter | None = None
    _candidates: dict[int, _Candidate] = field(default_factory=dict)
    _usage: Json = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether every choice has a finish reason."""
        return bool(self._candidates) and all(one.reason for one in self._candidates.values())

    def feed(self, payload: Json) -> Iterator[Json]:
        """The chunks of this event.

        Raises the typed error of an ``error`` object, :class:`AnswerInvalid` when the model failed.
        """
        with reading("Google"):
            if "error" in payload:
                raise read_stream_error(payload, self.upstream)
            if self._writer is None:
                self._writer = ChunkWriter(
                    id=f"chatcmpl-{payload.get('responseId') or 'gemini'}",
                    model=payload.get("modelVersion") or self.upstream.model,
                    created=self.created,
                )
            counts = payload.get("usageMetadata")
            if isinstance(counts, dict):
                self._usage |= counts
            blocked = (payload.get("promptFeedback") or {}).get("blockReason")
            if blocked:
                yield from self._blocked(blocked)
            for candidate in payload.get("candidates") or ():
                yield from self._candidate(candidate)

    def finish(self) -> Iterator[Json]:
        """The last chunks: the finish reason of each choice, then the usage.

        Raises :class:`StreamBroken` when a choice has none.
        """
        if not self.finished:
            raise StreamBroken("Google's stream ended before the answer did.")
        for index, candidate in sorted(self._candidates.items()):
            reason = candidate.reason
            if reason == "stop" and candidate.calls:
                reason = "tool_calls"
            yield self._chunks.delta({}, index=index, finish_reason=reason)
        yield self._chunks.usage(self._total())

    @property
    def _chunks(self) -> ChunkWriter:
        if self._writer is None:
            raise UpstreamProtocolError("Google's stream is empty.")
        return self._writer

    def _open(self, index: int) -> Iterator[Json]:
        if index not in self._candidates:
            self._candidates[index] = _Candidate()
            yield self._chunks.delta({"role": "assistant", "content": ""}, index=index)

    def _blocked(self, reason: str) -> Iterator[Json]:
        yield from self._open(0)
        self._candidates[0].reason = "content_filter"
        yield self._chunks.delta({"refusal": f"Gemini blocked the prompt ({reason})."})

    def _candidate(self, given: Json) -> Iterator[Json]:
        index = given.get("index", 0)
        yield from self._open(index)
        candidate = self._candidates[index]
        logprobs = _logprobs(given.get("logprobsResult") or {})
        for part in (given.get("content") or {}).get("parts") or ():
            for chunk in self._part(part, candidate, index):
                if logprobs and chunk["choices"][0]["delta"].get("content"):
                    chunk["choices"][0]["logprobs"], logprobs = logprobs, None
                yield chunk
        reason = given.get("finishReason")
        if reason and reason != "FINISH_REASON_UNSPECIFIED":
            yield from self._end(reason, given.get("finishMessage"), candidate, index)

    def _part(self, part: Json, candidate: _Candidate, index: int) -> Iterator[Json]:
        signature = part.get("thoughtSignature")
        extra = {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}
        call = part.get("functionCall")
        if call is not None:
            position = candidate.calls
            candidate.calls += 1
            call_id = call.get("id") or f"call_{self._chunks.id.removeprefix('chatcmpl-')}_{index}_{position}"
            yield self._chunks.tool_start(position, call_id, call["name"], index=index, **extra)
            arguments = orjson.dumps(call.get("args") or {}).decode()
            yield self._chunks.tool_arguments(position, arguments, index=index)
            return
        text = part.get("text")
        if text and part.get("thought"):
            yield self._chunks.delta({"reasoning_content": text}, index=index)
        elif text:
            yield self._chunks.text(text, index=index)
        if extra and not part.get("thought"):
            yield self._chunks.delta(extra, index=index)

    def _end(self, reason: str, message: str | None, candidate: _Candidate, index: int) -> Iterator[Json]:
        known = FINISH_REASONS.get(reason)
        if known is None:
            raise AnswerInvalid(f"Gemini failed to answer ({reason}){': ' + message if message else ''}.")
        candidate.reason = known
        if known == "content_filter":
            refusal = message or f"Gemini stopped its answer ({reason})."
            yield self._chunks.delta({"refusal": refusal}, index=index)

    def _total(self) -> Json:
        """Gemini counts thoughts beside the answer, OpenAI within it; cached tokens are within the prompt."""
        count = self._usage.get
        thoughts = added(count("thoughtsTokenCount") or 0)
        return usage(
            prompt=added(count("promptTokenCount") or 0, count("toolUsePromptTokenCount") or 0),
            completion=added(count("candidatesTokenCount") or 0, thoughts),
            cached=added(count("cachedContentTokenCount") or 0),
            reasoning=thoughts,
        )


def _logprobs(result: Json) -> Json | None:
    chosen = result.get("chosenCandidates")
    if not chosen:
        return None
    tops = result.get("topCandidates") or [{}] * len(chosen)
    return {
        "content": [
            {**_token(one), "top_logprobs": [_token(other) for other in top.get("candidates") or ()]}
            for one, top in zip(chosen, tops, strict=True)
        ],
        "refusal": None,
    }


def _token(one: Json) -> Json:
    return {
        "token": one["token"],
        "logprob": one["logProbability"],
        "bytes": list(one["token"].encode()),
    }
