"""Voices at servers of OpenAI's wire: named, mapped, replaced by the nearest, or refused for another model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from backends.base import Upstream
from backends.http import HttpClient
from backends.local.parameters import table_of
from backends.openai.backend import OpenAIBackend
from backends.openai.forms import dropped, speech_body, transcription_form
from backends.openai.parameters import COMPATIBLE, OPENAI
from backends.voices import KOKORO_VOICES, OPENAI_VOICES, kokoro_voice, unknown_voice
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.workers.engines.speech.voices import Voice, choose
from catalog.errors import UnsupportedParameter
from catalog.types import Json
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault

AT = Upstream("openai", "openai", "https://api.openai.com/v1", "tts-1", voices={"mine": "voice_1"})
WORKER = Upstream("local", "worker", "", "ears", engine="whisper")


def speech(**fields: Any) -> SpeechRequest:
    return SpeechRequest.model_validate({"model": "m", "input": "Hi", **fields})


@pytest.mark.parametrize(
    ("voice", "sent", "reported"),
    [
        (None, "alloy", ()),
        ("Nova", "Nova", ()),
        ("Rachel", "nova", ("voice",)),
        ("bm_george", "echo", ("voice",)),
        ("mine", "voice_1", ()),
        ("of-next-year", "of-next-year", ()),
        ({"id": "voice_1234"}, {"id": "voice_1234"}, ()),
        ({"id": "mine"}, "voice_1", ()),
    ],
)
def test_a_voice_is_sent_mapped_or_replaced_by_the_nearest_which_is_reported(
    voice: Any, sent: Any, reported: tuple[str, ...]
) -> None:
    request = speech(voice=voice)
    assert speech_body(request, AT, OPENAI, "alloy")["voice"] == sent
    assert dropped(request, AT, OPENAI) == reported


def test_what_another_providers_voice_is_told_is_left_out_and_reported() -> None:
    request = speech(voice="nova", stability=0.3, previous_text="Before.", enable_logging=True)
    body = speech_body(request, AT, OPENAI, "alloy")
    assert body == {"model": "tts-1", "input": "Hi", "voice": "nova", "response_format": "mp3"}
    assert dropped(request, AT, OPENAI) == ("stability", "previous_text", "enable_logging")
    assert speech_body(request, AT, COMPATIBLE, "alloy")["stability"] == 0.3


def test_a_worker_keeps_no_record_so_that_none_need_be_refused() -> None:
    assert speech_body(speech(enable_logging=False), WORKER, table_of("speech"), None)["input"] == "Hi"


def test_a_server_of_unknown_voices_gets_the_name_as_it_is() -> None:
    assert speech_body(speech(voice="af_heart"), AT, COMPATIBLE, "alloy")["voice"] == "af_heart"


@pytest.mark.parametrize(
    "fields",
    [{"timestamp_granularities": ["word"], "stream_format": "sse"}, {"enable_logging": False}],
    ids=["times", "privacy"],
)
def test_times_and_privacy_that_the_wire_cannot_ask_for_are_refused(fields: Json) -> None:
    with pytest.raises(UnsupportedParameter):
        speech_body(speech(**fields), AT, OPENAI, "alloy")


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


async def test_a_voice_that_the_server_refuses_is_for_another_model_to_speak(fake: FakeOpenAI) -> None:
    fake.script(Fault(status=400, code="invalid_value"))
    fake.error = lambda *_, **__: {"error": {"message": "no", "param": "voice", "code": "invalid_value"}}  # type: ignore[method-assign]
    upstream = Upstream("openai", "openai", fake.base_url, "tts-1")
    async with HttpClient() as http:
        with pytest.raises(UnsupportedParameter) as refused:
            async for _ in OpenAIBackend(http).speak(upstream, speech(voice="bob")):
                pass
    assert (refused.value.param, refused.value.code) == ("voice", "invalid_value")


VOICES = (Voice("heart", ("en-US",), "female"), Voice("am_adam", ("en-US",), "male"), Voice("af_sage", ("en-US",)))
ALL = tuple(
    Voice(name, (told[0],), told[1])
    for name in (*KOKORO_VOICES.values(), "zm_yunxi", "zf_xiaobei", "hf_alpha", "jm_kumo", "jf_alpha")
    if (told := kokoro_voice(name)) is not None
)
"""Voices of Kokoro, the default ``af_heart`` among them."""


@pytest.mark.parametrize(
    ("name", "spoken"),
    [("alloy", "heart"), ("onyx", "am_adam"), ("nova", "heart"), ("Sage", "af_sage")],
)
def test_a_name_of_openai_means_a_local_voice_of_its_gender_and_nothing_is_dropped(name: str, spoken: str) -> None:
    choice = choose(VOICES, default="heart", name=name, language=None, strict=True)
    assert (choice.voice.name, choice.dropped) == (spoken, ())


@pytest.mark.parametrize("name", OPENAI_VOICES)
def test_each_voice_of_openai_is_another_one_of_kokoro_with_its_gender(name: str) -> None:
    choice = choose(ALL, default="af_heart", name=name, language=None, strict=True)
    assert choice.voice.name == KOKORO_VOICES[name]
    assert OPENAI_VOICES[name] in (choice.voice.gender, None)
    assert len(set(KOKORO_VOICES.values())) == len(KOKORO_VOICES) == len(OPENAI_VOICES)


@pytest.mark.parametrize(
    ("voices", "name", "spoken"),
    [(VOICES, "Brian", "am_adam"), (VOICES[:1], "onyx", "heart"), (ALL, "Rachel", "af_nova")],
)
def test_a_voice_of_another_provider_or_of_the_other_gender_is_reported(
    voices: tuple[Voice, ...], name: str, spoken: str
) -> None:
    default = voices[0].name
    choice = choose(voices, default=default, name=name, language=None, strict=False)
    assert (choice.voice.name, choice.dropped) == (spoken, ("voice",))
    with pytest.raises(UnsupportedParameter, match=default):
        choose(voices, default=default, name=name, language=None, strict=True)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("text", "name", "spoken"),
    [
        ("你好世界。", None, "zf_xiaobei"),
        ("你好世界。", "nova", "zf_xiaobei"),
        ("你好世界。", "onyx", "zm_yunxi"),
        ("我喜欢用 Python 编程。", None, "zf_xiaobei"),
        ("नमस्ते दुनिया।", None, "hf_alpha"),
        ("これは日本語です。", None, "jf_alpha"),
        ("The word 你好 means hello.", None, "af_heart"),
        ("Привет, мир!", None, "af_heart"),
        ("Café, naïve!", None, "af_heart"),
        ("12 + 30 € ≈ 42", None, "af_heart"),
    ],
)
def test_a_text_in_another_script_is_spoken_by_a_voice_that_reads_it(
    text: str, name: str | None, spoken: str, strict: bool
) -> None:
    choice = choose(ALL, default="af_heart", name=name, language=None, strict=strict, text=text)
    assert (choice.voice.name, choice.dropped) == (spoken, ())
    assert choice.language == choice.voice.languages[0]


def test_a_voice_that_is_named_speaks_whatever_the_script() -> None:
    choice = choose(ALL, default="af_heart", name="am_puck", language=None, strict=False, text="你好")
    assert choice.voice.name == "am_puck", "it is for the caller to be told that this voice cannot read it"


def test_a_japanese_text_is_not_read_by_a_chinese_voice() -> None:
    chinese = tuple(voice for voice in ALL if voice.languages != ("ja",))
    choice = choose(chinese, default="af_heart", name=None, language=None, strict=False, text="私は学生です。")
    assert choice.voice.name == "af_heart"


def test_a_language_is_spoken_by_a_voice_of_the_gender_that_was_meant() -> None:
    choice = choose(ALL, default="af_heart", name="onyx", language="ja", strict=True)
    assert (choice.voice.name, choice.language) == ("jm_kumo", "ja")


@pytest.mark.parametrize("strict", [False, True])
def test_a_voice_whose_language_is_not_read_here_names_the_way_to_read_it(strict: bool) -> None:
    unread = {"jf_alpha": "pip install 'any[japanese]'"}
    with pytest.raises(UnsupportedParameter, match=r"'jf_alpha' is not read here.*any\[japanese\]"):
        choose(VOICES, default="heart", name="jf_alpha", language=None, strict=strict, unread=unread)


def test_an_unknown_local_voice_is_refused_with_the_list() -> None:
    with pytest.raises(UnsupportedParameter, match="heart, am_adam, af_sage"):
        choose(VOICES, default="heart", name="bob", language=None, strict=False)


def test_an_error_lists_every_voice_of_kokoro_and_counts_those_beyond_a_page() -> None:
    names = [f"v{number}" for number in range(70)]
    assert unknown_voice("It", "bob", names[:49]).message.endswith("v47, v48.")
    assert unknown_voice("It", "bob", names).message.endswith("v63 and 6 more.")


def hearing(**fields: Any) -> TranscriptionRequest:
    return TranscriptionRequest.model_validate({"model": "m", "file": b"x", **fields})


def test_speakers_keywords_and_languages_are_sent_to_openai_in_its_own_fields() -> None:
    request = hearing(
        response_format="diarized_json",
        known_speaker_names=("ann",),
        known_speaker_references=("data:audio/wav;base64,AA==",),
        keywords=("Zyx",),
        languages=("de", "fr"),
        include=("logprobs",),
        chunking_strategy={"type": "server_vad"},
        stream=True,
    )
    form, _ = transcription_form(request, AT, OPENAI, streamed=False)
    assert sorted(form) == sorted(
        [
            ("model", "tts-1"),
            ("response_format", "diarized_json"),
            ("stream", "true"),
            ("known_speaker_names[]", "ann"),
            ("known_speaker_references[]", "data:audio/wav;base64,AA=="),
            ("keywords[]", "Zyx"),
            ("languages[]", "de"),
            ("languages[]", "fr"),
            ("include[]", "logprobs"),
            ("chunking_strategy[type]", "server_vad"),
        ]
    )
    assert dropped(request, AT, OPENAI) == ()


def test_a_worker_that_cannot_tell_speakers_apart_is_not_asked_to() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        transcription_form(hearing(response_format="diarized_json"), WORKER, COMPATIBLE, streamed=True)
    assert refused.value.param == "response_format"


def test_a_redacted_transcript_is_refused_where_nothing_is_redacted() -> None:
    with pytest.raises(UnsupportedParameter, match="entity_redaction"):
        transcription_form(hearing(entity_redaction="pii"), AT, OPENAI, streamed=False)
