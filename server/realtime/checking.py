"""Checks of a configuration when it is sent: its models answer here, and its voice exists.

A model that is at rest for a while, or that the first request installs, is no mistake of the configuration: a turn
that finds it missing tells of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_hex
from typing import TypeVar

from pydantic import BaseModel

from backends.wire.audio import SpeechRequest, TranscriptionRequest, VoiceId
from backends.wire.chat import ChatRequest
from catalog.errors import (
    CapabilityMismatch,
    EngineMissing,
    ModelNotFound,
    ModelUnavailable,
    NoCandidate,
    NotFound,
    NotPermitted,
    RoundhouseError,
    UnsupportedParameter,
)
from routing.calling.dispatcher import nothing_left
from routing.calling.job import Job
from routing.plan import Candidate
from routing.reading.intent import is_auto
from server.callers import Caller, Origin
from server.jobs import chat_job, permitted, speech_job, transcription_job
from server.realtime.configuration import Configuration
from server.realtime.context import within
from server.realtime.fields import ResponseFields
from server.runtime import Runtime
from server.storage.voices import voiced

_Body = TypeVar("_Body", bound=BaseModel)
_Item = TypeVar("_Item")
_LASTING = (CapabilityMismatch, EngineMissing, ModelUnavailable, NoCandidate)
_TRANSCRIBER = "session.audio.input.transcription.model"


class Checking:
    """Checks the models and the voice of a caller's configurations."""

    def __init__(self, runtime: Runtime, caller: Caller, headers: Mapping[str, str]) -> None:
        """``headers`` are those of the request, which may state an intent."""
        self._runtime = runtime
        self._caller = caller
        self._headers = headers

    def check(self, made: Configuration, before: Configuration | None = None) -> None:
        """Check what differs from the configuration ``before``.

        Raises ModelNotFound, NotPermitted for a model that the key may not use, UnsupportedParameter for a voice
        that no speaker has, and the error that a request of a model would have that is not set up, or that does
        other work.
        """
        anew = before is None or made.constraints != before.constraints
        if not made.transcribes:
            if anew:
                self._check_chat(made)
            if before is None or anew or (before.speaker, before.voice) != (made.speaker, made.voice):
                output = made.fields.audio.output
                self._check_voice(made, made.speaker, output.voice, "session")
        if anew or before is None or made.transcriber != before.transcriber:
            self._check_transcriber(made)

    def check_response(self, fields: ResponseFields, session: Configuration) -> None:
        """Check the voice of a response's own. Raises as :meth:`check`."""
        own = None if fields.audio is None else fields.audio.output
        if own is not None and own.voice is not None:
            speaker = session.speaker if is_auto(own.model) else own.model
            self._check_voice(session, speaker, own.voice, "response")

    def _check_chat(self, made: Configuration) -> None:
        model = made.fields.model
        if not is_auto(model):
            messages = [{"role": "user", "content": "Hi"}]
            chat, origin = self._asked(ChatRequest.model_validate({"model": model, "messages": messages}))
            self._candidates(self._within(chat_job(chat, origin), made), model, "session.model")

    def _check_transcriber(self, made: Configuration) -> None:
        model = made.transcriber
        if model is not None and not is_auto(model):
            body, origin = self._asked(TranscriptionRequest(model=model, file=b" "))
            self._candidates(self._within(transcription_job(body, origin), made), model, _TRANSCRIBER)

    def _check_voice(self, made: Configuration, speaker: str, voice: str | VoiceId | None, place: str) -> None:
        if is_auto(speaker) and voice is None:
            return
        body, origin = self._asked(SpeechRequest(model=speaker, input="A", voice=voice))
        job = self._within(speech_job(body, origin), made)
        if not self._candidates(job, speaker, f"{place}.audio.output.model"):
            return
        try:
            voiced(self._runtime, permitted(job.facts, self._caller, self._runtime.catalog), body, self._caller)
        except (NotFound, UnsupportedParameter) as error:
            error.param = f"{place}.audio.output.voice"
            raise

    def _within(self, job: Job[_Item], made: Configuration) -> Job[_Item]:
        return within(job, made.fields.routing, made.fields.strict, self._headers)

    def _asked(self, body: _Body) -> tuple[_Body, Origin]:
        body, stand_in = self._runtime.replaced(body)
        return body, Origin(self._caller, token_hex(16), self._headers, stand_in)

    def _candidates(self, job: Job[_Item], model: str, param: str) -> tuple[Candidate, ...]:
        """The models that may do a job; none where one may do it later."""
        runtime = self._runtime
        try:
            if not is_auto(model):
                runtime.catalog.replicas(runtime.standing(model))
            facts = permitted(job.facts, self._caller, runtime.catalog)
            plan = runtime.dispatcher.explain(facts)
        except (ModelNotFound, NotPermitted) as error:
            error.param = param
            raise
        installs = (
            runtime.on_use is not None and runtime.on_use.enabled and runtime.on_use.lacking(facts) is not None
        )
        if plan.candidates or installs or is_auto(model):
            return tuple(plan.candidates)
        refusal: RoundhouseError = nothing_left(plan, facts)
        if isinstance(refusal, _LASTING):
            refusal.param = param
            raise refusal
        return ()
