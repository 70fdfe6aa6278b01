"""Checks of a configuration when it is sent: its models answer here, and its voice exists.

A model that is at rest for a while, or that the first request installs, is no mistake of the configuration: a turn
that finds it missing tells of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_hex
from typing import TypeVar

from pydantic import BaseModel

from backends.voices import openai_voice, unknown_voice
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest
from catalog.errors import (
    CapabilityMismatch,
    EngineMissing,
    ModelNotFound,
    ModelUnavailable,
    NoCandidate,
    NotPermitted,
    RoundhouseError,
)
from routing.calling.dispatcher import nothing_left
from routing.calling.job import Job
from routing.plan import Candidate
from routing.reading.intent import is_auto
from server.callers import Caller, Origin
from server.jobs import chat_job, permitted, speech_job, transcription_job
from server.realtime.configuration import Configuration
from server.runtime import Runtime

_Body = TypeVar("_Body", bound=BaseModel)
_Item = TypeVar("_Item")
_LASTING = (CapabilityMismatch, EngineMissing, ModelUnavailable, NoCandidate)
_VOICE = "session.audio.output.voice"
_SPEAKER = "session.audio.output.model"
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
        if not made.transcribes:
            if before is None:
                self._check_chat(made.fields.model)
            if before is None or (before.speaker, before.voice) != (made.speaker, made.voice):
                self._check_voice(made)
        if made.transcriber != (None if before is None else before.transcriber):
            self._check_transcriber(made.transcriber)

    def _check_chat(self, model: str) -> None:
        if not is_auto(model):
            messages = [{"role": "user", "content": "Hi"}]
            chat, origin = self._asked(ChatRequest.model_validate({"model": model, "messages": messages}))
            self._candidates(chat_job(chat, origin), model, "session.model")

    def _check_transcriber(self, model: str | None) -> None:
        if model is not None and not is_auto(model):
            body, origin = self._asked(TranscriptionRequest(model=model, file=b" "))
            self._candidates(transcription_job(body, origin), model, _TRANSCRIBER)

    def _check_voice(self, made: Configuration) -> None:
        if is_auto(made.speaker) and made.voice is None:
            return
        body, origin = self._asked(SpeechRequest(model=made.speaker, input="A"))
        candidates = self._candidates(speech_job(body, origin), made.speaker, _SPEAKER)
        voice = made.fields.audio.output.voice
        if not isinstance(voice, str) or "+" in voice or openai_voice(voice) is not None:
            return  # an id of a voice, or a mixture, which the speaker itself knows
        if not candidates or not all(each.model.voices for each in candidates):
            return
        known = [name for each in candidates for name in (*each.model.voices, *each.model.voice_map)]
        if voice.casefold() not in {name.casefold() for name in known}:
            error = unknown_voice("The speaker of this server", voice, known)
            error.param = _VOICE
            raise error

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
