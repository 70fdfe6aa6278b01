"""A stock OpenAI SDK sends sound to a model that only reads, gets sound from it, and learns who spoke."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import openai
import pytest
from openai.types.audio import TranscriptionDiarized

from tests.e2e.serving import Served

CHAT = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.v1, api_key="none", max_retries=0, timeout=300) as client:
        yield client


def spoken(client: openai.OpenAI, text: str, voice: str = "heart") -> bytes:
    answer = client.audio.speech.create(model="hibari", voice=voice, input=text, response_format="wav")
    return answer.content


def ask(client: openai.OpenAI) -> Any:
    """The SDK's method, whose types know neither a model of ours nor lists that are made."""
    return client.chat.completions.create


def raw(client: openai.OpenAI) -> Any:
    return client.chat.completions.with_raw_response.create


def seconds(data: bytes, form: str | None = None) -> float:
    with av.open(io.BytesIO(data), format=form) as container:
        assert isinstance(container, av.container.InputContainer)
        frames = list(container.decode(audio=0))
    return sum(frame.samples for frame in frames) / frames[0].sample_rate


def test_a_spoken_question_is_answered_by_a_model_that_only_reads(client: openai.OpenAI) -> None:
    # A sound of its own: the server remembers what others said.
    said = spoken(client, f"Please tell me: {QUESTION} Answer in one sentence.")
    sound = {"data": base64.b64encode(said).decode(), "format": "wav"}
    answer = raw(client)(
        model=CHAT,
        temperature=0,
        max_tokens=40,
        messages=[{"role": "user", "content": [{"type": "input_audio", "input_audio": sound}]}],
    )
    assert "Paris" in (answer.parse().choices[0].message.content or "")
    assert "was transcribed by whisper-base first" in answer.headers["x-roundhouse-notice"]
    trace = answer.headers["x-roundhouse-trace"]
    told = client.get(f"/traces/{trace}", cast_to=dict)
    assert [attempt["model"] for attempt in told["attempts"]] == ["whisper-base", CHAT]


def test_an_answer_is_spoken_and_the_next_turn_refers_to_it(client: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": f"{QUESTION} Answer in one sentence."}]
    answer = ask(client)(
        model=CHAT,
        temperature=0,
        max_tokens=40,
        messages=asked,
        **SPOKEN,
    )
    message = answer.choices[0].message
    assert message.content is None
    assert "Paris" in message.audio.transcript
    sound = base64.b64decode(message.audio.data)
    assert 0.8 < seconds(sound) < 30
    heard = client.audio.transcriptions.create(model="whisper-base", file=("a.wav", sound)).text
    assert "Paris" in heard
    onward = ask(client)(
        model=CHAT,
        temperature=0,
        max_tokens=20,
        messages=[
            *asked,
            {"role": "assistant", "audio": {"id": message.audio.id}},
            {"role": "user", "content": "Thanks!"},
        ],
    )
    assert onward.choices[0].message.content
    assert onward.usage.prompt_tokens > answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_has_the_sound_beside_the_text(client: openai.OpenAI) -> None:
    stream = ask(client)(
        model=CHAT,
        temperature=0,
        max_tokens=60,
        stream=True,
        messages=[
            {"role": "user", "content": "Name three colours. Then say which one is the sky's, in a sentence."}
        ],
        modalities=["text", "audio"],
        audio={"voice": "nova", "format": "pcm16"},
    )
    text, sound = "", b""
    order: list[str] = []
    for chunk in stream:
        for choice in chunk.choices:
            assert not choice.delta.content
            if (audio := choice.delta.audio) is not None:
                text += audio.transcript or ""
                sound += base64.b64decode(audio.data or "")
                order += audio.model_fields_set
    assert len(text.split()) > 3
    samples = np.frombuffer(sound, "<i2")
    assert len(samples) / 24_000 > 1
    assert np.abs(samples).max() > 1000
    assert {"data", "transcript"} <= set(order)
    assert order[-2:] == ["id", "expires_at"]


@pytest.mark.parametrize("form", ["mp3", "flac", "opus", "aac"])
def test_answers_are_spoken_in_every_format(client: openai.OpenAI, form: str) -> None:
    answer = ask(client)(
        model=CHAT,
        max_tokens=8,
        temperature=0,  # by chance the model may write nothing that can be spoken
        messages=[{"role": "user", "content": "Say hello."}],
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": form},
    )
    audio = answer.choices[0].message.audio
    assert audio is not None
    assert seconds(base64.b64decode(audio.data)) > 0.2


def test_two_speakers_are_told_apart_in_a_transcript(client: openai.OpenAI) -> None:
    lines = (
        ("heart", "Good morning, this is the station. How can I help you today?"),
        ("deep", "Hello, I would like two tickets to the harbour, please."),
        ("heart", "The next train leaves at noon from the second platform."),
    )
    made = io.BytesIO()
    with wave.open(made, "wb") as whole:
        whole.setnchannels(1)
        whole.setsampwidth(2)
        whole.setframerate(24_000)
        for voice, line in lines:
            samples = np.frombuffer(spoken(client, line)[44:], "<i2")
            if voice == "deep":  # another speaker: every frequency times 0.8
                samples = np.interp(np.arange(int(len(samples) / 0.8)) * 0.8, np.arange(len(samples)), samples)
            whole.writeframes(samples.astype("<i2").tobytes() + b"\0" * 24_000)
    answer = client.audio.transcriptions.with_raw_response.create(
        model="auto", file=("talk.wav", made.getvalue()), response_format="diarized_json", chunking_strategy="auto"
    )
    told = answer.parse()
    assert isinstance(told, TranscriptionDiarized)
    by: list[tuple[str, str]] = []
    for segment in told.segments:
        if by and by[-1][0] == segment.speaker:
            by[-1] = (segment.speaker, by[-1][1] + " " + segment.text)
        else:
            by.append((segment.speaker, segment.text))
    assert [speaker for speaker, _ in by] == ["A", "B", "A"]
    assert ["station" in by[0][1], "tickets" in by[1][1], "platform" in by[2][1]] == [True] * 3
    assert answer.headers["x-roundhouse-notice"] == "'resemblyzer' told the speakers apart"
