"""Transcripts in every format, multipart forms, speech and voices."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from server.answers.transcripts import clock, srt, vtt
from tests.server.api.test_chat import events
from tests.server.conftest import Gateway, Start
from tests.server.edge.test_gate import KEYS
from tests.server.test_bad_input import error

PATH = "/v1/audio/transcriptions"
FILE = {"file": ("a.wav", b"RIFF")}


async def transcribe(gateway: Gateway, **fields: Any) -> Any:
    return await gateway.client.post(PATH, data={"model": "ears", **fields}, files=FILE)


async def test_json_has_the_text_and_the_usage(gateway: Gateway) -> None:
    body = (await transcribe(gateway)).json()
    assert body == {"text": "Hello there. <Bye>", "usage": {"type": "duration", "seconds": 3.5}}


@pytest.mark.parametrize(
    ("name", "code"),
    [("english", "en"), (" French ", "fr"), ("Castilian", "es"), ("cantonese", "yue"), ("pt-BR", "pt-BR")],
)
async def test_a_language_may_be_named_in_english(gateway: Gateway, name: str, code: str) -> None:
    answer = await transcribe(gateway, language=name, **{"languages[]": name})
    assert answer.status_code == 200, answer.text
    (request,) = gateway.backend.requests
    assert (request.language, request.languages) == (code, (code,))


async def test_a_language_that_has_no_such_name_is_a_400(gateway: Gateway) -> None:
    assert (await transcribe(gateway, language="klingonese")).json()["error"]["param"] == "language"


async def test_the_last_event_of_speech_counts_the_tokens_of_the_text(gateway: Gateway) -> None:
    body = {"model": "songbird", "input": "Four words are spoken.", "stream_format": "sse"}
    told = (await gateway.client.post("/v1/audio/speech", json=body)).text
    usage = orjson.loads(told.strip().rpartition("data: ")[2])["usage"]
    assert 3 <= usage["input_tokens"] == usage["total_tokens"] <= 10
    assert usage["output_tokens"] == 0


async def test_a_translation_is_in_english_and_tells_the_language_of_the_speech(gateway: Gateway) -> None:
    gateway.backend.transcript |= {"language": "en", "source_language": "fr"}
    answer = await gateway.client.post(
        "/v1/audio/translations", data={"model": "ears", "response_format": "verbose_json"}, files=FILE
    )
    told = answer.json()
    assert (told["task"], told["language"], told["source_language"]) == ("translate", "en", "fr")


async def test_text(gateway: Gateway) -> None:
    answer = await transcribe(gateway, response_format="text")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == "Hello there. <Bye>\n"
    assert answer.headers["x-roundhouse-model"] == "parrot"


async def test_srt(gateway: Gateway) -> None:
    answer = await transcribe(gateway, response_format="srt")
    assert answer.text == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n00:00:01,500 --> 00:00:03,500\n<Bye>\n"
    )


async def test_vtt_escapes_markup(gateway: Gateway) -> None:
    answer = await transcribe(gateway, response_format="vtt")
    assert answer.headers["content-type"].startswith("text/vtt")
    assert answer.text == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n00:00:01.500 --> 00:00:03.500\n&lt;Bye&gt;\n"
    )


async def test_verbose_json_has_only_the_granularities_asked_for(gateway: Gateway) -> None:
    segments = (await transcribe(gateway, response_format="verbose_json")).json()
    assert len(segments["segments"]) == 2
    assert "words" not in segments
    words = (
        await transcribe(gateway, response_format="verbose_json", **{"timestamp_granularities[]": "word"})
    ).json()
    assert words["words"][0]["word"] == "Hello"
    assert "segments" not in words
    assert words["task"] == "transcribe"


async def test_diarization_is_refused_by_a_model_without_it(gateway: Gateway) -> None:
    error(await transcribe(gateway, response_format="diarized_json"), 400, "unsupported_parameter")


async def test_a_translation_with_speakers_is_refused_as_openai_does(gateway: Gateway) -> None:
    answer = await gateway.client.post(
        "/v1/audio/translations", data={"model": "auto", "response_format": "diarized_json"}, files=FILE
    )
    error(answer, 400, "invalid_request")
    assert answer.json()["error"]["param"] == "response_format"


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
async def test_a_stream_in_a_format_of_whole_transcripts_is_refused(gateway: Gateway, form: str) -> None:
    told = error(await transcribe(gateway, stream="true", response_format=form), 400, "invalid_request")
    assert told["param"] == "response_format"
    assert not gateway.backend.requests, "no model was asked"


async def test_a_form_may_have_routing_as_json(gateway: Gateway) -> None:
    assert (await transcribe(gateway, routing='{"strict": true}')).status_code == 200
    assert gateway.dispatcher.facts[-1].intent.strict


@pytest.mark.parametrize("sent", ["fast", "[1]", "{", '"{}"', "7"])
async def test_routing_in_a_form_that_is_no_object_is_refused_with_the_ways_to_send_it(
    gateway: Gateway, sent: str
) -> None:
    told = error(await transcribe(gateway, routing=sent), 400, "invalid_request")
    assert told["param"] == "routing"
    assert "JSON" in told["message"]
    assert "x-roundhouse-" in told["message"]


async def test_a_stream_of_events(gateway: Gateway) -> None:
    answer = await transcribe(gateway, stream="true")
    assert [item["type"] for item in events(answer.text)] == [
        "transcript.text.delta",
        "transcript.text.delta",
        "transcript.text.done",
    ]


async def test_every_field_of_the_form_reaches_the_backend(gateway: Gateway) -> None:
    await transcribe(gateway, language="en", prompt="names", temperature="0.5", vad_filter="true")
    request = gateway.backend.requests[-1]
    assert (request.language, request.prompt, request.temperature, request.vad_filter) == (
        "en",
        "names",
        0.5,
        True,
    )
    assert (request.file, request.filename) == (b"RIFF", "a.wav")


async def test_lists_and_objects_of_the_form_are_read_as_openais_sdks_write_them(gateway: Gateway) -> None:
    sample = "data:audio/wav;base64,AA=="
    await transcribe(
        gateway,
        **{"keywords[]": ["Zyx, Corp", "b"], "languages[]": "de", "known_speaker_references[]": sample},
        **{
            "chunking_strategy[type]": "server_vad",
            "chunking_strategy[threshold]": "0.5",
            "include[]": "logprobs",
        },
    )
    request = gateway.backend.requests[-1]
    assert (request.keywords, request.languages, request.include) == (("Zyx, Corp", "b"), ("de",), ("logprobs",))
    assert request.known_speaker_references == (sample,)
    assert request.chunking_strategy == {"type": "server_vad", "threshold": "0.5"}
    await transcribe(gateway, chunking_strategy="auto")
    assert gateway.backend.requests[-1].chunking_strategy == "auto"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chunking_strategy": "never"}, "chunking_strategy"),
        ({"model": ""}, "model"),
        ({"language": "en_GB!"}, "language"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "7"}, "temperature"),
        ({"response_format": "doc"}, "response_format"),
        ({"stream": "maybe"}, "stream"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"timestamp_granularities[]": "vowel", "response_format": "verbose_json"}, "timestamp_granularities[0]"),
    ],
)
async def test_wrong_fields_are_named(gateway: Gateway, fields: dict[str, str], param: str) -> None:
    assert error(await transcribe(gateway, **fields), 400, "invalid_request")["param"] == param


async def test_forms_that_are_none(gateway: Gateway) -> None:
    client = gateway.client
    no_file = await client.post(PATH, files={"model": (None, "ears")})
    assert error(no_file, 400, "invalid_request")["param"] == "file"
    empty = await client.post(PATH, data={"model": "ears"}, files={"file": ("a.wav", b"")})
    assert error(empty, 400, "invalid_request")["param"] == "file"
    as_text = await client.post(PATH, files={"model": (None, "ears"), "file": (None, "RIFF")})
    assert error(as_text, 400, "invalid_request")["param"] == "file"
    two = await client.post(PATH, data={"model": "ears"}, files=[("file", ("a", b"1")), ("file", ("b", b"2"))])
    error(two, 400, "invalid_request")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    error(await client.post(PATH, content=b"--y\r\nnonsense", headers=headers), 400, "invalid_request")
    error(
        await client.post(PATH, content=b"x", headers={"content-type": "multipart/form-data"}),
        400,
        "invalid_request",
    )
    error(await client.post(PATH, json={"model": "ears"}), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("form", "media"),
    [
        ("mp3", "audio/mpeg"),
        ("opus", "audio/ogg"),
        ("aac", "audio/aac"),
        ("flac", "audio/flac"),
        ("pcm", "audio/pcm"),
    ],
)
async def test_speech_names_its_format(gateway: Gateway, form: str, media: str) -> None:
    answer = await gateway.client.post(
        "/v1/audio/speech", json={"model": "songbird", "input": "Hi", "response_format": form}
    )
    assert answer.headers["content-type"] == media
    assert answer.content == b"RIFFdata"


async def test_voices(gateway: Gateway) -> None:
    voices = (await gateway.client.get("/v1/audio/voices")).json()["data"]
    assert [(v["id"], v["model"], v["default"]) for v in voices] == [
        ("robin", "songbird", True),
        ("wren", "songbird", False),
    ]


async def test_a_key_sees_the_voices_of_its_own_models_alone(start: Start) -> None:
    async with start(**KEYS) as gateway:
        for models, voices in ((("parrot",), []), (("song*",), ["robin", "wren"]), ((), ["robin", "wren"])):
            made = await gateway.keys.create("app", models=models)
            headers = {"authorization": f"Bearer {made.secret}"}
            listed = (await gateway.client.get("/v1/audio/voices", headers=headers)).json()["data"]
            assert [voice["id"] for voice in listed] == voices


def test_a_cue_cannot_be_ended_by_its_text() -> None:
    segment = [{"start": 0, "end": 1, "text": "a\n\n00:00:05,000 --> 00:00:06,000\nb --> c"}]
    assert srt(segment).count("\n\n") == 0
    assert vtt(segment).count("-->") == 1


def test_clock() -> None:
    assert clock(0, ",") == "00:00:00,000"
    assert clock(59.9996, ".") == "00:01:00.000"
    assert clock(400_000.25, ",") == "111:06:40,250"
    assert clock(-1, ",") == "00:00:00,000"


async def test_a_text_to_speak_is_bounded_by_the_setting(gateway: Gateway) -> None:
    async def speak(characters: int) -> Any:
        return await gateway.client.post("/v1/audio/speech", json={"model": "songbird", "input": "a" * characters})

    longest = gateway.services.settings.server.limits.speech_characters
    assert longest == 4096, "as OpenAI's"
    assert (await speak(longest)).status_code == 200
    refused = error(await speak(longest + 1), 400, "invalid_request")
    assert refused["param"] == "input"
    assert "4097 characters; the limit is 4096" in refused["message"]
