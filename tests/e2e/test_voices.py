"""Official SDKs get speech, transcripts and chats through a real server, also from the second provider."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai.types.audio import TranscriptionDiarized

from tests.e2e.providers import providers
from tests.e2e.serving import Served, eventually, served
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.elevenlabs import FakeElevenLabs
from tests.fakes.ollama import FakeOllama
from tests.fakes.server import Fault

SETTINGS = """
[breakers]
consecutive_failures = 1000
window_minimum = 1000

[routing.speech]
preferred = ["eleven_flash_v2_5"]

[discovery]
interval = 0.2

[[endpoint]]
id = "elevenlabs"
base_url = "{elevenlabs}"
key_env = ["XI_KEY"]

[[endpoint]]
id = "anthropic"
base_url = "{anthropic}"
key_env = ["CLAUDE_KEY"]
discover = true

[[endpoint]]
id = "lan"
protocol = "ollama"
base_url = "{ollama}"
private = true
discover = true

[[model]]
id = "eleven_flash_v2_5"
aliases = ["speaker"]

[[model]]
id = "hibari"
aliases = ["speaker"]
voice_map = {{ rachel = "heart-british" }}
"""


@pytest.fixture(scope="module")
def eleven() -> FakeElevenLabs:
    return FakeElevenLabs()


@pytest.fixture(scope="module")
def ollama() -> FakeOllama:
    return FakeOllama()


@pytest.fixture(scope="module")
def claude() -> FakeAnthropic:
    return FakeAnthropic()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, eleven: FakeElevenLabs, ollama: FakeOllama, claude: FakeAnthropic
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("voices")
    claude.listed = [{"id": "claude-haiku-4-5-20251001", "max_input_tokens": 200_000, "max_tokens": 64_000}]
    with providers(eleven, ollama, claude):
        toml = SETTINGS.format(elevenlabs=eleven.origin, ollama=ollama.origin, anthropic=claude.origin)
        (folder / "roundhouse.toml").write_text(toml)
        keys = {"XI_KEY": eleven.key, "CLAUDE_KEY": claude.key}
        with served(folder, "--starter", environment=keys) as running:
            yield running


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.v1, api_key="none", max_retries=0) as client:
        yield client


def test_speech_names_openais_voice_and_is_spoken_by_elevenlabs(client: openai.OpenAI) -> None:
    answer = client.audio.speech.with_raw_response.create(model="eleven_flash_v2_5", voice="nova", input="Hi")
    assert answer.content == b"mp3_44100_128Hi"
    assert answer.headers["x-roundhouse-dropped"] == "voice"


@pytest.mark.parametrize("voice", ["nova", "Rachel"])
def test_speech_falls_back_to_a_voice_of_this_machine(
    client: openai.OpenAI, eleven: FakeElevenLabs, voice: str
) -> None:
    eleven.fault = Fault(status=503)
    try:
        answer = client.audio.speech.with_raw_response.create(
            model="speaker", voice=voice, input="Hello.", response_format="wav"
        )
    finally:
        eleven.fault = Fault()
    assert (answer.headers["x-roundhouse-model"], answer.headers["x-roundhouse-attempts"]) == ("hibari", "2")
    assert answer.content.startswith(b"RIFF")
    assert "x-roundhouse-dropped" not in answer.headers, "OpenAI's names mean a voice here, and Rachel the nearest"


def test_a_format_that_one_does_not_make_is_made_by_the_other(client: openai.OpenAI) -> None:
    answer = client.audio.speech.with_raw_response.create(
        model="speaker", voice="nova", input="Hello.", response_format="flac"
    )
    assert (answer.headers["x-roundhouse-model"], answer.headers["x-roundhouse-attempts"]) == ("hibari", "2")
    assert answer.content.startswith(b"fLaC")


def test_an_unknown_voice_is_a_400_that_lists_what_exists(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Rachel") as refused:
        client.audio.speech.create(model="eleven_flash_v2_5", voice="bob", input="Hi")
    assert (refused.value.param, refused.value.code) == ("voice", "unsupported_value")


def test_times_come_with_the_events_of_speech(server: Served) -> None:
    body = {
        "model": "eleven_flash_v2_5",
        "voice": "George",
        "input": "Hello there",
        "stream_format": "sse",
        "timestamp_granularities": ["word"],
    }
    answer = httpx.post(f"{server.v1}/audio/speech", json=body, trust_env=False)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    deltas = [event for event in events if event["type"] == "speech.audio.delta"]
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == b"Hello there"
    words = [word["word"] for event in deltas for word in event.get("words", ())]
    assert words == ["Hello", "there"]
    assert deltas[0]["request_id"] == "req_fake"


def test_times_come_from_a_voice_of_this_machine_too(server: Served) -> None:
    body = {
        "model": "kokoro",
        "input": "Hello there.",
        "response_format": "wav",
        "stream_format": "sse",
        "timestamp_granularities": ["word"],
    }
    answer = httpx.post(f"{server.v1}/audio/speech", json=body, trust_env=False, timeout=60)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    deltas = [event for event in events if event["type"] == "speech.audio.delta"]
    words = [word for event in deltas for word in event.get("words", ())]
    assert [word["word"] for word in words] == ["Hello", "there"]
    assert 0 < words[0]["start"] < words[0]["end"] < words[1]["end"] < 3
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas).startswith(b"RIFF")
    assert events[-1]["type"] == "speech.audio.done"
    refused = httpx.post(f"{server.v1}/audio/speech", json={**body, "model": "hibari"}, trust_env=False)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "timestamp_granularities")


def test_speakers_are_told_apart(client: openai.OpenAI, eleven: FakeElevenLabs) -> None:
    answer = client.audio.transcriptions.create(
        model="scribe_v2",
        file=("a.wav", b"RIFF"),
        response_format="diarized_json",
        chunking_strategy="auto",
        extra_body={"keywords": ["Zyx"]},
    )
    assert isinstance(answer, TranscriptionDiarized)
    assert [segment.speaker for segment in answer.segments] == ["A", "B"]
    assert eleven.calls[-1].body["keyterms"] == "Zyx"
    stream = client.audio.transcriptions.create(
        model="scribe_v2", file=("a.wav", b"RIFF"), response_format="diarized_json", stream=True
    )
    kinds = [event.type for event in stream]
    assert kinds == ["transcript.text.delta", *["transcript.text.segment"] * 2, "transcript.text.done"]


def test_a_chat_at_ollama_uses_its_own_options(server: Served, client: openai.OpenAI, ollama: FakeOllama) -> None:
    assert eventually(lambda: "lan/fake-chat" in [model.id for model in client.models.list()], within=10)
    answer = client.chat.completions.create(
        model="lan/fake-chat",
        messages=[{"role": "user", "content": "Hi"}],
        extra_body={"options": {"num_ctx": 1024}, "keep_alive": "5m"},
    )
    assert answer.choices[0].message.content == ollama.reply
    call = next(call for call in reversed(ollama.calls) if call.path == "/api/chat")
    assert (call.body["options"], call.body["keep_alive"]) == ({"num_ctx": 1024}, "5m")


def test_a_listed_snapshot_answers_to_its_dated_name_with_a_known_price(client: openai.OpenAI) -> None:
    dated = "claude-haiku-4-5-20251001"
    assert eventually(lambda: f"anthropic/{dated}" in [model.id for model in client.models.list()], within=10)
    card = client.models.retrieve(dated).model_dump()
    assert card["id"] == f"anthropic/{dated}"
    assert card["price"]["input"] == client.models.retrieve("claude-haiku-4-5").model_dump()["price"]["input"]
    answer = client.chat.completions.with_raw_response.create(
        model="claude-haiku-4-5-20990101", messages=[{"role": "user", "content": "Hi"}]
    )
    assert answer.headers["x-roundhouse-model"] == "claude-haiku-4-5"


def test_the_voices_of_a_map_are_listed(server: Served) -> None:
    listed = httpx.get(f"{server.v1}/audio/voices", trust_env=False).json()["data"]
    assert {voice["id"] for voice in listed if voice["model"] == "hibari"} == {"heart", "heart-british", "rachel"}
