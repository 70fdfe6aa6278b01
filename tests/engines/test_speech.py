"""Speech with a real voice: formats, speed, sample rate, refusals, and the round trip through transcription."""

from __future__ import annotations

import asyncio
import io
import wave
from typing import Any

import av
import httpx
import numpy as np
import pytest

from backends.workers.engines.common.audio import decode, wav_header
from backends.workers.engines.speech.hibari import HibariVoices
from catalog.errors import InvalidRequest
from tests.conformance.capability_checks import SENTENCE, events
from tests.conformance.worker import Worker

pytestmark = pytest.mark.engine

CODECS = {"mp3": "mp3", "opus": "opus", "aac": "aac", "flac": "flac", "wav": "pcm_s16le"}
CONTAINERS = {"mp3": "mp3", "opus": "ogg", "aac": "aac", "flac": "flac", "wav": "wav"}


async def _speak(speaker: Worker, text: str = SENTENCE, **body: Any) -> httpx.Response:
    async with speaker.client() as client:
        return await client.post("/v1/audio/speech", json={"model": "m", "input": text, **body})


def _seconds(data: bytes) -> float:
    return len(decode(data, rate=16_000, max_seconds=600, check=lambda: None)) / 16_000


@pytest.mark.parametrize("audio_format", [*CODECS, "pcm"])
async def test_speech_round_trip(hibari: Worker, whisper: Worker, audio_format: str) -> None:
    answer = await _speak(hibari, response_format=audio_format)
    assert answer.status_code == 200
    data = answer.content
    if audio_format == "pcm":
        data = wav_header(24_000, len(data)) + data
    else:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.audio[0]
            assert stream.codec_context.codec.canonical_name == CODECS[audio_format]
            assert container.format.name == CONTAINERS[audio_format]
            assert stream.channels == 1
            # Opus always decodes at 48 kHz (RFC 7845); the others keep the voice's own rate.
            assert stream.rate == (48_000 if audio_format == "opus" else 24_000)
    assert 2.5 < _seconds(data) < 3.6
    async with whisper.client() as client:
        heard = await client.post(
            "/v1/audio/transcriptions", data={"model": "m"}, files={"file": (f"a.{audio_format}", data)}
        )
    assert events(heard.text)[-1]["text"] == SENTENCE


