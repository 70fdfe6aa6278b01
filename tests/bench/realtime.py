"""Spoken conversations with the starter models: the silence before an answer, interruptions, several at once.

A spoken file is the microphone, sent at its own pace. The end of speech is where the file's voice ends, so the
first figure has everything in it: the silence that ends a turn, the transcript, the model, the voice. Barge-in is
measured from the first sound of the interrupting voice to the last piece of the answer that was sent.
"""

from __future__ import annotations

import asyncio
import base64
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from websockets.asyncio.client import ClientConnection, connect

from server.realtime.sound import AudioForm, Resampler, to_samples
from tests.bench import fetching
from tests.bench.bench import Bench
from tests.bench.report import Figure, Report, at_most
from tests.e2e.serving import served

STARTERS = ("smollm2-135m-instruct", "whisper-tiny.en", "hibari")
SPOKEN = Path(__file__).parents[1] / "data" / "spoken"
PIECE = 0.04
"""Seconds of one piece of the microphone's sound."""
TURNS, QUICK_TURNS = 12, 4
INTERRUPTIONS, QUICK_INTERRUPTIONS = 10, 3
AT_ONCE = 8
_LOUD = 500
PCM = AudioForm()
SESSION: dict[str, Any] = {
    "type": "realtime",
    "instructions": "Answer in one short sentence.",
    "max_output_tokens": 60,
    "audio": {"input": {"transcription": {"model": "auto", "language": "en"}}},
}


def run(bench: Bench) -> Report:
    """Measure."""
    for name in STARTERS:
        fetching.pull(bench, name)
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), "--starter") as server:
        address = server.url.replace("http", "ws") + "/v1/realtime?model=auto"
        return asyncio.run(_measure(bench, address))


async def _measure(bench: Bench, address: str) -> Report:
    question, story = spoken("question"), spoken("story")
    async with talking(address) as (socket, heard):
        bench.say("loading the models")
        await turn(socket, heard, question)
        rounds = bench.rounds(bench.pick(TURNS, QUICK_TURNS), "turns, one session")
        firsts = [await turn(socket, heard, question) for _ in rounds]
        found, told, said = (statistics.median(part) for part in zip(*heard.parts[1:], strict=True))
    stops = []
    for _ in bench.rounds(bench.pick(INTERRUPTIONS, QUICK_INTERRUPTIONS), "interruptions"):
        async with talking(address) as (socket, heard):
            stops.append(await interruption(socket, heard, story))
    bench.say(f"{AT_ONCE} sessions at once")
    many = await asyncio.gather(
        *(several(address, question, bench.pick(4, 2), number) for number in range(AT_ONCE)),
        return_exceptions=True,
    )
    broken = sum(isinstance(each, BaseException) for each in many)
    times = [one for each in many if isinstance(each, list) for one in each]
    return Report(
        "realtime",
        "Spoken conversations with the starter models",
        (
            Figure(
                "end of speech to first sound, one session",
                statistics.median(firsts),
                "s",
                at_most(1.5),
                {"turn": found, "transcript": told, "text": said, "fastest": min(firsts), "slowest": max(firsts)},
            ),
            Figure("an interruption to the last sound sent", statistics.median(stops) * 1000, "ms", at_most(200)),
            Figure(
                f"end of speech to first sound, {AT_ONCE} sessions",
                statistics.median(times) if times else None,
                "s",
                beside={"slowest": max(times, default=0.0)},
                reason="every session broke",
            ),
            Figure(f"sessions of {AT_ONCE} that broke", float(broken), "", at_most(0)),
        ),
    )


def spoken(name: str) -> np.ndarray[Any, np.dtype[np.int16]]:
    """A spoken file as 24 kHz samples."""
    data = (SPOKEN / f"{name}.ulaw").read_bytes()
    return to_samples(Resampler(8000, 24_000)(AudioForm("audio/pcmu").decode(data)))


@dataclass
class Heard:
    """The events that a session's client received, with the time of each event."""

    events: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    parts: list[tuple[float, float, float]] = field(default_factory=list)
    """Of each turn, the seconds from its end to the end that was found, its transcript, and the first text."""

    async def until(self, kind: str, after: int = 0, within: float = 60) -> tuple[float, dict[str, Any]]:
        """The first event of a type from a place on."""
        async with asyncio.timeout(within):
            while True:
                for at, event in self.events[after:]:
                    if event["type"] == kind:
                        return at, event
                self.news.clear()
                await self.news.wait()


