"""Transcripts with speakers of models that do not tell them apart: another model says who spoke when.

The turns are a job of their own before the transcript's, with the limits, the trace and the spend of the request.
Each word goes to the turn that it is in, or to the nearest; without words' times, a segment to the turn that it
shares the most time with.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from types import TracebackType

from backends.wire.audio import TranscriptionRequest
from catalog.errors import RoundhouseError, StreamBroken, UnsupportedParameter
from catalog.model import Model
from catalog.types import Json
from routing.calling.answer import Answer
from routing.calling.job import Job
from routing.reading.intent import is_auto
from server.answers.transcripts import spoken_segments
from server.answers.wrapping import NoticedAnswer
from server.callers import Caller, Origin
from server.jobs import Opens, diarization_job, open_job, permitted, transcription_job
from server.runtime import Runtime

FINAL = "transcript.text.done"
_LABELS = re.compile(r"\b(?:scribe|diarize)\b")
_TURNS: Json = {
    "model": "auto", "response_format": "json", "language": None, "languages": (), "prompt": None,
    "keywords": (), "stream": False, "temperature": None, "timestamp_granularities": ("segment",),
}  # fmt: skip
"""The fields that make a transcription's request one of turns."""
_WORDS: Json = {
    "response_format": "verbose_json", "timestamp_granularities": ("word", "segment"),
    "known_speaker_names": (), "known_speaker_references": (), "chunking_strategy": None,
}  # fmt: skip
"""The fields that make it one of words and their times, without speakers."""


def opens_with_speakers(runtime: Runtime, job: Job[Json], caller: Caller, origin: Origin) -> Opens[Json]:
    """Choose how a transcription is opened: one with speakers is made of two where no model does both."""
    body = job.request
    assert isinstance(body, TranscriptionRequest)
    if body.response_format != "diarized_json" or _labels_itself(runtime, job, caller):
        return open_job
    turns = _limited(diarization_job(body.model_copy(update=_TURNS), origin), job)
    facts = permitted(turns.facts, caller, runtime.catalog)
    if not runtime.dispatcher.explain(facts).candidates:
        return open_job  # the refusal of the model itself says what to ask

    def opens(runtime: Runtime, job: Job[Json], caller: Caller) -> AbstractAsyncContextManager[Answer[Json]]:
        return Diarizing(runtime, job, caller, turns=turns, origin=origin)

    return opens


def labels_itself(model: Model) -> bool:
    """Whether a transcriber tells speakers apart: by its formats, or by its name."""
    formats = model.options.get("formats") or ()
    names = model.id.casefold().replace("_", "-")
    return not model.local and ("diarized_json" in formats or _LABELS.search(names) is not None)


def _labels_itself(runtime: Runtime, job: Job[Json], caller: Caller) -> bool:
    """Whether the model that is named does; where the router chooses, whether the first of its choices does."""
    try:
        if not is_auto(job.facts.requested):
            return all(map(labels_itself, runtime.catalog.replicas(job.facts.requested)))
        plan = runtime.dispatcher.explain(permitted(job.facts, caller, runtime.catalog))
        return any(labels_itself(each.model) for each in plan.candidates[:1])
    except RoundhouseError:
        return True  # opening raises it


def _limited(turns: Job[Json], job: Job[Json]) -> Job[Json]:
    intent = replace(job.facts.intent, task=None, require=frozenset(), escalate=False, timings=False)
    return replace(turns, facts=replace(turns.facts, intent=intent))


class Diarizing(AbstractAsyncContextManager[Answer[Json]]):
    """Opens the turns' job, then the transcript's; entering raises what either raises."""

    def __init__(
        self, runtime: Runtime, job: Job[Json], caller: Caller, *, turns: Job[Json], origin: Origin
    ) -> None:
        self._runtime = runtime
        self._job = job
        self._caller = caller
        self._turns = turns
        self._origin = origin
        self._opening: AbstractAsyncContextManager[Answer[Json]] | None = None

    async def __aenter__(self) -> Answer[Json]:
        done: Json | None = None
        async with open_job(self._runtime, self._turns, self._caller) as heard:
            async for event in heard:
                if event.get("type") == FINAL:
                    done = event
        if done is None:
            raise StreamBroken("The turns of the speakers ended before they were complete.")
        body = self._job.request
        assert isinstance(body, TranscriptionRequest)
        made = transcription_job(body.model_copy(update=_WORDS), self._origin)
        facts = replace(made.facts, intent=self._job.facts.intent)
        job = replace(made, facts=facts, further=True, spent=heard.spent, left_out=self._job.left_out)
        opening = open_job(self._runtime, job, self._caller)
        answer = await opening.__aenter__()
        self._opening = opening
        turns = [
            SpokenTurn(turn["start"], turn["end"], str(turn["speaker"])) for turn in done.get("segments") or ()
        ]
        return DiarizedAnswer(answer, turns, by=heard.model.id, streamed=body.stream)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._opening is not None
        return await self._opening.__aexit__(kind, error, traceback)


