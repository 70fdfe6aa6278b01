"""A session's voice: text pieces into audio of the client's format, one job a piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np

from backends.wire.audio import SpeechRequest, VoiceId
from catalog.errors import RoundhouseError
from catalog.types import Json
from routing.calling.answer import Answer
from server.jobs import speech_job
from server.realtime.context import SessionContext, items_of
from server.realtime.sound import PCM_RATE, AudioForm, Resampler, to_samples

DELTA_MS = 400.0
"""The longest audio of one event."""


class SessionVoice:
    """Speaks the pieces of one response, which count as one request. ``model`` and ``dropped`` are of the last."""

    def __init__(
        self,
        context: SessionContext,
        form: AudioForm,
        *,
        model: str,
        voice: str | VoiceId | None,
        speed: float,
        routing: Json | None = None,
        strict: bool | None = None,
    ) -> None:
        """``routing`` and ``strict`` are the session's."""
        self._context = context
        self._form = form
        self._model = model
        self._voice = voice
        self._routing = routing
        self._strict = strict
        self.speed = speed
        self._resampler = None if form.rate == PCM_RATE else Resampler(PCM_RATE, form.rate)
        self._begun = False
        self.model: str | None = None
        self.dropped: tuple[str, ...] = ()
        self.spent = 0.0
        """Dollars of the response so far, which its limit on cost counts."""

    @property
    def voice(self) -> str | None:
        """The name or id of the voice."""
        return self._voice.id if isinstance(self._voice, VoiceId) else self._voice

    async def speak(self, text: str) -> AsyncGenerator[bytes]:
        """Audio of a text, at most :data:`DELTA_MS` at a time. Raises the job's errors."""
        fields: dict[str, Any] = {"speed": self.speed} if self.speed != 1.0 else {}
        if self._voice is not None:
            fields["voice"] = self._voice
        body, origin = self._context.asked(
            SpeechRequest(model=self._model, input=text, response_format="pcm", sample_rate=PCM_RATE, **fields)
        )
        job = self._context.within(speech_job(body, origin), self._routing, self._strict)
        # The rate is that of the session's own format, into which any other is put.
        job = replace(job, counted=not self._begun, kept=("sample_rate",), spent=self.spent)
        self._begun = True
        async with self._context.open(job, origin.caller) as answer:
            sent = False
            self.model, self.dropped = answer.model.id, answer.dropped
            while True:
                try:
                    async with aclosing(self._pieces(answer)) as pieces:
                        async for piece in pieces:
                            sent = True
                            yield piece
                    break
                except RoundhouseError as error:
                    if sent:
                        raise
                    await answer.resume(error)
            self.model, self.dropped = answer.model.id, answer.dropped
        self.spent = answer.spent

    async def _pieces(self, answer: Answer[bytes]) -> AsyncGenerator[bytes]:
        rest = b""
        most = self._form.bytes_of(DELTA_MS)
        async with items_of(answer) as items:
            async for chunk in items:
                data = rest + bytes(chunk)
                whole = len(data) // 2 * 2
                rest = data[whole:]
                made = self._in_form(data[:whole])
                for at in range(0, len(made), most):
                    yield made[at : at + most]

    def _in_form(self, data: bytes) -> bytes:
        if self._resampler is None:
            return data
        samples = np.frombuffer(data, "<i2")
        return self._form.encode(to_samples(self._resampler(samples))) if len(samples) else b""
