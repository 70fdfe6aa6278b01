"""ElevenLabs' translation: formats, speed, voices by name, and Scribe's words as segments."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from openai.types.audio import TranscriptionTextDoneEvent, TranscriptionVerbose

from backends.base import Speak, Transcribe, Upstream
from backends.elevenlabs import ElevenLabsBackend
from backends.elevenlabs.errors import read_elevenlabs_error
from backends.elevenlabs.speech import DEFAULT_VOICE, translate
from backends.elevenlabs.transcription import events
from backends.http import HttpClient
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from catalog.errors import (
    CapabilityMismatch,
    InvalidRequest,
    ModelUnavailable,
    RoundhouseError,
    StreamBroken,
    UndecodableMedia,
    UnsupportedParameter,
    UpstreamForbidden,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
)
from catalog.types import Json
from tests.fakes.elevenlabs import GEORGE, RACHEL, FakeElevenLabs
from tests.fakes.server import Fault


class Door:
    """A backend and its fake."""

    def __init__(self, fake: FakeElevenLabs, http: HttpClient) -> None:
        self.fake = fake
        self.clock = 0.0
        self.backend = ElevenLabsBackend(http, now=lambda: self.clock)

    def upstream(self, model: str = "eleven_flash_v2_5", key: str | None = None) -> Upstream:
        return Upstream(
            endpoint="xi",
            protocol="elevenlabs",
            base_url=self.fake.origin,
            model=model,
            api_key=key or self.fake.key,
        )

    async def say(self, text: str = "Hello there", **fields: Any) -> bytes:
        request = SpeechRequest.model_validate({"model": "m", "input": text, **fields})
        return b"".join([chunk async for chunk in self.backend.speak(self.upstream(), request)])

    async def hear(self, file: bytes = b"RIFF", **fields: Any) -> list[Json]:
        request = TranscriptionRequest.model_validate({"model": "m", "file": file, **fields})
        return [event async for event in self.backend.transcribe(self.upstream("scribe_v2"), request)]


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with FakeElevenLabs() as fake, HttpClient() as http:
        yield Door(fake, http)


def speech(model: str = "eleven_flash_v2_5", **fields: Any) -> tuple[Json, tuple[str, ...]]:
    request = SpeechRequest.model_validate({"model": "m", "input": "Hi", **fields})
    call = translate(request, Upstream("xi", "elevenlabs", "http://127.0.0.1:1", model))
    return call.body, call.dropped


@pytest.mark.parametrize(
    ("fields", "form", "streamed"),
    [
        ({}, "mp3_44100_128", True),
        ({"response_format": "opus"}, "opus_48000_128", True),
        ({"response_format": "pcm"}, "pcm_24000", True),
        ({"response_format": "pcm", "sample_rate": 16000}, "pcm_16000", True),
        ({"response_format": "wav"}, "wav_24000", False),
    ],
)
async def test_each_format_is_asked_for_by_its_own_name(
    door: Door, fields: Json, form: str, streamed: bool
) -> None:
    assert await door.say(**fields) == f"{form}Hello there".encode()
    call = door.fake.calls[0]
    assert call.path == f"/v1/text-to-speech/{DEFAULT_VOICE}" + ("/stream" if streamed else "")
    assert isinstance(door.backend, Speak)
    assert isinstance(door.backend, Transcribe)


@pytest.mark.parametrize("fields", [{"response_format": "flac"}, {"response_format": "opus", "sample_rate": 8000}])
def test_a_format_or_rate_that_is_not_made_is_refused(fields: Json) -> None:
    with pytest.raises(UnsupportedParameter):
        speech(**fields)


def test_speed_and_language_are_sent_where_taken_and_reported_where_not() -> None:
    body, dropped = speech(speed=1.2, language="de-CH", stability=0.4, seed=3)
    assert body["voice_settings"] == {"stability": 0.4, "speed": 1.2}
    assert (body["language_code"], body["seed"]) == ("de", 3)
    assert dropped == ()
    body, dropped = speech("eleven_multilingual_v2", speed=2.0, language="de", instructions="Whisper.", odd=1)
    assert not {"voice_settings", "language_code"} & set(body)
    assert dropped == ("speed", "language", "instructions", "odd")
    with pytest.raises(UnsupportedParameter, match="speed"):
        speech(speed=2.0, strict=True)


async def test_voices_are_found_by_name_or_id_and_remembered_for_a_while(door: Door) -> None:
    await door.say(voice=RACHEL)
    assert [call.path for call in door.fake.calls] == [f"/v1/text-to-speech/{RACHEL}/stream"]
    await door.say(voice="rachel")
    await door.say(voice="George")
    asked = [call.path for call in door.fake.calls[1:]]
    assert asked == [
        "/v2/voices",
        "/v2/voices",
        f"/v1/text-to-speech/{RACHEL}/stream",
        f"/v1/text-to-speech/{GEORGE}/stream",
    ]
    door.clock = 1000.0
    await door.say(voice="George - Warm")
    assert [call.path for call in door.fake.calls[5:]] == [
        "/v2/voices",
        "/v2/voices",
        f"/v1/text-to-speech/{GEORGE}/stream",
    ]
    with pytest.raises(InvalidRequest, match="George - Warm, Rachel"):
        await door.say(voice="alloy")


async def test_a_transcript_has_its_language_duration_segments_and_words(door: Door) -> None:
    *deltas, done = await door.hear(timestamp_granularities=("word", "segment"), language="en")
    assert "".join(event["delta"] for event in deltas) == door.fake.reply
    TranscriptionTextDoneEvent.model_validate(done)
    TranscriptionVerbose.model_validate({**done, "segments": None})
    assert (done["text"], done["language"], done["duration"]) == (door.fake.reply, "en", 10.5)
    assert [segment["text"] for segment in done["segments"]] == [
        "The quick brown fox.",
        "It jumps over the lazy dog.",
    ]
    assert (done["segments"][1]["start"], done["segments"][1]["end"]) == (4, 9.8)
    assert [word["word"] for word in done["words"]] == door.fake.reply.split()
    assert door.fake.calls[0].body["language_code"] == "en"
    assert door.fake.calls[0].files == {"file": b"RIFF"}


def test_a_pause_or_another_speaker_ends_a_segment() -> None:
    words = [
        {"text": "a", "type": "word", "start": 0.0, "end": 0.5, "speaker_id": "s0"},
        {"text": "b", "type": "word", "start": 1.6, "end": 2.0, "speaker_id": "s0"},
        {"text": " ", "type": "spacing", "start": 2.0, "end": 2.1, "speaker_id": "s0"},
        {"text": "c", "type": "word", "start": 2.1, "end": 2.5, "speaker_id": "s1"},
    ]
    request = TranscriptionRequest.model_validate({"model": "m", "file": b"x"})
    done = list(events({"text": "a b c", "words": words, "language_code": "xyz"}, request))[-1]
    assert [(segment["text"], segment["speaker"]) for segment in done["segments"]] == [
        ("a", "s0"),
        ("b", "s0"),
        ("c", "s1"),
    ]
    assert (done["language"], done["duration"]) == ("xyz", 2.5)
    assert "words" not in done


async def test_what_scribe_does_not_take_is_reported_or_refused(door: Door) -> None:
    request = TranscriptionRequest.model_validate({"model": "m", "file": b"x", "prompt": "p", "vad_filter": True})
    assert door.backend.dropped(request, door.upstream()) == ("prompt", "vad_filter")
    with pytest.raises(CapabilityMismatch):
        await door.hear(translate=True)
    with pytest.raises(UndecodableMedia):
        await door.hear(b"")


async def test_faults_are_typed(door: Door) -> None:
    door.fake.script(Fault(die_after=1), Fault(cut_after=0), Fault(bad_json=True), Fault(status=429))
    with pytest.raises(StreamBroken):
        await door.say()
    with pytest.raises(StreamBroken, match="no audio"):
        await door.say()
    with pytest.raises(UpstreamProtocolError):
        await door.hear()
    with pytest.raises(UpstreamRateLimited):
        await door.hear()
    request = SpeechRequest.model_validate({"model": "m", "input": "Hi"})
    with pytest.raises(UpstreamRejectedKey):
        await anext(aiter(door.backend.speak(door.upstream(key="xi-other"), request)))
    with pytest.raises(InvalidRequest):
        await door.say(voice="A" * 20)


@pytest.mark.parametrize(
    ("status", "detail", "error"),
    [
        (401, {"status": "quota_exceeded", "message": "No credits."}, UpstreamQuotaExceeded),
        (401, {"status": "invalid_api_key", "message": "Invalid API key"}, UpstreamRejectedKey),
        (401, {"status": "missing_permissions", "message": "No text_to_speech."}, UpstreamForbidden),
        (403, {"status": "output_format_not_allowed", "message": "192 kbps needs a plan."}, UpstreamForbidden),
        (403, "plain words", UpstreamForbidden),
        (429, {"status": "system_busy", "message": "Busy."}, UpstreamOverloaded),
        (400, {"status": "model_not_found", "message": "No such model."}, ModelUnavailable),
        (422, [{"loc": ["body", "text"], "msg": "Field required"}], InvalidRequest),
        (400, "plain words", InvalidRequest),
    ],
)
def test_errors_are_read_from_the_detail(status: int, detail: Any, error: type[RoundhouseError]) -> None:
    there = Upstream("xi", "elevenlabs", "http://127.0.0.1:1", "m")
    assert isinstance(read_elevenlabs_error(status, {}, orjson.dumps({"detail": detail}), there), error)
