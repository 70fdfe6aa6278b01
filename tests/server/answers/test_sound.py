"""Chats with sound: heard by transcripts and spoken by a voice, where the models do neither."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import Any

import httpx
import pytest

from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest
from catalog.errors import StreamBroken, UnsupportedParameter
from catalog.model import Capability, LibrarySource, Model, UpstreamSource
from catalog.types import Json
from routing.accounts.virtual_keys import KeyLimits, Rate
from routing.facts import Facts
from routing.plan import Candidate, Plan, Strategy
from server.answers.sound import speaks_itself
from server.answers.speaking import id_of, said
from tests.server.api.test_chat import events
from tests.server.conftest import Gateway
from tests.server.fakes import PLAN, VOICE, chunk, usage_chunk
from tests.server.test_bad_input import error

PATH = "/v1/chat/completions"
SOUND = base64.b64encode(b"RIFF of a question").decode()
TEXT = "It is a fine day today. Shall we go out?"
NONE = Plan(candidates=(), excluded=(), strategy=Strategy.SCHEMA, reason="none")


def heard(*sounds: str, text: str | None = "Answer it.", **fields: Any) -> Json:
    parts: list[Json] = [
        {"type": "input_audio", "input_audio": {"data": sound, "format": "mp3"}} for sound in sounds or (SOUND,)
    ]
    if text is not None:
        parts.insert(0, {"type": "text", "text": text})
    return {"model": "parrot", "messages": [{"role": "user", "content": parts}], **fields}


def spoken(*, form: str = "wav", voice: Any = "alloy", **fields: Any) -> Json:
    return {
        "model": "parrot",
        "messages": [{"role": "user", "content": "Hi"}],
        "modalities": ["text", "audio"],
        "audio": {"voice": voice, "format": form},
        **fields,
    }


def deaf(facts: Facts) -> Plan:
    """The plans of a house whose models do not hear."""
    return NONE if Capability.AUDIO_INPUT in facts.features else PLAN


def of(kind: type, gateway: Gateway) -> list[Any]:
    return [request for request in gateway.backend.requests if isinstance(request, kind)]


async def ask(gateway: Gateway, body: Json) -> httpx.Response:
    return await gateway.client.post(PATH, json=body)


# ---- hearing


async def test_a_model_that_hears_gets_the_sound(gateway: Gateway) -> None:
    answer = await ask(gateway, heard())
    assert answer.status_code == 200
    assert "x-roundhouse-notice" not in answer.headers
    assert not of(TranscriptionRequest, gateway)
    (chat,) = of(ChatRequest, gateway)
    assert chat.messages[0].content[1].input_audio["data"] == SOUND


async def test_a_model_that_does_not_hear_gets_the_transcript_and_the_caller_is_told(gateway: Gateway) -> None:
    gateway.dispatcher.plan = deaf
    answer = await ask(gateway, heard())
    assert answer.json()["choices"][0]["message"]["content"] == "Hello there"
    assert answer.headers["x-roundhouse-notice"] == "the sound was transcribed by parrot first"
    (asked,) = of(TranscriptionRequest, gateway)
    assert (asked.file, asked.filename) == (b"RIFF of a question", "sound.mp3")
    (chat,) = of(ChatRequest, gateway)
    assert [part.text for part in chat.messages[0].content] == ["Answer it.", "Hello there. <Bye>"]
    assert gateway.dispatcher.spent == [0.0, 0.25], "limits on cost count the transcription"


async def test_every_sound_is_heard_in_its_place(gateway: Gateway) -> None:
    gateway.dispatcher.plan = deaf
    other = base64.b64encode(b"another").decode()
    await ask(gateway, heard(SOUND, other, text=None))
    assert [request.file for request in of(TranscriptionRequest, gateway)] == [b"RIFF of a question", b"another"]


async def test_a_sound_that_is_sent_again_is_not_transcribed_again(gateway: Gateway) -> None:
    gateway.dispatcher.plan = deaf
    first = await ask(gateway, heard())
    second = await ask(gateway, heard(SOUND, base64.b64encode(b"another").decode()))
    assert len(of(TranscriptionRequest, gateway)) == 2
    assert [part.text for part in of(ChatRequest, gateway)[-1].messages[0].content][1:] == [
        "Hello there. <Bye>"
    ] * 2
    assert second.headers["x-roundhouse-notice"] == first.headers["x-roundhouse-notice"]
    await ask(gateway, heard())
    assert gateway.dispatcher.spent[-1] == 0.0, "nothing was spent on hearing it again"


async def test_silence_is_told_as_such(gateway: Gateway) -> None:
    gateway.dispatcher.plan = deaf
    gateway.backend.transcript = {"type": "transcript.text.done", "text": " "}
    await ask(gateway, heard(text=None))
    (chat,) = of(ChatRequest, gateway)
    assert chat.messages[0].content[0].text == "[No speech was heard.]"


@pytest.mark.parametrize("routing", [{"strict": True}, {"require": ["audio_input"]}])
async def test_a_strict_caller_gets_no_transcript(gateway: Gateway, routing: Json) -> None:
    gateway.dispatcher.plan = deaf
    await ask(gateway, heard(routing=routing))
    assert not of(TranscriptionRequest, gateway)


async def test_the_limits_of_the_request_hold_for_the_transcription(gateway: Gateway) -> None:
    gateway.dispatcher.plan = deaf
    await ask(gateway, heard(routing={"local_only": True, "max_cost": 0.5, "task": "summarise"}))
    hearing = next(facts for facts in gateway.dispatcher.facts if facts.capability is Capability.TRANSCRIBE)
    assert (hearing.intent.local_only, hearing.intent.max_cost) == (True, 0.5)
    assert hearing.intent.task is None


@pytest.mark.parametrize(
    ("sound", "code"), [("not base64!", "undecodable_media"), ("", "invalid_request"), (7, "invalid_request")]
)
async def test_a_sound_that_is_none_is_a_400(gateway: Gateway, sound: Any, code: str) -> None:
    gateway.dispatcher.plan = deaf
    error(await ask(gateway, heard(sound)), 400, code)


async def test_too_many_sounds_are_a_400(gateway: Gateway) -> None:
    gateway.dispatcher.plan = deaf
    error(await ask(gateway, heard(*[SOUND] * 33)), 400, "invalid_request")


async def test_a_stream_is_told_too(gateway: Gateway) -> None:
    gateway.dispatcher.plan = deaf
    answer = await ask(gateway, heard(stream=True))
    assert answer.headers["x-roundhouse-notice"].startswith("the sound was transcribed")
    assert answer.text.endswith("data: [DONE]\n\n")


# ---- speaking


def say(gateway: Gateway, *pieces: str) -> None:
    gateway.backend.script = (*map(chunk, pieces), chunk(finish="stop"), usage_chunk())


async def test_an_answer_is_spoken_in_the_format_that_was_asked_for(gateway: Gateway) -> None:
    say(gateway, TEXT[:10], TEXT[10:])
    gateway.backend.script = tuple(
        {**each, "created": 1} for each in gateway.backend.script if isinstance(each, dict)
    )
    answer = await ask(gateway, spoken(form="mp3", voice={"id": "wren"}))
    message = answer.json()["choices"][0]["message"]
    assert message["content"] is None
    assert message["audio"]["transcript"] == TEXT
    assert base64.b64decode(message["audio"]["data"]) == b"RIFFdata"
    assert message["audio"]["expires_at"] > 1_700_000_000, "whatever time the model's server tells"
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert answer.json()["usage"]["completion_tokens"] == 2
    assert "a voice of this server speaks" in answer.headers["x-roundhouse-notice"]
    (speech,) = of(SpeechRequest, gateway)
    assert (speech.input, speech.response_format, speech.voice_name) == (TEXT, "mp3", "wren")
    (chat,) = of(ChatRequest, gateway)
    assert not {"modalities", "audio"} & chat.model_fields_set


async def test_a_stream_speaks_each_sentence_as_it_is_written(gateway: Gateway) -> None:
    gateway.backend.script = (
        chunk("It is a fine day today. "),
        chunk("Shall we "),
        chunk("go out?"),
        chunk(finish="stop"),
        usage_chunk(),
    )
    answer = await ask(gateway, spoken(form="pcm16", stream=True))
    told = [event["choices"][0] for event in events(answer.text) if isinstance(event, dict) and event["choices"]]
    audio = [choice["delta"]["audio"] for choice in told if "audio" in choice["delta"]]
    assert "".join(each.get("transcript", "") for each in audio) == TEXT
    assert b"".join(base64.b64decode(each["data"]) for each in audio if "data" in each) == b"RIFFdata" * 2
    assert [request.input for request in of(SpeechRequest, gateway)] == [
        "It is a fine day today.",
        "Shall we go out?",
    ]
    assert {request.response_format for request in of(SpeechRequest, gateway)} == {"pcm"}
    assert of(SpeechRequest, gateway)[1].model == "parrot", "one voice for the whole answer"
    assert sum("id" in each for each in audio) == 1, "clients join the ids of a stream's pieces"
    assert told[-1]["finish_reason"] == "stop"
    assert all("content" not in choice["delta"] for choice in told)


async def test_sound_comes_while_the_model_still_writes(gateway: Gateway) -> None:
    rest = asyncio.Event()
    gateway.backend.script = (
        chunk("It is a fine day today. "),
        chunk("Shall"),
        rest,
        chunk(" we?"),
        chunk(finish="stop"),
    )
    seen = asyncio.Event()
    gateway.backend.audio = (b"sound",)

    async def speak_then_write() -> None:
        while not of(SpeechRequest, gateway):
            await asyncio.sleep(0)
        seen.set()
        rest.set()

    waiting = asyncio.create_task(speak_then_write())
    async with asyncio.timeout(10):
        answer = await ask(gateway, spoken(form="pcm16", stream=True))
        await waiting
    assert seen.is_set(), "the first sentence was spoken before the model went on"
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_later_turn_refers_to_what_was_spoken(gateway: Gateway) -> None:
    say(gateway, TEXT)
    name = (await ask(gateway, spoken())).json()["choices"][0]["message"]["audio"]["id"]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "audio": {"id": name}},
        {"role": "user", "content": "Where?"},
    ]
    answer = await ask(gateway, {"model": "parrot", "messages": messages})
    assert answer.status_code == 200
    chat = of(ChatRequest, gateway)[-1]
    assert chat.messages[1].content == TEXT
    assert "audio" not in chat.messages[1].model_fields_set


async def test_a_reference_that_was_changed_is_a_400(gateway: Gateway) -> None:
    messages = [{"role": "assistant", "audio": {"id": id_of(TEXT)[:-9]}}, {"role": "user", "content": "?"}]
    error(await ask(gateway, {"model": "parrot", "messages": messages}), 400, "invalid_request")


def test_ids_of_other_servers_are_left_alone() -> None:
    assert said({"id": "audio_abc123"}) is None
    assert said(None) is None
    assert said({"id": id_of("Grüße 世界")}) == "Grüße 世界"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (spoken(stream=True), "audio.format"),
        (spoken(form="midi"), "audio.format"),
        (spoken(voice=["alloy"]), "audio.voice"),
        (spoken(n=2), "n"),
        ({**spoken(), "audio": None}, "audio"),
    ],
)
async def test_what_cannot_be_spoken_is_a_400_before_any_call(gateway: Gateway, body: Json, param: str) -> None:
    answer = await ask(gateway, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not gateway.backend.requests


def with_voice(facts: Facts) -> Plan:
    """The plans of a house whose one voice is the songbird's."""
    if facts.capability is not Capability.SPEAK:
        return PLAN
    return replace(PLAN, candidates=(Candidate(VOICE, 0.9, 0.8, 1.5, 0.0, "local", "it sings"),))


