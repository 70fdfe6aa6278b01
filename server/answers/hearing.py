"""Chats with sound for models that do not hear: it is transcribed first, and the answer says so.

Each sound becomes the text of its transcript in the place of its part. The transcription is a job of its own, with
the limits, the trace and the spend of the request.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from hashlib import sha256
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from backends.wire.audio import TranscriptionRequest
from backends.wire.chat import ChatRequest, ContentPart, Message, TranslatedChat
from backends.wire.media import checked_base64, decoded
from catalog.errors import CapabilityMismatch, InvalidRequest, RoundhouseError, StreamBroken
from catalog.model import Capability
from catalog.types import Json
from routing.calling.answer import Answer
from routing.calling.job import Job
from server.answers.wrapping import NoticedAnswer
from server.callers import Caller, Origin
from server.jobs import Opens, chat_job, open_job, permitted, transcription_job
from server.runtime import Runtime
from server.storage.sounds import HeardSound

MOST_SOUNDS = 32
"""Sounds of one chat that are transcribed."""
_NOTHING = "[No speech was heard.]"


def hears(job: Job[Any]) -> bool:
    """Whether a chat has sound in it."""
    return Capability.AUDIO_INPUT in job.facts.features


class Hearing(AbstractAsyncContextManager[Answer[Json]]):
    """Opens a chat with sound: as it is where a model that may answer hears, else with transcripts.

    A ``strict`` request, and one that requires ``audio_input``, is never transcribed. Entering raises what
    ``opens`` raises, and what transcribing does.
    """

    def __init__(
        self, runtime: Runtime, job: Job[Json], caller: Caller, *, origin: Origin, opens: Opens[Json] = open_job
    ) -> None:
        self._runtime = runtime
        self._job = job
        self._caller = caller
        self._origin = replace(origin, stand_in=None)
        self._opens = opens
        self._opening: AbstractAsyncContextManager[Answer[Json]] | None = None
        self._spent = 0.0
        self._asked = False
        self._by: list[str] = []

    async def __aenter__(self) -> Answer[Json]:
        intent = self._job.facts.intent
        may = not intent.strict and Capability.AUDIO_INPUT not in intent.require
        if not may or self._heard_as_it_is():
            try:
                return await self._open(self._job)
            except CapabilityMismatch as error:  # a model of a server that is not known beforehand
                if not may or Capability.AUDIO_INPUT not in (getattr(error, "lacks", None) or ()):
                    raise
        answer = await self._open(await self._transcribed())
        return NoticedAnswer(answer, f"the sound was transcribed by {' and '.join(self._by)} first")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._opening is not None
        return await self._opening.__aexit__(kind, error, traceback)

    async def _open(self, job: Job[Json]) -> Answer[Json]:
        opening = self._opens(self._runtime, job, self._caller)
        answer = await opening.__aenter__()
        self._opening = opening
        return answer

    def _heard_as_it_is(self) -> bool:
        """Whether a model that may answer hears, or no model could answer the transcript either."""
        explain = self._runtime.dispatcher.explain
        try:
            facts = permitted(self._job.facts, self._caller, self._runtime.catalog)
            if explain(facts).candidates:
                return True
        except CapabilityMismatch:
            pass
        except RoundhouseError:
            return True  # opening raises it
        try:
            return not explain(replace(facts, features=facts.features - {Capability.AUDIO_INPUT})).candidates
        except RoundhouseError:
            return True

    async def _transcribed(self) -> Job[Json]:
        """The job of the chat with texts in place of sounds."""
        chat = self._job.request
        assert isinstance(chat, ChatRequest)
        messages, count = [], 0
        for message in chat.messages:
            if isinstance(message.content, list):
                count += sum(part.input_audio is not None for part in message.content)
                if count > MOST_SOUNDS:
                    raise InvalidRequest(
                        f"At most {MOST_SOUNDS} sounds of a chat are transcribed.", param="messages"
                    )
                message = await self._texts_of(message, message.content)
            messages.append(message)
        told: ChatRequest = chat.model_copy(update={"messages": messages})
        if isinstance(told, TranslatedChat):
            told = told.without_original()
        made = chat_job(told, self._origin)
        before = self._job.facts
        facts = replace(made.facts, intent=before.intent, stands_for=before.stands_for, requested=before.requested)
        further = self._asked or self._job.further
        return replace(self._job, facts=facts, request=made.request, further=further, spent=self._spent)

    async def _texts_of(self, message: Message, parts: list[ContentPart]) -> Message:
        if all(part.input_audio is None for part in parts):
            return message
        told = [
            part
            if part.input_audio is None
            else ContentPart(type="text", text=await self._transcript(part.input_audio))
            for part in parts
        ]
        return message.model_copy(update={"content": told})

    async def _transcript(self, sound: Json) -> str:
        body, digest = await _request(sound)
        owner, heard = self._caller.id, self._runtime.heard
        if (known := heard.get(owner, digest)) is not None:
            self._name(known.model)
            return known.text
        job = transcription_job(body, self._origin)
        intent = replace(self._job.facts.intent, task=None, require=frozenset(), escalate=False, timings=False)
        job = replace(
            job,
            facts=replace(job.facts, intent=intent),
            further=self._asked or self._job.further,
            spent=self._job.spent + self._spent,
        )
        async with open_job(self._runtime, job, self._caller) as answer:
            done: Json | None = None
            async for event in answer:
                if event.get("type") == "transcript.text.done":
                    done = event
        if done is None:
            raise StreamBroken("The transcript ended before it was complete.")
        self._spent, self._asked = answer.spent, True
        text = str(done.get("text") or "").strip() or _NOTHING
        heard.keep(owner, digest, HeardSound(text, answer.model.id))
        self._name(answer.model.id)
        return text

    def _name(self, model: str) -> None:
        if model not in self._by:
            self._by.append(model)


async def _request(sound: Json) -> tuple[TranscriptionRequest, bytes]:
    """The transcription of a part's sound, and the sound's digest. Raises InvalidRequest, UndecodableMedia."""
    data, form = sound.get("data"), sound.get("format")
    if not isinstance(data, str) or not data:
        raise InvalidRequest("An input_audio part needs 'data', the sound in base64.", param="messages")
    if not isinstance(form, str | None):
        raise InvalidRequest("The 'format' of an input_audio part is a text, as wav or mp3.", param="messages")
    if data[:5].lower() == "data:":
        data = data.partition(",")[2]
    raw = await asyncio.to_thread(lambda: decoded(checked_base64(data)))
    try:
        request = TranscriptionRequest(model="auto", file=raw, filename=f"sound.{(form or 'wav')[:16]}")
    except ValidationError as wrong:
        raise InvalidRequest("The input_audio part cannot be read.", param="messages") from wrong
    return request, await asyncio.to_thread(lambda: sha256(raw).digest())
