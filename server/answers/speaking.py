"""Chats that are answered with sound by models that only write: a voice speaks the text as it comes.

The text is the chat's own job, and each sentence a job of speech; both have the limits, the trace and the spend of
the request. Source: OpenAI's API reference, audio of chat completions.
"""

from __future__ import annotations

import asyncio
import base64
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from backends.headers import header_list
from backends.wire.audio import AudioFormat, SpeechRequest, VoiceId
from backends.wire.chat import ChatRequest
from catalog.errors import InvalidRequest, NoCandidate, NotFound, RoundhouseError, UnsupportedParameter
from catalog.types import Json
from routing.calling.answer import Answer
from routing.calling.job import Job
from server.answers.pieces import TextPieces, speakable
from server.answers.wrapping import Wrapping, with_notice
from server.callers import Caller, Origin
from server.jobs import Opens, open_job, permitted, speech_job
from server.runtime import Runtime
from server.storage.voices import voiced

Form = Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"]
_FORMS: dict[str, AudioFormat] = {
    "wav": "wav", "aac": "aac", "mp3": "mp3", "flac": "flac", "opus": "opus", "pcm16": "pcm",
}  # fmt: skip
_STREAMED = ("pcm16", "mp3", "aac")
"""Formats whose pieces may follow each other in one stream; OpenAI streams pcm16 alone."""
_OWN_ID = "audio_said_"
_LONGEST_TEXT = 1 << 20
"""Bytes of the text that an id may hold."""
_YEAR = 365 * 86_400
_PIECES = 64
"""Pieces of sound that wait for the client."""


@dataclass(frozen=True, slots=True)
class Voicing:
    """The sound that a chat asks for."""

    voice: str | VoiceId | None
    form: AudioFormat
    streamed: bool


def voicing_of(body: ChatRequest) -> Voicing | None:
    """The sound that ``modalities`` and ``audio`` ask for; ``None`` if they ask for none.

    Raises InvalidRequest for values that OpenAI's API does not have, UnsupportedParameter for several choices.
    """
    extra = body.model_extra or {}
    kinds = extra.get("modalities")
    if not isinstance(kinds, list) or "audio" not in kinds or not set(kinds) <= {"text", "audio"}:
        return None
    audio = extra.get("audio")
    if not isinstance(audio, dict):
        raise InvalidRequest(
            "An answer with sound needs 'audio': an object with its 'voice' and 'format'.", param="audio"
        )
    form, streamed = audio.get("format", "wav"), bool(body.stream)
    forms = _STREAMED if streamed else tuple(_FORMS)
    if form not in forms:
        where = " of a stream" if streamed else ""
        raise InvalidRequest(f"'audio.format'{where} is one of {', '.join(forms)}.", param="audio.format")
    if (body.n or 1) > 1:
        raise UnsupportedParameter("An answer with sound has one choice: leave 'n' out.", param="n")
    voice = audio.get("voice")
    try:
        asked = SpeechRequest(input="A", voice=VoiceId(**voice) if isinstance(voice, dict) else voice)
    except (ValidationError, TypeError):
        raise InvalidRequest(
            "'audio.voice' is a voice's name, or an object with its 'id'.", param="audio.voice"
        ) from None
    return Voicing(asked.voice, _FORMS[form], streamed)


def as_text(body: ChatRequest) -> ChatRequest:
    """The chat that asks for the text alone."""
    copy = body.model_copy()
    for name in ("modalities", "audio"):
        (copy.model_extra or {}).pop(name, None)
        copy.__pydantic_fields_set__.discard(name)
    return copy


def id_of(text: str) -> str:
    """The id of a spoken answer, by which a later turn refers to it. It holds the text, so nothing is stored."""
    packed = base64.urlsafe_b64encode(zlib.compress(text.encode("utf-8", "replace"), 9))
    return f"{_OWN_ID}{packed.decode()}"


def said(audio: Any) -> str | None:
    """The text of a spoken answer that a message refers to; ``None`` for an id that is not ours.

    Raises InvalidRequest for an id that was changed.
    """
    name = audio.get("id") if isinstance(audio, dict) else None
    if not isinstance(name, str) or not name.startswith(_OWN_ID):
        return None
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(base64.urlsafe_b64decode(name.removeprefix(_OWN_ID)), _LONGEST_TEXT).decode()
    except (ValueError, zlib.error):
        text = ""
    if not text or not unpacker.eof:
        raise InvalidRequest("The 'id' of a message's audio is not one that was given.", param="messages")
    return text