async def test_a_voice_that_nobody_has_is_a_400_that_lists_them(gateway: Gateway) -> None:
    gateway.dispatcher.plan = with_voice
    answer = await ask(gateway, spoken(voice="bob"))
    error(answer, 400, "unsupported_value")
    assert "robin, wren" in answer.json()["error"]["message"]
    assert (await ask(gateway, spoken(voice="Robin"))).status_code == 200
    assert (await ask(gateway, spoken(voice="nova"))).status_code == 200


async def test_without_a_voice_the_caller_is_told_before_any_call(gateway: Gateway) -> None:
    gateway.dispatcher.plan = lambda facts: NONE if facts.capability is Capability.SPEAK else PLAN
    answer = await ask(gateway, spoken())
    assert answer.status_code >= 400
    assert "voice" in answer.json()["error"]["message"]
    assert not gateway.backend.requests


async def test_a_voice_that_breaks_ends_the_stream_with_an_error(gateway: Gateway) -> None:
    say(gateway, TEXT)
    gateway.backend.audio = (b"RIFF", StreamBroken("The voice broke."))
    answer = await ask(gateway, spoken(form="pcm16", stream=True))
    assert events(answer.text)[-1]["error"]["message"] == "The voice broke."
    assert "[DONE]" not in answer.text


