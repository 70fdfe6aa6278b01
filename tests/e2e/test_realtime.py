"""Spoken conversations with the starter models through a real server: real ears, a real model, a real voice."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from typing import Any

import httpx
import numpy as np
import pytest
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from server.realtime.sound import AudioForm
from tests.e2e.serving import Served
from tests.server.realtime.conversing import of_type, quiet, speak, spoken, types, until

CHAT = "smollm2-135m-instruct"
EARS: Any = {"model": "whisper-tiny.en"}


def connected(client: AsyncOpenAI, model: str = CHAT) -> Any:
    return client.realtime.connect(model=model)


def heard_session(**audio: Any) -> Any:
    given = {"transcription": EARS, **audio.pop("input", {})}
    return {
        "type": "realtime",
        "instructions": "Answer in one short sentence.",
        "max_output_tokens": 40,
        "audio": {"input": given, **audio},
    }


def loudness(audio: bytes, form: AudioForm) -> float:
    samples = form.decode(audio).astype(float)
    return float(np.sqrt((samples**2).mean()))


@pytest.mark.parametrize("kind", ["audio/pcm", "audio/pcmu"])
async def test_a_spoken_question_is_understood_and_answered_aloud(server: Served, kind: Any) -> None:
    form = AudioForm(kind)
    async with AsyncOpenAI(base_url=server.v1, api_key="none") as client, connected(client) as connection:
        shape = {"format": {"type": kind}}
        await connection.session.update(session=heard_session(input=shape, output=shape))
        await speak(connection, spoken("question", kind) + quiet(1, kind), step=form.bytes_of(100))
        events = await until(connection, "response.done", seconds=90)
    (told,) = of_type(events, "conversation.item.input_audio_transcription.completed")
    assert "capital of france" in told.transcript.lower()
    assert events[-1].response.status in ("completed", "incomplete"), events[-1].response.status_details
    sound = b"".join(base64.b64decode(event.delta) for event in of_type(events, "response.output_audio.delta"))
    assert form.seconds(len(sound)) > 0.3
    assert loudness(sound, form) > 300
    told_by = events[-1].response.model_extra["roundhouse"]
    assert told_by["model"] == CHAT
    assert told_by["voice_model"]


async def test_semantic_turns_hear_that_words_break_off(server: Served) -> None:
    async def silence_after(name: str) -> float:
        async with AsyncOpenAI(base_url=server.v1, api_key="none") as client, connected(client) as connection:
            turns = {"type": "semantic_vad", "eagerness": "high", "create_response": False}
            await connection.session.update(session=heard_session(input={"turn_detection": turns}))
            audio = spoken(name) + quiet(3.5)
            for at in range(0, len(audio), 4800):  # at the pace of a microphone: the transcript takes its time
                await speak(connection, audio[at : at + 4800])
                await asyncio.sleep(0.1)
            events = await until(connection, "conversation.item.input_audio_transcription.completed", seconds=60)
        (stopped,) = of_type(events, "input_audio_buffer.speech_stopped")
        return float(stopped.audio_end_ms) / 1000 - AudioForm().seconds(len(spoken(name)))

    await silence_after("question")  # loads the model
    assert await silence_after("question") < await silence_after("unfinished") - 0.5


async def test_an_interruption_stops_the_answer(server: Served) -> None:
    async with AsyncOpenAI(base_url=server.v1, api_key="none") as client, connected(client) as connection:
        await connection.session.update(session={**heard_session(), "max_output_tokens": 400})
        content: Any = [{"type": "input_text", "text": "Write a very long story about a fox."}]
        await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        await connection.response.create()
        await until(connection, "response.output_audio.delta", seconds=60)
        await speak(connection, spoken("question"))
        events = await until(connection, "conversation.item.truncated", seconds=30)
        begun = types(events).index("input_audio_buffer.speech_started")
        assert "response.output_audio.delta" not in types(events)[begun:]
        await speak(connection, quiet(1))
        events = await until(connection, "response.created", seconds=30)
        events += await until(connection, "response.done", seconds=60)
        assert events[-1].response.status in ("completed", "incomplete")


async def test_a_model_that_dies_fails_its_response_and_the_session_goes_on(server: Served) -> None:
    async with AsyncOpenAI(base_url=server.v1, api_key="none") as client, connected(client) as connection:
        await connection.session.update(
            session={"type": "realtime", "output_modalities": ["text"], "max_output_tokens": 1500}
        )
        await ask(connection, "Write a very long story about a fox.")
        await until(connection, "response.output_text.delta", seconds=60)
        async with httpx.AsyncClient(trust_env=False) as http:
            workers = (await http.get(f"{server.v1}/admin/workers")).json()["workers"]
        (pid,) = [worker["pid"] for worker in workers if worker["model"] == CHAT]
        os.kill(pid, signal.SIGKILL)
        failed = (await until(connection, "response.done", seconds=30))[-1].response
        assert failed.status == "failed"
        assert failed.status_details.error.code
        await connection.session.update(session={"type": "realtime", "max_output_tokens": 20})
        await ask(connection, "Say hello.")
        assert (await until(connection, "response.done", seconds=60))[-1].response.status in (
            "completed",
            "incomplete",
        )


async def ask(connection: AsyncRealtimeConnection, text: str) -> None:
    content: Any = [{"type": "input_text", "text": text}]
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    await connection.response.create()