class Speaking(Wrapping):
    """Opens a chat's job for the text alone; its answer is the text and its sound.

    Entering raises what ``opens`` raises, NoCandidate where no voice may speak, UnsupportedParameter for a voice
    that none has.
    """

    def __init__(
        self,
        runtime: Runtime,
        job: Job[Json],
        caller: Caller,
        *,
        origin: Origin,
        voicing: Voicing,
        opens: Opens[Json] = open_job,
    ) -> None:
        self.job = job
        self.voicing = voicing
        self._runtime = runtime
        self._caller = caller
        self._origin = replace(origin, stand_in=None)
        self._opens = opens

    async def __aenter__(self) -> Answer[Json]:
        self._check_voice()
        self._opening = opening = self._opens(self._runtime, self.job, self._caller)
        try:
            self._answer = answer = SpokenAnswer(self, await opening.__aenter__())
        except BaseException:
            self._opening = None
            raise
        return answer

    @property
    def writes(self) -> bool:
        """Whether the chat's job is open."""
        return self._opening is not None

    async def finish_text(self) -> None:
        """End the chat's job: its worker may make room for the voice."""
        await self._end_job()

    def speech(
        self, text: str, model: str, spent: float, *, counted: bool
    ) -> AbstractAsyncContextManager[Answer[bytes]]:
        """Speak a text by a model; ``counted`` for the first of an answer. Raises as opening a job."""
        job = replace(self._speech_job(text, model, spent), counted=counted)
        return open_job(self._runtime, job, self._caller)

    def _speech_job(self, text: str, model: str, spent: float) -> Job[bytes]:
        form, voice = self.voicing.form, self.voicing.voice
        body = SpeechRequest(model=model, input=text, response_format=form)
        if voice is not None:
            body = SpeechRequest(model=model, input=text, response_format=form, voice=voice)
        job = speech_job(body, self._origin)
        intent = replace(self.job.facts.intent, task=None, require=frozenset(), escalate=False, timings=False)
        return replace(job, facts=replace(job.facts, intent=intent), further=True, spent=spent)

    def _check_voice(self) -> None:
        job = self._speech_job("A", "auto", 0.0)
        facts = permitted(job.facts, self._caller, self._runtime.catalog)
        if not self._runtime.dispatcher.explain(facts).candidates:
            raise NoCandidate(
                "No voice that may speak here is set up: GET /v1/audio/voices lists those that are. Ask for "
                '"modalities": ["text"], or for a model that answers with sound.',
                param="modalities",
            )
        assert isinstance(job.request, SpeechRequest)
        try:
            voiced(self._runtime, facts, job.request, self._caller)
        except (NotFound, UnsupportedParameter) as error:
            error.param = "audio.voice"
            raise