UNREAD = UnsupportedParameter("The voice 'robin' cannot read this script.", param="input")


async def test_a_text_that_no_voice_can_read_is_answered_without_sound_and_that_is_named(gateway: Gateway) -> None:
    say(gateway, "Привет, мир!")
    gateway.backend.audio = (UNREAD,)
    answer = await ask(gateway, spoken())
    audio = answer.json()["choices"][0]["message"]["audio"]
    assert (audio["transcript"], audio["data"]) == ("Привет, мир!", "")
    assert audio["notice"] == "Not all of the text is spoken: The voice 'robin' cannot read this script."
    assert "cannot read this script" in answer.headers["x-roundhouse-notice"]
    assert answer.headers["x-roundhouse-dropped"] == "audio"


async def test_a_stream_goes_on_after_a_sentence_that_no_voice_can_read(gateway: Gateway) -> None:
    say(gateway, "Привет, мой мир! ", "It is a fine day today. ", "Bye.")
    gateway.backend.audio_of = lambda text: (UNREAD,) if "мир" in text else (b"sound",)
    answer = await ask(gateway, spoken(form="pcm16", stream=True))
    told = [choice for each in events(answer.text) if isinstance(each, dict) for choice in each["choices"]]
    audio = [choice["delta"].get("audio") or {} for choice in told]
    assert b"".join(base64.b64decode(each["data"]) for each in audio if "data" in each).startswith(b"sound")
    assert [each["notice"] for each in audio if "notice" in each] == [
        "Not all of the text is spoken: The voice 'robin' cannot read this script."
    ]
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_strict_caller_is_refused_what_no_voice_can_read(gateway: Gateway) -> None:
    say(gateway, "Привет, мир!")
    gateway.backend.audio = (UNREAD,)
    error(await ask(gateway, spoken(routing={"strict": True})), 400, "unsupported_parameter")


