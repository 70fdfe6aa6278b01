"""Translates Gemini's stream into OpenAI's chunks. Source: Google's Gemini API reference, its SDK's types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from backends.base import Upstream
from backends.google.errors import read_stream_error
from backends.google.modalities import wav_file
from backends.google.models import traits
from backends.google.results import OwnTools, picture_of
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
MAX_REQUESTS = 9
"""The most requests that one answer takes; then it ends as one that is cut off."""

_TIERS = {"standard": "default", "flex": "flex", "priority": "priority"}
_TIERS |= {"on_demand": "default", "on_demand_flex": "flex", "on_demand_priority": "priority"}
"""OpenAI's names of the tiers in the Gemini API's header, and of Vertex AI's types of traffic."""
_KINDS = ("AUDIO", "IMAGE", "VIDEO", "DOCUMENT")


@dataclass(slots=True)
class _Candidate:
    calls: int = 0
    reason: str | None = None
    own: OwnTools = field(default_factory=OwnTools)
    sound: list[Json] = field(default_factory=list)


@dataclass(slots=True)
class GeminiStream:
    """Translates one answer: :meth:`feed` it the events' data in order, then :meth:`finish` it.

    ``created`` is in Unix seconds, ``service_tier`` Google's name of it. With ``wav`` the sound of a choice comes
    as one WAV file at its end. A call without an id gets one made of the answer's id and the call's position, so
    the same answer always has the same ids. An answer that Google interrupts at the limit of one request is
    :attr:`paused` and can :meth:`resume`, as Google's own SDK does, if it ``resumes``: several choices do not.
    ``bound`` is the most tokens in all.
    """

    upstream: Upstream
    created: int
    service_tier: str | None = None
    wav: bool = False
    bound: int | None = None
    resumes: bool = True
    paused: bool = False
    _writer: ChunkWriter | None = None
    _candidates: dict[int, _Candidate] = field(default_factory=dict)
    _usage: Json = field(default_factory=dict)
    _earlier: list[Json] = field(default_factory=list)
    _token: str | None = None

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
                tier = self.service_tier or self._usage.get("trafficType")
                self._writer.service_tier = _TIERS.get(str(tier).lower())
            blocked = (payload.get("promptFeedback") or {}).get("blockReason")
            if blocked:
                yield from self._blocked(blocked)
            for candidate in payload.get("candidates") or ():
                yield from self._candidate(candidate)

    def resume(self, body: Json) -> Json:
        """The body that lets a paused answer go on. Feed its events to this stream, too."""
        self.paused = False
        self._earlier.append(self._usage)
        self._usage = {}
        more = {**body, "continuationToken": self._token}
        if self.bound is not None:
            more["generationConfig"] = {
                **body["generationConfig"],
                "maxOutputTokens": self.bound - self._written(),
            }
        return more

    def finish(self) -> Iterator[Json]:
        """The last chunks: the finish reason of each choice, then the usage.

        Raises :class:`StreamBroken` when a choice has none.
        """
        if not self.finished:
            raise StreamBroken("Google's stream ended before the answer did.")
        for index, candidate in sorted(self._candidates.items()):
            with reading("Google"):
                yield from self._results(candidate.own, index)
                yield from self._file(candidate.sound, index)
            reason = candidate.reason
            if reason == "stop" and candidate.calls:
                reason = "tool_calls"
            yield self._chunks.delta({}, index=index, finish_reason=reason)
        yield self._chunks.usage(self._total())

    def _file(self, sound: list[Json], index: int) -> Iterator[Json]:
        if sound:
            data = wav_file([one["data"] for one in sound], sound[0]["mime_type"])
            said = "".join(one["transcript"] for one in sound)
            whole = {**sound[0], "data": data, "transcript": said, "mime_type": "audio/wav"}
            yield self._chunks.delta({"audio": whole}, index=index)

    def _results(self, own: OwnTools, index: int) -> Iterator[Json]:
        if annotations := own.annotations():
            yield self._chunks.delta({"annotations": annotations}, index=index)
        if items := own.items(f"{self._chunks.id.removeprefix('chatcmpl-')}_{index}"):
            yield self._chunks.delta({"server_tool_calls": items}, index=index)

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
        candidate.own.note(given)
        for part in (given.get("content") or {}).get("parts") or ():
            for chunk in self._part(part, candidate, index):
                if logprobs and chunk["choices"][0]["delta"].get("content"):
                    chunk["choices"][0]["logprobs"], logprobs = logprobs, None
                yield chunk
        reason = given.get("finishReason")
        if reason and reason != "FINISH_REASON_UNSPECIFIED":
            token = given.get("continuationToken")
            if reason == "CONTINUATION" and isinstance(token, str) and self._can_resume(token):
                self._token, self.paused = token, True
            else:
                yield from self._end(reason, given.get("finishMessage"), candidate, index)

    def _can_resume(self, token: str) -> bool:
        """Whether a further request would write more: the same token would bring the same text again."""
        may = self.resumes and len(self._earlier) + 1 < MAX_REQUESTS
        return may and token != self._token and (self.bound is None or self._written() < self.bound)

    def _written(self) -> int:
        """The tokens of the answer so far."""
        return sum(
            added(counts.get("candidatesTokenCount") or 0, counts.get("thoughtsTokenCount") or 0)
            for counts in (*self._earlier, self._usage)
        )

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
        if candidate.own.take(part):
            return
        if part.get("inlineData") and not part.get("thought"):  # a thought's pictures are sketches of the answer's
            medium = self._medium(part, extra)
            if self.wav and "audio" in medium and medium["audio"]["mime_type"].lower().startswith("audio/l16"):
                candidate.sound.append(medium["audio"])
            else:
                yield self._chunks.delta(medium, index=index)
            return
        text = part.get("text")
        if text and part.get("thought"):
            yield self._chunks.delta({"reasoning_content": text}, index=index)
        elif text:
            candidate.own.texts.append(text)
            yield self._chunks.text(text, index=index)
        if extra and not part.get("thought"):
            yield self._chunks.delta(extra, index=index)

    def _medium(self, part: Json, extra: Json) -> Json:
        """The delta of a picture or of sound, which is complete."""
        data = part["inlineData"]
        if not str(data["mimeType"]).startswith("audio/"):
            return {"images": [picture_of(part, extra)]}
        said = (part.get("audioTranscription") or {}).get("text") or ""
        audio = {"id": f"audio_{self._chunks.id.removeprefix('chatcmpl-')}", "data": data["data"]}
        return {"audio": {**audio, "transcript": said, "expires_at": 0, "mime_type": data["mimeType"]}}

    def _end(self, reason: str, message: str | None, candidate: _Candidate, index: int) -> Iterator[Json]:
        known = FINISH_REASONS.get(reason)
        if known is None:
            raise AnswerInvalid(f"Gemini failed to answer ({reason}){': ' + message if message else ''}.")
        candidate.reason = known
        if known == "content_filter":
            refusal = message or f"Gemini stopped its answer ({reason})."
            yield self._chunks.delta({"refusal": refusal}, index=index)

    def _total(self) -> Json:
        """Gemini counts thoughts beside the answer, OpenAI within it; cached tokens are within the prompt.

        Each request of an answer is counted, and charged, by itself.
        """
        all_ = [*self._earlier, self._usage]

        def total(*names: str) -> int:
            return added(*(counts.get(name) or 0 for counts in all_ for name in names))

        thoughts = total("thoughtsTokenCount")
        queries = [len(candidate.own.queries) for candidate in self._candidates.values()]
        by_query = traits(self.upstream.model).pays_by_query
        searches = sum(made if by_query else min(made, 1) for made in queries)
        return usage(
            prompt=total("promptTokenCount", "toolUsePromptTokenCount"),
            completion=total("candidatesTokenCount", "thoughtsTokenCount"),
            cached=total("cachedContentTokenCount"),
            reasoning=thoughts,
            read=_kinds(counts.get("promptTokensDetails") for counts in all_),
            written=_kinds(counts.get("candidatesTokensDetails") for counts in all_),
            more={"server_tool_use": {"web_search_requests": searches}} if searches else {},
        )


def _kinds(of_requests: Iterable[Any]) -> dict[str, int]:
    """Tokens by kind, text left out; a request tells each once. Details that are none spoil no whole answer."""
    kinds: Counter[str] = Counter()
    for details in of_requests:
        of_one: dict[str, int] = {}
        for one in details if isinstance(details, list) else ():
            if not isinstance(one, dict):
                continue
            kind, told = one.get("modality"), one.get("tokenCount")
            if kind in _KINDS and type(told) is int:
                of_one[f"{kind.lower()}_tokens"] = told
        kinds.update(of_one)
    return dict(kinds)


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
