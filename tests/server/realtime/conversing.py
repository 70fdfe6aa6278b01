"""Helpers of the tests of realtime sessions: the official SDK as a client, and spoken files as its microphone."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from server.realtime.sound import AudioForm, Resampler, to_samples
from tests.server.conftest import Gateway

SPOKEN = Path(__file__).parents[2] / "data" / "spoken"
ULAW = AudioForm("audio/pcmu")
SILENCE = b"\0" * 48_000
"""A second of silence in pcm16."""


def spoken(name: str, kind: str = "audio/pcm") -> bytes:
    """A spoken file in one of the wire's formats. The files are of hibari's voice (Apache-2.0), 8 kHz µ-law."""
    data = (SPOKEN / f"{name}.ulaw").read_bytes()
    if kind == "audio/pcmu":
        return data
    form = AudioForm(kind)  # type: ignore[arg-type]
    samples = to_samples(Resampler(8000, form.rate)(ULAW.decode(data)))
    return form.encode(samples)


def quiet(seconds: float, kind: str = "audio/pcm") -> bytes:
    """Silence."""
    form = AudioForm(kind)  # type: ignore[arg-type]
    return form.encode(np.zeros(int(seconds * form.rate), np.int16))


@asynccontextmanager
async def connected(
    gateway: Gateway, model: str = "parrot", key: str = "none", **options: Any
) -> AsyncIterator[AsyncRealtimeConnection]:
    """A session by OpenAI's SDK, after its ``session.created``."""
    async with (
        AsyncOpenAI(base_url=f"{gateway.server.url}/v1", api_key=key, max_retries=0) as client,
        client.realtime.connect(model=model, **options) as connection,
    ):
        created = await connection.recv()
        assert created.type == "session.created"
        yield connection


async def until(connection: AsyncRealtimeConnection, *kinds: str, seconds: float = 10) -> list[Any]:
    """The events up to the first of one of these types."""
    events: list[Any] = []
    async with asyncio.timeout(seconds):
        while True:
            event = await connection.recv()
            events.append(event)
            if event.type in kinds:
                return events


def types(events: list[Any]) -> list[str]:
    return [event.type for event in events]


def of_type(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event.type == kind]


async def speak(
    connection: AsyncRealtimeConnection,
    audio: bytes,
    *,
    step: int = 4800,
    between: Callable[[], Any] | None = None,
) -> None:
    """Append audio as a microphone does: in pieces of 100 ms of pcm16, without waiting for the time to pass."""
    for at in range(0, len(audio), step):
        encoded = base64.b64encode(audio[at : at + step]).decode()
        await connection.input_audio_buffer.append(audio=encoded)
        if between is not None:
            between()


async def say(connection: AsyncRealtimeConnection, text: str) -> None:
    """Add a message of the user, and ask for a response."""
    content: Any = [{"type": "input_text", "text": text}]
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    await connection.response.create()