async def test_sound_on_both_sides(gateway: Gateway) -> None:
    gateway.dispatcher.plan = deaf
    say(gateway, TEXT)
    body = {**heard(), "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    answer = await ask(gateway, body)
    assert answer.json()["choices"][0]["message"]["audio"]["transcript"] == TEXT
    assert answer.headers["x-roundhouse-notice"].startswith("the sound was transcribed by parrot first; ")
    assert len(of(TranscriptionRequest, gateway)) == len(of(SpeechRequest, gateway)) == 1


async def test_text_alone_is_asked_for_as_ever(gateway: Gateway) -> None:
    await ask(gateway, {**spoken(), "modalities": ["text"]})
    assert not of(SpeechRequest, gateway)
    (chat,) = of(ChatRequest, gateway)
    assert (chat.model_extra or {})["modalities"] == ["text"]


@pytest.mark.parametrize(
    ("name", "changes", "itself"),
    [
        ("gpt-audio-mini", {}, True),
        ("gemini-2.5-flash-preview-tts", {}, True),
        ("qwen3-omni", {}, True),
        ("gpt-6", {}, False),
        ("mine", {"tags": frozenset({"spoken"})}, True),
        ("mine", {"parameters": frozenset({"modalities"})}, True),
        ("audio-local", {"source": LibrarySource(module="x"), "engine": "llamacpp"}, False),
    ],
)
def test_models_that_speak_themselves_are_known(name: str, changes: Json, itself: bool) -> None:
    row = Model(
        **{
            "id": name,
            "capabilities": frozenset({Capability.CHAT}),
            "source": UpstreamSource(endpoint="cloud", model=name),
            **changes,
        }
    )
    assert speaks_itself(row) is itself


async def test_marks_of_markdown_are_written_and_not_spoken(gateway: Gateway) -> None:
    say(gateway, "# **Fine** days\n\n- `go` out", "\n\n---\n")
    answer = await ask(gateway, spoken(form="pcm16", stream=True))
    told = [event for event in events(answer.text) if isinstance(event, dict)]
    audio = [choice["delta"].get("audio") or {} for event in told for choice in event["choices"]]
    assert "**Fine**" in "".join(each.get("transcript", "") for each in audio)
    said_of = " ".join(request.input for request in of(SpeechRequest, gateway))
    assert said_of.split() == ["Fine", "days", "go", "out"]


async def test_an_answer_without_a_word_has_no_sound(gateway: Gateway) -> None:
    say(gateway, "---")
    message = (await ask(gateway, spoken())).json()["choices"][0]["message"]
    assert message["audio"] == {**message["audio"], "transcript": "---", "data": ""}
    assert not of(SpeechRequest, gateway)


async def test_the_sentences_of_an_answer_count_as_one_request_of_the_key(gateway: Gateway) -> None:
    made = await gateway.keys.create("few", limits=KeyLimits(requests=Rate(day=4)))
    gateway.backend.script = (
        chunk("One is here. Two is there. Three is gone. "),
        chunk(finish="stop"),
        usage_chunk(),
    )
    headers = {"authorization": f"Bearer {made.secret}"}
    for _ in range(2):  # a chat and a speech each
        answer = await gateway.client.post(PATH, json=spoken(form="pcm16", stream=True), headers=headers)
        assert answer.status_code == 200
        assert "error" not in answer.text
    assert [request.input for request in of(SpeechRequest, gateway)] == [
        "One is here.",
        "Two is there.",
        "Three is gone.",
    ] * 2
    assert len(gateway.dispatcher.spent) == 8, "each is a job of its own, which is paid for"
    assert (await gateway.client.post(PATH, json=spoken(), headers=headers)).status_code == 429