@dataclass(frozen=True, slots=True)
class SpokenTurn:
    """One speaker's turn, in seconds."""

    start: float
    end: float
    speaker: str


class DiarizedAnswer(NoticedAnswer):
    """A transcript whose segments have speakers. A stream tells each segment before the end."""

    def __init__(self, answer: Answer[Json], turns: Sequence[SpokenTurn], *, by: str, streamed: bool) -> None:
        super().__init__(answer, f"'{by}' told the speakers apart")
        self._turns = turns
        self._streamed = streamed

    def __aiter__(self) -> AsyncIterator[Json]:
        return self._labelled()

    async def _labelled(self) -> AsyncGenerator[Json]:
        items = aiter(self._answer)
        told: list[Json] = []
        try:
            async for event in items:
                heard = event.pop("segment", None)
                if event.get("type") == FINAL:
                    late = [] if told else list(labelled(event, self._turns))
                    event = {**event, "segments": told or late}
                    event.pop("words", None)
                    for segment in spoken_segments({"segments": late}) if self._streamed else ():
                        yield segment
                yield event
                if heard is None:
                    continue
                for segment in labelled({"segments": [heard], "words": heard["words"]}, self._turns):
                    del segment["words"]
                    told.append({**segment, "id": len(told)})
                    if self._streamed:
                        yield {**spoken_segments({"segments": told[-1:]})[0], "id": f"seg_{len(told) - 1}"}
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()


def labelled(done: Json, turns: Sequence[SpokenTurn]) -> Iterator[Json]:
    """The segments of a transcript with speakers; a segment in which several speak is cut at the words.

    Raises UnsupportedParameter for a transcript without times.
    """
    segments, words = done.get("segments") or [], done.get("words") or []
    if not segments and not words and str(done.get("text") or "").strip():
        raise UnsupportedParameter(
            "This model tells no times, by which its words could be given to speakers.", param="response_format"
        )
    number = 0
    for segment, spoken in _with_words(segments, words):
        for text, start, end, speaker in _parts(segment, spoken, turns):
            yield {**segment, "id": number, "text": text, "start": start, "end": end, "speaker": speaker}
            number += 1


def _with_words(segments: list[Json], words: list[Json]) -> Iterator[tuple[Json, list[Json]]]:
    """Each segment with its words: those whose middle is before its end, the last one's being the rest."""
    if not segments and words:
        yield {}, words
        return
    at = 0
    for number, segment in enumerate(segments):
        until = at
        last = number == len(segments) - 1
        while until < len(words) and (last or _middle(words[until]) < float(segment["end"])):
            until += 1
        yield segment, words[at:until]
        at = until


def _middle(span: Json) -> float:
    return (float(span["start"]) + float(span["end"])) / 2


def _parts(
    segment: Json, words: list[Json], turns: Sequence[SpokenTurn]
) -> Iterator[tuple[str, float, float, str]]:
    """Text, start, end and speaker of each part of a segment that one speaker says."""
    if not words:
        if str(segment.get("text") or "").strip():
            start, end = float(segment["start"]), float(segment["end"])
            yield str(segment["text"]), start, end, _most_of(start, end, turns)
        return
    owners = [_at(_middle(word), turns) for word in words]
    if len(set(owners)) == 1 and segment:
        yield str(segment.get("text") or ""), float(segment["start"]), float(segment["end"]), owners[0]
        return
    start = 0
    for place in range(1, len(words) + 1):
        if place == len(words) or owners[place] != owners[start]:
            said = words[start:place]
            text = _joined([str(word["word"]) for word in said])
            yield text, float(said[0]["start"]), float(said[-1]["end"]), owners[start]
            start = place


def _joined(words: list[str]) -> str:
    """The text of words; those of scripts without spaces follow each other."""
    text = ""
    for word in words:
        close = text and _spaceless(text[-1]) and _spaceless(word[:1])
        text += word if not text or close else f" {word}"
    return text


def _spaceless(letter: str) -> bool:
    return "\u3040" <= letter <= "\u9fff" or "\u0e00" <= letter <= "\u0eff" or "\uff00" <= letter <= "\uffef"


def _at(moment: float, turns: Sequence[SpokenTurn]) -> str:
    """The speaker at a moment, or the one whose turn is nearest."""
    if not turns:
        return "A"
    after = bisect_right(turns, moment, key=lambda turn: turn.start)
    near = turns[max(0, after - 1) : after + 1]
    return min(near, key=lambda turn: max(turn.start - moment, moment - turn.end, 0.0)).speaker


def _most_of(start: float, end: float, turns: Sequence[SpokenTurn]) -> str:
    """The speaker of the most time between two moments, or of the nearest turn."""
    shares: dict[str, float] = {}
    for turn in turns:
        shared = min(end, turn.end) - max(start, turn.start)
        if shared > 0:
            shares[turn.speaker] = shares.get(turn.speaker, 0.0) + shared
    return max(shares, key=lambda name: shares[name]) if shares else _at((start + end) / 2, turns)