class SpokenAnswer(Answer[Json]):
    """The answer of a chat with its sound: the chat's chunks, in which ``audio`` stands for ``content``."""

    def __init__(self, speaking: Speaking, text: Answer[Json]) -> None:
        self._speaking = speaking
        self._text = text
        self._items: AsyncGenerator[Json] | None = None
        self._speaker: asyncio.Task[None] | None = None
        self._voice = "auto"
        self._spoken = 0.0
        self._refused: InvalidRequest | None = None
        self._begun = False
        self.trace, self.model = text.trace, text.model

    @property
    def spent(self) -> float:
        return self._text.spent + self._spoken

    @property
    def dropped(self) -> tuple[str, ...]:
        return self._text.dropped if self._refused is None else (*self._text.dropped, "audio")

    def headers(self) -> dict[str, str]:
        headers = self._text.headers()
        if self.dropped:
            headers["x-roundhouse-dropped"] = header_list(self.dropped)
        unspoken = "" if self._refused is None else f", but for what no voice can: {self._refused.message}"
        told = f"'{self.model.id}' writes, and a voice of this server speaks its text{unspoken}"
        return with_notice(headers, told)

    async def resume(self, error: RoundhouseError) -> None:
        """As :meth:`Answer.resume`, while the text is written; what was spoken is spoken anew."""
        await self._stop()
        if not self._speaking.writes:
            raise error
        await self._text.resume(error)
        self.model = self._text.model

    async def aclose(self) -> None:
        """Close what the answer has open, but for the chat's own job."""
        if self._items is not None:
            await self._items.aclose()
        await self._stop()

    def __aiter__(self) -> AsyncIterator[Json]:
        self._items = self._run()
        return self._items

    async def _stop(self) -> None:
        speaker, self._speaker = self._speaker, None
        if speaker is not None:
            speaker.cancel()
            with suppress(asyncio.CancelledError, RoundhouseError):
                await speaker

    async def _run(self) -> AsyncGenerator[Json]:
        todo: asyncio.Queue[str | None] = asyncio.Queue()
        sound: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES)
        self._speaker = speaker = asyncio.create_task(self._speak(todo, sound))
        streamed, pieces = self._speaking.voicing.streamed, TextPieces()
        written: list[str] = []
        head: Json = {}
        ends: list[Json] = []
        items = aiter(self._text)
        try:
            async for chunk in items:
                head = head or {key: value for key, value in chunk.items() if key not in ("choices", "usage")}
                choices = chunk.get("choices") or ()
                written.append(piece := _content(chunk))
                for sentence in pieces.add(piece) if streamed else ():
                    todo.put_nowait(sentence)
                if ends or not choices or any(choice.get("finish_reason") for choice in choices):
                    ends.append(chunk)
                    continue
                yield _with_transcript(chunk)
                while not sound.empty() and (data := sound.get_nowait()) is not None:
                    yield _audio_chunk(head, {"data": _encoded(data)})
                if speaker.done():
                    await speaker  # it has failed
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()
        await self._speaking.finish_text()
        whole = "".join(written)
        todo.put_nowait(pieces.rest() if streamed else whole)
        todo.put_nowait(None)
        async for data in _until_end(sound, speaker):
            yield _audio_chunk(head, {"data": _encoded(data)})
        if whole:  # once, as clients join the texts of a stream's pieces
            yield _audio_chunk(head, {"id": id_of(whole)})
            yield _audio_chunk(head, {"expires_at": int(time.time()) + _YEAR})
        if self._refused is not None:
            yield _audio_chunk(head, {"notice": f"Not all of the text is spoken: {self._refused.message}"})
        for chunk in ends:
            yield _with_transcript(chunk)

    async def _speak(self, todo: asyncio.Queue[str | None], sound: asyncio.Queue[bytes | None]) -> None:
        """Speak sentences, one after another, by the voice that spoke the first.

        One that the voices refuse, as those in scripts that none reads, stays without sound: the text was paid for
        and is answered. Under ``strict``, that raises InvalidRequest.
        """
        while (written := await todo.get()) is not None:
            if not (text := speakable(written)):
                continue
            came = False
            before = (self._speaking.job.spent if self._speaking.writes else self._text.spent) + self._spoken
            counted, self._begun = not self._begun, True
            try:
                async with self._speaking.speech(text, self._voice, before, counted=counted) as answer:
                    self._voice = answer.model.id
                    async for data in answer:
                        if data:
                            came = True
                            await sound.put(bytes(data))
                self._spoken += answer.spent - before
            except InvalidRequest as error:
                if came or self._speaking.job.facts.intent.strict:
                    raise
                self._refused = error.with_traceback(None)
        await sound.put(None)


async def _until_end(sound: asyncio.Queue[bytes | None], speaker: asyncio.Task[None]) -> AsyncGenerator[bytes]:
    """The pieces of sound until the end. Raises the speaker's error."""
    while True:
        getting = asyncio.ensure_future(sound.get())
        try:
            await asyncio.wait((getting, speaker), return_when=asyncio.FIRST_COMPLETED)
            if not getting.done() and speaker.done():
                await speaker
                return
            data = await getting
        finally:
            getting.cancel()
        if data is None:
            await speaker
            return
        yield data


def _content(chunk: Json) -> str:
    """The text of a chunk's first choice."""
    for choice in chunk.get("choices") or ():
        if choice.get("index", 0) == 0:
            return str((choice.get("delta") or {}).get("content") or "")
    return ""


def _with_transcript(chunk: Json) -> Json:
    """The chunk with ``audio.transcript`` in place of ``content``."""
    choices = []
    for choice in chunk.get("choices") or ():
        delta = dict(choice.get("delta") or {})
        text = delta.pop("content", None)
        choices.append({**choice, "delta": {**delta, "audio": {"transcript": text}} if text else delta})
    return {**chunk, "choices": choices}


def _audio_chunk(head: Json, audio: Json) -> Json:
    return {**head, "choices": [{"index": 0, "delta": {"audio": audio}, "finish_reason": None}]}


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
