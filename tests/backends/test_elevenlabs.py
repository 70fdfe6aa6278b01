"""ElevenLabs' translation: formats, speed, voices by name, and Scribe's words as segments."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
from elevenlabs import AsyncElevenLabs
from elevenlabs.speech_to_text.raw_client import RawSpeechToTextClient
from elevenlabs.text_to_speech.raw_client import RawTextToSpeechClient
from elevenlabs.types import SpeechToTextChunkResponseModel
from elevenlabs.types.pronunciation_dictionary_version_locator import PronunciationDictionaryVersionLocator
from elevenlabs.types.voice_settings import VoiceSettings
from openai.types.audio import (
    TranscriptionDiarized,
    TranscriptionTextDoneEvent,
    TranscriptionTextSegmentEvent,
    TranscriptionVerbose,
)
from pydantic import TypeAdapter

from backends.base import Discover, Speak, Transcribe, Upstream
from backends.elevenlabs import ElevenLabsBackend, transcription
from backends.elevenlabs.errors import read_elevenlabs_error
from backends.elevenlabs.speech import translate
from backends.elevenlabs.transcription import events
from backends.elevenlabs.voices import DEFAULT_VOICE, NEAREST, PREMADE
from backends.http import HttpClient
from backends.streams.noted import NotedAudio
from backends.voices import OPENAI_VOICES, openai_voice
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from catalog.catalog import Catalog
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
from catalog.model import Capability, Endpoint
from catalog.types import Json
from server.answers.transcripts import diarized_json
from tests.fakes.elevenlabs import GEORGE, RACHEL, FakeElevenLabs
from tests.fakes.server import Fault


class Door:
    """A backend and its fake."""

    def __init__(self, fake: FakeElevenLabs, http: HttpClient) -> None:
        self.fake = fake
        self.clock = 0.0
        self.backend = ElevenLabsBackend(http, now=lambda: self.clock)

    def upstream(self, model: str = "eleven_flash_v2_5", key: str | None = None, **voices: str) -> Upstream:
        return Upstream(
            voices=voices,
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
        ({"bit_rate": 192}, "mp3_44100_192", True),
        ({"bit_rate": 48}, "mp3_24000_48", True),
        ({"response_format": "opus", "bit_rate": 32}, "opus_48000_32", True),
        ({"response_format": "ulaw"}, "ulaw_8000", True),
        ({"response_format": "alaw"}, "alaw_8000", True),
    ],
)
async def test_each_format_is_asked_for_by_its_own_name(
    door: Door, fields: Json, form: str, streamed: bool
) -> None:
    assert await door.say(**fields) == f"{form}Hello there".encode()
    call = door.fake.calls[0]
    assert call.query == {"output_format": form}
    assert call.path == f"/v1/text-to-speech/{DEFAULT_VOICE}" + ("/stream" if streamed else "")
    assert isinstance(door.backend, Speak)
    assert isinstance(door.backend, Transcribe)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": "flac"},
        {"response_format": "opus", "sample_rate": 8000},
        {"response_format": "pcm", "bit_rate": 32},
        {"sample_rate": 24000, "bit_rate": 128},
        {"timestamp_granularities": ["word"]},
    ],
)
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
    with pytest.raises(UnsupportedParameter, match="George - Warm, Rachel") as refused:
        await door.say(voice="bob")
    assert (refused.value.param, refused.value.code) == ("voice", "unsupported_value")


def test_each_voice_of_openai_has_a_premade_voice_and_each_premade_one_a_voice_of_openai() -> None:
    assert NEAREST.keys() == OPENAI_VOICES.keys()
    assert all(NEAREST[name] in PREMADE for name in OPENAI_VOICES)
    assert all(openai_voice(name) in OPENAI_VOICES for name in (*PREMADE, "heart", "heart-british", "Rachel"))
    assert [openai_voice(name) for name in ("af_nova", "am_adam", "bf_emma", "bob")] == [
        "nova",
        "echo",
        "nova",
        None,
    ]


def test_the_rows_list_the_premade_voices_the_default_first() -> None:
    rows = [
        row for row in Catalog.builtin() if row.provider == "elevenlabs" and Capability.SPEAK in row.capabilities
    ]
    for row in rows:
        first, *others = [voice.lower() for voice in row.voices]
        assert PREMADE[first] == DEFAULT_VOICE
        assert sorted([first, *others]) == sorted(PREMADE)
    assert rows


@pytest.mark.parametrize(("voice", "spoken"), [("alloy", "river"), ("Onyx", "brian"), ("heart", "laura")])
async def test_a_voice_of_openai_or_of_this_machine_is_replaced_by_a_premade_one_and_reported(
    door: Door, voice: str, spoken: str
) -> None:
    await door.say(voice=voice)
    assert [call.path for call in door.fake.calls] == [f"/v1/text-to-speech/{PREMADE[spoken]}/stream"]
    assert speech(voice=voice)[1] == ("voice",)
    with pytest.raises(UnsupportedParameter, match="voice"):
        speech(voice=voice, strict=True)


async def test_the_voice_map_names_a_voice_by_id_or_name_and_is_not_reported(door: Door) -> None:
    upstream = door.upstream(nova=RACHEL, heart="rachel")
    for asked in ("Nova", "heart", {"id": RACHEL}):
        request = SpeechRequest.model_validate({"model": "m", "input": "Hi", "voice": asked, "strict": True})
        assert b"".join([chunk async for chunk in door.backend.speak(upstream, request)])
        assert door.fake.calls[-1].path == f"/v1/text-to-speech/{RACHEL}/stream"
        assert door.backend.dropped(request, upstream) == ()


async def test_times_of_words_come_with_the_audio_and_add_up_to_the_text(door: Door) -> None:
    fields: Json = {"stream_format": "sse", "timestamp_granularities": ["word", "character"]}
    request = SpeechRequest.model_validate({"model": "m", "input": "Hello there you", **fields})
    pieces = [chunk async for chunk in door.backend.speak(door.upstream(), request)]
    assert door.fake.calls[-1].path == f"/v1/text-to-speech/{DEFAULT_VOICE}/stream/with-timestamps"
    assert b"".join(pieces) == b"Hello there you"
    notes = [piece.notes for piece in pieces if isinstance(piece, NotedAudio)]
    words = [word for note in notes for word in note.get("words", ())]
    assert words == [
        {"word": "Hello", "start": 0.0, "end": 0.5},
        {"word": "there", "start": 0.6, "end": 1.1},
        {"word": "you", "start": 1.2, "end": 1.5},
    ]
    assert "".join(at["character"] for note in notes for at in note.get("characters", ())) == "Hello there you"
    assert notes[0]["request_id"] == "req_fake"


async def test_what_is_sent_has_only_names_and_types_of_the_sdk(door: Door) -> None:
    await door.say(
        voice="nova",
        language="de",
        speed=1.1,
        stability=0.2,
        voice_settings={"style": 0.1, "use_speaker_boost": True},
        seed=4,
        previous_text="Before.",
        next_text="After.",
        previous_request_ids=["req_fake"],
        apply_text_normalization="on",
        pronunciation_dictionary_locators=[{"pronunciation_dictionary_id": "d", "version_id": "v"}],
        enable_logging=False,
    )
    call = door.fake.calls[-1]
    known = inspect.signature(RawTextToSpeechClient.stream).parameters
    assert {*call.body, *call.query} <= set(known)
    assert call.query["enable_logging"] == "false"
    assert call.body["voice_settings"] == {"style": 0.1, "use_speaker_boost": True, "stability": 0.2, "speed": 1.1}
    assert set(call.body["voice_settings"]) <= set(VoiceSettings.model_fields)
    for locator in call.body["pronunciation_dictionary_locators"]:
        assert set(locator) <= set(PronunciationDictionaryVersionLocator.model_fields)
    assert (call.body["previous_text"], call.body["previous_request_ids"]) == ("Before.", ["req_fake"])


def test_the_third_model_has_no_stitching_which_is_reported() -> None:
    body, dropped = speech("eleven_v3", previous_text="Before.", seed=1)
    assert ("previous_text" in body, dropped) == (False, ("previous_text",))


@pytest.mark.parametrize(
    ("fields", "sent", "dropped"),
    [
        ({"prompt": "Roundhouse, Zyx Corp;\nKlaus"}, ["Roundhouse", "Zyx Corp", "Klaus"], ()),
        ({"prompt": "The meeting is about the budget of the coming year and its parts."}, None, ("prompt",)),
        ({"prompt": "<b>, x"}, None, ("prompt",)),
        ({"keywords": ("alpha",), "prompt": "alpha, beta"}, ["alpha", "beta"], ()),
    ],
)
async def test_a_prompt_that_lists_terms_becomes_keyterms(
    door: Door, fields: Json, sent: list[str] | None, dropped: tuple[str, ...]
) -> None:
    await door.hear(**fields)
    assert door.fake.calls[-1].body.get("keyterms") == sent
    request = TranscriptionRequest.model_validate({"model": "m", "file": b"x", **fields})
    assert door.backend.dropped(request, door.upstream("scribe_v2")) == dropped


async def test_speakers_are_labelled_as_openai_does_and_streamed_as_segments(door: Door) -> None:
    *_, done = await door.hear(response_format="diarized_json", known_speaker_names=("Ann", "Bob"))
    assert door.fake.calls[-1].body["diarize"] == "true"
    assert door.fake.calls[-1].body["num_speakers"] == "2"
    answer = diarized_json(done)
    TypeAdapter(TranscriptionDiarized).validate_python(answer, strict=True, extra="forbid")
    assert [segment["speaker"] for segment in answer["segments"]] == ["A", "B"]
    told = await door.hear(response_format="diarized_json", stream=True)
    segments = [event for event in told if event["type"] == "transcript.text.segment"]
    for segment in segments:
        TypeAdapter(TranscriptionTextSegmentEvent).validate_python(segment, strict=True, extra="forbid")
    assert [segment["speaker"] for segment in segments] == ["A", "B"]


async def test_scribes_own_parameters_are_fields_of_the_form_as_its_sdk_names_them(door: Door) -> None:
    await door.hear(
        tag_audio_events="true",
        no_verbatim="true",
        num_speakers="3",
        diarize="true",
        seed="4",
        enable_logging="false",
    )
    call = door.fake.calls[-1]
    assert {*call.body, *call.query} <= set(inspect.signature(RawSpeechToTextClient.convert).parameters)
    assert (call.body["tag_audio_events"], call.body["num_speakers"]) == ("true", "3")
    assert call.query == {"enable_logging": "false"}


@pytest.mark.parametrize(
    ("model", "fields", "sent", "dropped"),
    [
        ("scribe_v3", {"languages": ("de", "fr-CH")}, ("de", "fr"), ()),
        ("scribe_v2", {"languages": ("de", "fr")}, (None, None), ("languages",)),
        ("scribe_v2", {"languages": ("de",)}, ("de", None), ()),
        ("scribe_v2", {"language": "de", "languages": ("de", "fr")}, ("de", None), ("languages",)),
    ],
)
def test_languages_that_may_be_spoken_are_hints_of_the_third_scribe(
    model: str, fields: Json, sent: tuple[str | None, str | None], dropped: tuple[str, ...]
) -> None:
    request = TranscriptionRequest.model_validate({"model": "m", "file": b"x", **fields})
    form, _, left_out = transcription.translate(request, Upstream("xi", "elevenlabs", "http://127.0.0.1:1", model))
    told = dict(form)
    assert (told.get("language_code"), told.get("secondary_language_codes")) == sent
    assert left_out == dropped


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"keywords": ("a b c d e f",)}, "keywords"),
        ({"keywords": ("<b>",)}, "keywords"),
        ({"known_speaker_references": ("data:audio/wav;base64,AA==",)}, "known_speaker_references"),
        ({"use_multi_channel": "true"}, "use_multi_channel"),
        ({"webhook": "true"}, "webhook"),
        ({"source_url": "https://example.com/a.mp3"}, "source_url"),
    ],
)
async def test_what_would_change_the_answer_is_refused(door: Door, fields: Json, param: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        await door.hear(**fields)
    assert refused.value.param == param
    assert door.fake.calls == []


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
    request = TranscriptionRequest.model_validate({"model": "m", "file": b"x", "vad_filter": True, "odd": "1"})
    assert door.backend.dropped(request, door.upstream()) == ("vad_filter", "odd")
    with pytest.raises(CapabilityMismatch):
        await door.hear(translate=True)
    with pytest.raises(UndecodableMedia):
        await door.hear(b"")


async def test_the_models_that_speak_are_listed_with_languages_and_voices(door: Door) -> None:
    server = Endpoint(id="xi", protocol="elevenlabs", base_url=door.fake.origin)
    assert isinstance(door.backend, Discover)
    (found,) = await door.backend.list_models(door.upstream(), server)
    assert (found.id, found.languages) == ("xi/eleven_v9", ("en", "de"))
    assert found.capabilities == {Capability.SPEAK}
    assert found.voices == ("George - Warm", "Rachel")


async def test_the_sdk_speaks_and_hears_with_the_fake_as_with_elevenlabs(door: Door) -> None:
    """The fake's own form is true: the official client reads it."""
    async with httpx.AsyncClient() as http:
        sdk = AsyncElevenLabs(api_key=door.fake.key, base_url=door.fake.origin, httpx_client=http)
        audio = b"".join(
            [chunk async for chunk in sdk.text_to_speech.convert(GEORGE, text="Hi", output_format="wav_24000")]
        )
        assert audio == b"wav_24000Hi"
        timed = [piece async for piece in sdk.text_to_speech.stream_with_timestamps(GEORGE, text="Hello there")]
        assert "".join(c for piece in timed for c in (piece.alignment.characters if piece.alignment else ())) == (
            "Hello there"
        )
        heard = await sdk.speech_to_text.convert(model_id="scribe_v2", file=b"RIFF", diarize=True)
        assert isinstance(heard, SpeechToTextChunkResponseModel)
        assert heard.text == door.fake.reply
        assert [model.model_id for model in await sdk.models.list()] == ["eleven_v9", "eleven_sts"]


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
