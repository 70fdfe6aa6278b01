"""Speech with the times of its words, which a worker tells in events."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator

from backends.base import Upstream
from backends.http import HttpClient
from backends.local.parameters import table_of
from backends.openai.backend import checked, speech_error
from backends.openai.forms import speech_body
from backends.streams.noted import NotedAudio
from backends.translation import reading
from backends.wire.audio import SpeechRequest


async def speak_timed(http: HttpClient, upstream: Upstream, request: SpeechRequest) -> AsyncGenerator[bytes]:
    """Pieces of audio, each with the words that were spoken: ``{"word", "start", "end"}`` in seconds of the whole.

    Raises UnsupportedParameter for a model that does not know them.
    """
    body = speech_body(request, upstream, table_of(upstream.engine), None, timed=True)
    async with http.open(upstream, "POST", "/audio/speech", json=body, errors=speech_error) as response:
        async for told in response.events():
            event = checked(told.json(), told.event, upstream)
            with reading(f"The model '{upstream.model}'"):
                piece = NotedAudio.of(base64.b64decode(event["audio"]), words=event["words"])
            yield piece
