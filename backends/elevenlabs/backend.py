"""Calls to ElevenLabs: speech, transcription, and the list of voices."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from urllib.parse import quote

from backends.base import Upstream
from backends.elevenlabs import discovery, speech, transcription
from backends.elevenlabs.errors import read_elevenlabs_error
from backends.elevenlabs.voices import PREMADE
from backends.http import HttpClient, UpstreamResponse
from backends.parameters import refuse_forbidden
from backends.streams.noted import NotedAudio
from backends.streams.shapes import regular_event
from backends.translation import reading
from backends.voices import mapped, unknown_voice
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.common import WireModel
from catalog.errors import StreamBroken
from catalog.model import Endpoint, Model
from catalog.types import Json

VOICES_TTL = 300.0
"""Seconds for which the names of voices are cached."""

_KEY_HEADER = "xi-api-key"
_PAGE = "100"
_MAX_PAGES = 50


class ElevenLabsBackend:
    """Speech and transcription. ``base_url`` is the host: ``https://api.elevenlabs.io``.

    ``now`` returns seconds of a monotonic clock.
    """

    def __init__(self, client: HttpClient, *, now: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._now = now
        self._voices: dict[str, tuple[float, dict[str, str]]] = {}

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        if isinstance(request, SpeechRequest):
            return speech.translate(request.model_copy(update={"strict": None}), upstream).dropped
        if isinstance(request, TranscriptionRequest):
            return transcription.translate(request, upstream)[2]
        return ()

    async def speak(self, upstream: Upstream, request: SpeechRequest) -> AsyncIterator[bytes]:
        """The audio as it is made; see :class:`backends.base.Speak`. A WAV comes in one piece.

        With ``timestamp_granularities`` the pieces are :class:`~backends.streams.noted.NotedAudio`, and for events
        the first has the id of the request. Raises UnsupportedParameter for a voice that the account lacks.
        """
        refuse_forbidden(request)
        call = speech.translate(request, upstream)
        voice = call.voice or await self._voice_id(upstream, mapped(request, upstream) or "")
        empty = True
        async with self._client.open(
            upstream,
            "POST",
            call.path.format(voice=quote(voice, safe="")),
            json=call.body,
            query=call.query,
            key_header=_KEY_HEADER,
            errors=read_elevenlabs_error,
        ) as response:
            pieces = _timed(response, request) if call.timed else response.iter_audio()
            async with aclosing(pieces):
                async for chunk in pieces:
                    first, empty = empty and bool(chunk), empty and not chunk
                    if first and request.stream_format == "sse" and (told := response.headers.get("request-id")):
                        notes = chunk.notes if isinstance(chunk, NotedAudio) else {}
                        yield NotedAudio.of(chunk, request_id=told, **notes)
                    elif chunk or call.timed:
                        yield chunk
        if empty:
            raise StreamBroken("ElevenLabs sent no audio.")

    async def transcribe(self, upstream: Upstream, request: TranscriptionRequest) -> AsyncIterator[Json]:
        """The events of the transcript; see :class:`backends.base.Transcribe`. Scribe does not stream."""
        refuse_forbidden(request)
        fields, files, _ = transcription.translate(request, upstream)
        async with self._client.open(
            upstream,
            "POST",
            "/v1/speech-to-text",
            data=fields,
            files=files,
            query=transcription.query_of(request),
            key_header=_KEY_HEADER,
            errors=read_elevenlabs_error,
        ) as response:
            answer = await response.json()
        with reading("ElevenLabs"):
            events = list(transcription.events(answer, request))
            for event in events:
                regular_event(event)
        for event in events:
            yield event

    async def list_models(self, upstream: Upstream, server: Endpoint) -> list[Model]:
        """The models that speak, with the account's voices; see :class:`backends.base.Discover`."""
        listed = await self._client.get_json(
            upstream, "/v1/models", key_header=_KEY_HEADER, errors=read_elevenlabs_error
        )
        voices = await self._voice_ids(upstream)
        with reading("ElevenLabs"):
            return discovery.rows_from_models(server, [one for one in listed if isinstance(one, dict)], voices)

    async def _voice_ids(self, upstream: Upstream) -> dict[str, str]:
        """The ids of the account's voices by their names, cached for :data:`VOICES_TTL`."""
        known = self._voices.get(upstream.endpoint)
        if known is not None and self._now() - known[0] < VOICES_TTL:
            return known[1]
        found: dict[str, str] = {}
        query = {"page_size": _PAGE}
        for _ in range(_MAX_PAGES):
            page = await self._client.get_json(
                upstream, "/v2/voices", query=query, key_header=_KEY_HEADER, errors=read_elevenlabs_error
            )
            with reading("ElevenLabs"):
                for voice in page["voices"]:
                    found.setdefault(str(voice.get("name") or voice["voice_id"]), str(voice["voice_id"]))
                more = str(page["next_page_token"] or "") if page.get("has_more") else None
            if not more:
                break
            query = {"page_size": _PAGE, "next_page_token": more}
        self._voices[upstream.endpoint] = (self._now(), found)
        return found

    async def _voice_id(self, upstream: Upstream, voice: str) -> str:
        """The id of a voice by its name in any case, or by its id. Raises UnsupportedParameter for any other."""
        ids = await self._voice_ids(upstream)
        wanted = voice.casefold()
        for name, voice_id in ids.items():
            if wanted in (name.casefold(), name.casefold().split(" - ")[0]) or voice == voice_id:
                return voice_id
        premade = PREMADE.get(wanted)  # an account may hide it from its list, and still speak with it
        if premade is not None:
            return premade
        raise unknown_voice(f"The account at the endpoint '{upstream.endpoint}'", voice, ids)


async def _timed(response: UpstreamResponse, request: SpeechRequest) -> AsyncGenerator[bytes]:
    """The audio of an answer in JSON objects, one a line, with the times of what is spoken."""
    reader = speech.TimedReader(frozenset(request.timestamp_granularities or ()))
    async with aclosing(response.lines()) as pieces:
        async for piece in pieces:
            with reading("ElevenLabs"):
                audio = reader.read(piece)
            yield audio
    last = reader.rest()
    if last is not None:
        yield last
