"""Transcripts of a speaker's turns. One is begun as soon as the speaker pauses, and thrown away if the turn goes
on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Protocol

from backends.wire.audio import TranscriptionRequest
from catalog.errors import RoundhouseError, StreamBroken
from catalog.types import Json
from routing.calling.answer import Answer
from server.edge.errors import as_error
from server.jobs import permitted, transcription_job
from server.realtime.context import SessionContext, items_of
from server.realtime.fields import InputTranscription
from server.realtime.sound import AudioForm, wav


class Heard(Protocol):
    """The session's configuration, as far as it concerns the transcripts."""

    @property
    def input_form(self) -> AudioForm: ...

    @property
    def transcription(self) -> InputTranscription | None: ...

    @property
    def constraints(self) -> tuple[Json | None, bool | None]: ...


class Transcribing:
    """One transcription, from its start to its end. Any number of readers may follow it."""

    def __init__(
        self,
        context: SessionContext,
        audio: bytes,
        session: Heard,
        *,
        counted: bool = True,
    ) -> None:
        """``counted`` is False for a turn whose transcription was begun and counted before."""
        form = session.input_form
        self._counted = counted
        self._session = session
        self._context = context
        self._form = form
        self._asked = session.transcription or InputTranscription()
        self._news = asyncio.Condition()
        self._deltas: list[str] = []
        self._ended = False
        self.seconds = form.seconds(len(audio))
        self.done: Json | None = None
        self.error: RoundhouseError | None = None
        self.model: str | None = None
        self._task = asyncio.create_task(self._run(audio))

    def cancel(self) -> None:
        """Give it up."""
        self._task.cancel()

    async def text(self) -> str:
        """The whole transcript. Raises the error that ended it."""
        await asyncio.wait({self._task})
        if self.error is not None:
            raise self.error
        return str((self.done or {}).get("text", "")).strip()

    async def deltas(self) -> AsyncIterator[str]:
        """The pieces of the transcript, from the first, as they come."""
        seen = 0
        while True:
            async with self._news:
                while not self._ended and len(self._deltas) == seen:
                    await self._news.wait()
                new, ended = self._deltas[seen:], self._ended
            for delta in new:
                yield delta
            seen += len(new)
            if ended:
                return

    def usage(self) -> Json:
        """OpenAI's usage object: tokens where the model counts them, else the duration."""
        told = (self.done or {}).get("usage")
        if isinstance(told, dict) and told.get("type") == "tokens":
            return told
        return {"type": "duration", "seconds": round(self.seconds, 3)}

    async def _run(self, audio: bytes) -> None:
        try:
            await self._transcribe(audio)
        except asyncio.CancelledError:
            self.error = RoundhouseError("The transcription was given up.")
            raise
        except Exception as error:  # the boundary of a task: its readers are given the error
            self.error = as_error(error)
        finally:
            self._ended = True
            async with self._news:
                self._news.notify_all()

    async def _transcribe(self, audio: bytes) -> None:
        asked, context = self._asked, self._context
        body, origin = context.asked(
            TranscriptionRequest(
                model=asked.model,
                file=wav(self._form.decode(audio), self._form.rate),
                filename="speech.wav",
                **_given(asked),
            )
        )
        job = context.within(transcription_job(body, origin), *self._session.constraints)
        job = replace(job, counted=self._counted)
        async with context.open(job, origin.caller) as answer:
            while True:
                try:
                    await self._read(answer)
                    self.model = answer.model.id
                    return
                except RoundhouseError as error:
                    if self._deltas:
                        raise
                    await answer.resume(error)

    async def _read(self, answer: Answer[Json]) -> None:
        async with items_of(answer) as items:
            async for event in items:
                if event.get("type") == "transcript.text.done":
                    self.done = event
                elif event.get("delta"):
                    async with self._news:
                        self._deltas.append(event["delta"])
                        self._news.notify_all()
        if self.done is None:
            raise StreamBroken("The transcript ended before it was complete.")


def planned_here(context: SessionContext, session: Heard) -> bool:
    """Whether the router would choose a model of this machine. Raises as a job does."""
    asked = session.transcription or InputTranscription()
    body, origin = context.asked(TranscriptionRequest(model=asked.model, file=b" ", **_given(asked)))
    job = context.within(transcription_job(body, origin), *session.constraints)
    facts = permitted(job.facts, origin.caller, context.runtime.catalog)
    candidates = context.runtime.dispatcher.explain(facts).candidates
    return bool(candidates) and candidates[0].model.local


def _given(asked: InputTranscription) -> Json:
    """The fields of the request that the session's configuration names."""
    fields: Json = {}
    if asked.language is not None:
        fields["language"] = asked.language
    if asked.languages:
        fields["languages"] = tuple(asked.languages)
    if asked.prompt:
        fields["prompt"] = asked.prompt
    if asked.keywords:
        fields["keywords"] = tuple(asked.keywords)
    return fields