async def test_a_streamed_wav_is_read_by_the_standard_library_too(hibari: Worker) -> None:
    answer = await _speak(hibari, response_format="wav")
    with wave.open(io.BytesIO(answer.content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24_000)
        samples = np.frombuffer(file.readframes(10 * 24_000), "<i2")
    assert 2.5 < len(samples) / 24_000 < 3.6
    assert np.abs(samples).max() > 3000


@pytest.mark.parametrize(("audio_format", "rate"), [("wav", 44_100), ("mp3", 16_000), ("flac", 22_050)])
async def test_the_sample_rate_asked_for_is_the_rate_of_the_file(
    hibari: Worker, audio_format: str, rate: int
) -> None:
    answer = await _speak(hibari, response_format=audio_format, sample_rate=rate)
    with av.open(io.BytesIO(answer.content)) as container:
        assert container.streams.audio[0].rate == rate
    assert 2.5 < _seconds(answer.content) < 3.6


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
async def test_speed_changes_the_duration(hibari: Worker, speed: float) -> None:
    normal, changed = [
        _seconds((await _speak(hibari, response_format="flac", speed=pace)).content) for pace in (1.0, speed)
    ]
    assert normal / changed == pytest.approx(speed, rel=0.2)


async def test_each_sentence_is_a_piece_of_the_answer(hibari: Worker) -> None:
    body = {"model": "m", "input": f"{SENTENCE}\n" * 40, "response_format": "pcm"}
    async with hibari.client() as client, client.stream("POST", "/v1/audio/speech", json=body) as answer:
        assert len([piece async for piece in answer.aiter_raw()]) >= 40


async def test_the_voices_are_listed_and_each_speaks(hibari: Worker) -> None:
    async with hibari.client() as client:
        voices = (await client.get("/v1/audio/voices")).json()["data"]
    assert [voice["id"] for voice in voices] == ["heart", "heart-british"]
    american, british = [
        (await _speak(hibari, "I can't dance on a tomato.", voice=voice["id"], response_format="pcm")).content
        for voice in voices
    ]
    assert american != british


@pytest.mark.parametrize("strict", [False, True])
async def test_the_name_of_an_openai_voice_means_a_real_voice(hibari: Worker, strict: bool) -> None:
    answer = await _speak(hibari, "Hi.", voice="alloy", strict=strict)
    assert answer.status_code == 200
    assert "x-roundhouse-dropped" not in answer.headers
    assert answer.headers["x-roundhouse-voice"] == "heart"


async def test_a_voice_of_the_other_gender_is_named_or_with_strict_refused(hibari: Worker) -> None:
    answer = await _speak(hibari, "Hi.", voice="onyx")
    assert (answer.status_code, answer.headers["x-roundhouse-dropped"]) == (200, "voice")
    assert (await _speak(hibari, "Hi.", voice="onyx", strict=True)).status_code == 400


@pytest.mark.parametrize(
    ("body", "dropped"),
    [
        ({"instructions": "whisper"}, "instructions"),
        ({"text": "Hello 你好"}, "input"),
        ({"mood": "happy"}, "mood"),
    ],
)
async def test_what_has_no_effect_is_named_or_with_strict_refused(
    hibari: Worker, body: dict[str, Any], dropped: str
) -> None:
    text = body.pop("text", "Hello.")
    answer = await _speak(hibari, text, **body)
    assert answer.status_code == 200
    assert answer.headers["x-roundhouse-dropped"] == dropped
    refused = await _speak(hibari, text, strict=True, **body)
    assert refused.json()["error"]["code"] == "unsupported_value"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"voice": "bob"}, "voice"),
        ({"language": "de"}, "language"),
        ({"text": "你好"}, "input"),
        ({"text": " \n "}, "input"),
        ({"text": "😀"}, "input"),
        ({"text": ""}, "input"),
        ({"speed": 9}, "speed"),
        ({"response_format": "midi"}, "response_format"),
        ({"response_format": "opus", "sample_rate": 44_100}, "sample_rate"),
    ],
)
async def test_what_cannot_be_spoken_is_refused(hibari: Worker, body: dict[str, Any], param: str) -> None:
    answer = await _speak(hibari, body.pop("text", "Hello."), **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_sentences_come_as_they_are_ready_and_speaking_stops_when_the_client_leaves(hibari: Worker) -> None:
    before = await hibari.stats()
    body = {"model": "m", "input": f"{SENTENCE}\n" * 1000}
    async with hibari.client() as client, client.stream("POST", "/v1/audio/speech", json=body) as answer:
        await anext(answer.aiter_raw())
        assert await hibari.active() == 1, "a piece has come, and others are not spoken yet"
    await hibari.until_active(0, within=60)
    after = await hibari.stats()
    assert (after["cancelled"], after["done"]) == (before["cancelled"] + 1, before["done"])


@pytest.mark.parametrize("number", ["9" * 37, "$" + "9" * 400, "9," * 50, "\u0663" * 60, "-" + "1" * 40 + "th"])
async def test_a_long_number_is_read_digit_by_digit(hibari: Worker, number: str) -> None:
    digits = sum(character.isdigit() for character in number)
    answer = await _speak(hibari, f"The number is {number}.", response_format="flac")
    assert answer.status_code == 200
    assert _seconds(answer.content) > 0.2 * digits


async def test_a_text_that_is_too_long_when_read_is_refused_before_it_is_spoken(hibari: Worker) -> None:
    answer = await _speak(hibari, "9" * 4096)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input"
    assert "shorter parts" in answer.json()["error"]["message"]


@pytest.mark.parametrize("part", ["%", "a/", "a@b.", "A1", "a-"])
async def test_a_word_of_many_parts_is_read_in_a_time_linear_in_its_length(hibari: Worker, part: str) -> None:
    body = {"model": "m", "input": (part * 2000)[:2000]}  # the rules alone need minutes for it
    async with hibari.client() as client, client.stream("POST", "/v1/audio/speech", json=body) as answer:
        assert answer.status_code in (200, 400)


async def test_a_short_text_is_answered_while_long_ones_are_spoken(hibari: Worker) -> None:
    spoken: list[str] = []

    async def speak(name: str, text: str) -> None:
        assert (await _speak(hibari, text)).status_code == 200
        spoken.append(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(speak("long", f"{SENTENCE}\n" * 30))
        await hibari.until_active(2, within=20)
        group.create_task(speak("short", "Good morning."))
    assert spoken == ["short", "long", "long"]


async def test_nothing_of_a_long_word_is_dropped(hibari: Worker) -> None:
    short, long = [
        _seconds((await _speak(hibari, word, response_format="flac")).content)
        for word in ("tokilanu" * 2, "tokilanu" * 20)
    ]
    assert long > 5 * short


def test_what_one_text_makes_the_rules_raise_is_that_requests_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from hibari.g2p import G2P

    told = G2P.tokenize

    def raises(self: G2P, text: str) -> Any:
        if "poison" in text:
            raise IndexError
        return told(self, text)

    monkeypatch.setattr(G2P, "tokenize", raises)
    voices = HibariVoices(threads=1)

    with pytest.raises(InvalidRequest, match="cannot read this sentence"):
        voices.read("Good morning. This is poison.", language="en-US")
    assert voices.read("Good morning.", language="en-US"), "nor does it hold the rules' lock"
