"""A session's voice: text pieces into audio of the client's format, one job a piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np

from backends.wire.audio import SpeechRequest
from catalog.errors import RoundhouseError
from routing.calling.answer import Answer
from server.jobs import speech_job
from server.realtime.context import SessionContext, items_of
from server.realtime.sound import PCM_RATE, AudioForm, Resampler, to_samples

DELTA_MS = 400.0
"""The longest audio of one event."""


class SessionVoice:
    """Speaks the pieces of one response, which count as one request. ``model`` and ``dropped`` are of the last."""

    def __init__(
        self, context: SessionContext, form: AudioForm, *, model: str, voice: str | None, speed: float
    ) -> None:
        self._context = context
        self._form = form
        self._model = model
        self.voice = voice
        self.speed = speed
        self._resampler = None if form.rate == PCM_RATE else Resampler(PCM_RATE, form.rate)
        self._begun = False
        self.model: str | None = None
        self.dropped: tuple[str, ...] = ()

    async def speak(self, text: str) -> AsyncGenerator[bytes]:
        """Audio of a text, at most :data:`DELTA_MS` at a time. Raises the job's errors."""
        fields: dict[str, Any] = {"speed": self.speed} if self.speed != 1.0 else {}
        if self.voice is not None:
            fields["voice"] = self.voice
        body, origin = self._context.asked(
            SpeechRequest(model=self._model, input=text, response_format="pcm", sample_rate=PCM_RATE, **fields)
        )
        job = replace(speech_job(body, origin), counted=not self._begun)
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
