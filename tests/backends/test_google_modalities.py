"""Pictures and sound out of a chat with Gemini."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any

import pytest
from google.genai import types

from backends.base import Upstream
from backends.google import GoogleBackend
from backends.google.request import translate
from backends.http import HttpClient
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json
from tests.fakes.google import FakeGoogle

PAINTER, SPEAKER, WRITER = "gemini-3-pro-image", "gemini-3-flash-tts", "gemini-3-flash"
AUDIO: Json = {"voice": "Kore", "format": "pcm16"}
SPOKEN: Json = {"modalities": ["text", "audio"], "audio": AUDIO}


def upstream(model: str, base_url: str = "http://127.0.0.1:1", **fields: Any) -> Upstream:
    return Upstream(endpoint="g", protocol="google", base_url=base_url, model=model, api_key="AIza-fake", **fields)


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def config_of(model: str, **fields: Any) -> tuple[Json, tuple[str, ...]]:
    """The configuration sent, by the SDK's types, which forbid unknown fields; and the dropped names."""
    made = translate(asked(**fields), upstream(model))
    config = made.body.get("generationConfig", {})
    types.GenerateContentConfig.model_validate(config)
    return config, made.dropped


async def message(model: str, **fields: Any) -> Json:
    async with FakeGoogle() as fake, HttpClient() as http:
        fake.pictures = ("aVBORw==",) if model == PAINTER else ()
        assembler = ChatAssembler()
        async for chunk in GoogleBackend(http).chat(upstream(model, fake.base_url), asked(**fields)):
            assembler.add(chunk)
    found: Json = assembler.result()["choices"][0]["message"]
    return found


async def test_pictures_come_with_the_text_or_alone() -> None:
    both = await message(PAINTER, modalities=["image", "text"])
    assert both["content"].startswith("The quick brown fox")
    alone = await message(PAINTER, modalities=["image"])
    assert not alone["content"]
    for answer in (both, alone):
        assert [one["image_url"]["url"] for one in answer["images"]] == ["data:image/png;base64,aVBORw=="]


def test_a_pictures_shape_and_size_are_sent_and_other_options_of_it_are_named() -> None:
    config, dropped = config_of(
        PAINTER, modalities=["image"], image_config={"aspect_ratio": "16:9", "image_size": "2K", "strength": 1}
    )
    assert config == {"responseModalities": ["IMAGE"], "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"}}
    assert dropped == ("image_config.strength",)


async def test_sound_comes_as_pcm_or_as_one_wav_file() -> None:
    pcm = (await message(SPEAKER, **SPOKEN))["audio"]
    assert base64.b64decode(pcm["data"]) == b"\x01\x00\x02\x00\x03\x00"
    wav = (await message(SPEAKER, modalities=["audio"], audio={"voice": "nova", "format": "wav"}))["audio"]
    with wave.open(io.BytesIO(base64.b64decode(wav["data"]))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert file.readframes(file.getnframes()) == b"\x01\x00\x02\x00\x03\x00"
    assert wav["mime_type"] == "audio/wav"


@pytest.mark.parametrize(
    ("voice", "sent", "dropped"),
    [("Kore", "Kore", ()), ("alloy", "Kore", ("audio.voice",)), ({"id": "Puck"}, "Puck", ())],
)
def test_openais_voices_become_geminis_nearest_and_are_named(voice: Any, sent: str, dropped: Any) -> None:
    config, lost = config_of(SPEAKER, modalities=["audio"], audio={**AUDIO, "voice": voice})
    assert config["speechConfig"] == {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": sent}}}
    assert lost == dropped


def test_a_voice_of_the_voice_map_is_used_and_not_reported() -> None:
    made = translate(
        asked(**{**SPOKEN, "audio": {**AUDIO, "voice": "Alloy"}}), upstream(SPEAKER, voices={"alloy": "Leda"})
    )
    voice = made.body["generationConfig"]["speechConfig"]["voiceConfig"]["prebuiltVoiceConfig"]
    assert (voice, made.dropped) == ({"voiceName": "Leda"}, ())


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        (WRITER, {"modalities": ["text", "image"]}, "modalities"),
        (WRITER, SPOKEN, "modalities"),
        (PAINTER, SPOKEN, "modalities"),
        (PAINTER, {"modalities": ["image", "audio"], "audio": AUDIO}, "modalities"),
        (PAINTER, {"modalities": ["video"]}, "modalities"),
        (WRITER, {"audio": AUDIO}, "audio"),
        (SPEAKER, {"modalities": ["text"], "audio": AUDIO}, "audio"),
        (WRITER, {"image_config": {"aspect_ratio": "1:1"}}, "image_config"),
        (SPEAKER, {"modalities": ["audio"], "audio": {**AUDIO, "format": "mp3"}}, "audio.format"),
    ],
)
def test_what_the_model_does_not_make_is_refused(model: str, fields: Json, param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        translate(asked(**fields), upstream(model))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"modalities": "image"}, "modalities"),
        ({"modalities": [1]}, "modalities"),
        ({"modalities": ["audio"]}, "audio"),
        ({"modalities": ["audio"], "audio": "loud"}, "audio"),
        ({"modalities": ["audio"], "audio": {"format": "wav", "voice": 3}}, "audio.voice"),
        ({"image_config": []}, "image_config"),
    ],
)
def test_fields_of_another_form_are_the_callers_mistake(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translate(asked(**fields), upstream(SPEAKER))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("model", "draws"),
    [
        ("gemini-3-pro-image", True),
        ("models/gemini-nano-banana-2.1", True),
        ("publishers/google/models/gemini-nano-banana-2.1", True),
        ("nano-banana-pro-preview", True),
        ("gemini-3.8-flash", False),
    ],
)
def test_the_names_of_models_that_draw_are_known(model: str, draws: bool) -> None:
    if draws:
        made = translate(asked(modalities=["image"]), upstream(model)).body["generationConfig"]
        assert made == {"responseModalities": ["IMAGE"]}
    else:
        with pytest.raises(UnsupportedParameter, match="makes no pictures"):
            translate(asked(modalities=["image"]), upstream(model))


def test_a_row_can_say_that_a_model_makes_pictures_and_its_list_does_not_hide_them() -> None:
    row = upstream("a-painter", parameters=frozenset({"modalities", "temperature"}))
    made = translate(asked(modalities=["text", "image"]), row)
    assert made.body["generationConfig"]["responseModalities"] == ["TEXT", "IMAGE"]
    painter = upstream(PAINTER, parameters=frozenset({"temperature"}))
    made = translate(asked(modalities=["image"]), painter)
    assert (made.body["generationConfig"], made.dropped) == ({"responseModalities": ["IMAGE"]}, ())