class talking:  # noqa: N801 -- used as a function
    """A session, whose events are collected."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def __aenter__(self) -> tuple[ClientConnection, Heard]:
        self._socket = await connect(self._address, max_size=None, compression=None)
        heard = Heard()

        async def read() -> None:
            async for text in self._socket:
                heard.events.append((time.perf_counter(), orjson.loads(text)))
                heard.news.set()

        self._reading = asyncio.create_task(read())
        await send(self._socket, {"type": "session.update", "session": SESSION})
        await heard.until("session.updated")
        return self._socket, heard

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()
        await self._reading


async def send(socket: ClientConnection, event: dict[str, Any]) -> None:
    await socket.send(orjson.dumps(event).decode())


async def say(socket: ClientConnection, samples: Any, *, silence: float, stop: asyncio.Event) -> float:
    """Send sound at its own pace, then silence; returns the time at which the voice in it ended."""
    step = int(PIECE * 24_000)
    voice = int(np.flatnonzero(np.abs(samples) > _LOUD)[-1])
    whole = np.concatenate((samples, np.zeros(int(silence * 24_000), np.int16)))
    began = time.perf_counter()
    for number, at in enumerate(range(0, len(whole), step)):
        if stop is not None and stop.is_set():
            break
        await asyncio.sleep(max(0.0, began + number * PIECE - time.perf_counter()))
        audio = base64.b64encode(whole[at : at + step].tobytes()).decode()
        await send(socket, {"type": "input_audio_buffer.append", "audio": audio})
    return began + voice / 24_000


async def turn(socket: ClientConnection, heard: Heard, samples: Any) -> float:
    """Ask a question; seconds from its end to the first sound of the answer. Raises if there is none."""
    place, stop = len(heard.events), asyncio.Event()
    speaking = asyncio.create_task(say(socket, samples, silence=8, stop=stop))
    first, _ = await heard.until("response.output_audio.delta", place)
    _, done = await heard.until("response.done", place)
    stop.set()
    ended = await speaking
    stopped, _ = await heard.until("input_audio_buffer.speech_stopped", place)
    told, _ = await heard.until("conversation.item.input_audio_transcription.completed", place)
    said, _ = await heard.until("response.output_audio_transcript.delta", place)
    heard.parts.append((stopped - ended, told - ended, said - ended))
    assert done["response"]["status"] in ("completed", "incomplete"), done["response"]["status_details"]
    await asyncio.sleep(0.3)
    return first - ended


async def interruption(socket: ClientConnection, heard: Heard, samples: Any) -> float:
    """Interrupt a long answer; seconds from the first sound to the end of what is sent."""
    text = "Write a very long story about a fox, at least ten sentences."
    content = [{"type": "input_text", "text": text}]
    item = {"type": "message", "role": "user", "content": content}
    await send(socket, {"type": "conversation.item.create", "item": item})
    await send(socket, {"type": "response.create", "response": {"max_output_tokens": 400, "instructions": ""}})
    await heard.until("response.output_audio.delta")
    quiet = int(np.flatnonzero(np.abs(samples) > _LOUD)[0])
    stop = asyncio.Event()
    began = time.perf_counter()
    speaking = asyncio.create_task(say(socket, samples[quiet:], silence=0, stop=stop))
    await heard.until("input_audio_buffer.speech_started")
    await heard.until("response.done")
    stop.set()
    await speaking
    started = next(at for at, event in heard.events if event["type"] == "input_audio_buffer.speech_started")
    deltas = [at for at, event in heard.events if event["type"] == "response.output_audio.delta"]
    return max(started, *deltas) - began


async def several(address: str, samples: Any, turns: int, number: int) -> list[float]:
    """A session of several turns, beginning a little later than the one before it."""
    await asyncio.sleep(number * 0.3)
    async with talking(address) as (socket, heard):
        return [await turn(socket, heard, samples) for _ in range(turns)]
