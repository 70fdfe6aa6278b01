"""Models on a GPU, from a hub: ``make bench-gpu``, or ``make bench-gpu MODELS="qwen3-8b whisper-large-v3"``.

Without ``ROUNDHOUSE_BENCH_MODELS`` it pulls what ``roundhouse recommend`` names here. A complete server serves
them, and each endpoint of each model is asked: the figures are those of its clients. A model that cannot be
pulled or does not answer is named in the note, and the others are measured. Nothing of it needs a GPU to run,
so that the starter models try the benchmark itself.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from catalog.hardware import detect
from catalog.model import Capability
from catalog.types import Json
from tests.bench.bench import Bench
from tests.bench.report import Figure, Report
from tests.e2e.serving import served
from tests.fakes.pictures import encoded, quarters

MODELS = "ROUNDHOUSE_BENCH_MODELS"
"""The environment variable with names of models, apart by spaces."""
STREAMS = (1, 8, 32)
TEXTS = 256
LONGEST = 1800.0
"""Seconds in which a model must have loaded and answered."""
PROMPT = "Write a story of two hundred words about a lighthouse."
SPOKEN = "The harbour was quiet when the first boats came home. Gulls circled above the old stone pier."
Measure = Callable[[httpx.AsyncClient, str, Bench], Awaitable[list[Figure]]]


def run(bench: Bench) -> Report:
    """Measure the models that are named, or those that are recommended for this machine."""
    left_out: list[str] = []
    pulled = list(dict.fromkeys(_pulled(bench, name, left_out) for name in _names()))
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), "--starter") as server:
        figures = asyncio.run(_measured(bench, server.url, [name for name in pulled if name], left_out))
    machine = detect()
    devices = ", ".join(f"{device.kind} {device.memory / 1e9:.0f} GB" for device in machine.devices)
    return Report("gpu", f"Models on this machine ({devices})", tuple(figures), note="; ".join(left_out))


def _names() -> list[str]:
    named = os.environ.get(MODELS, "").split()
    if named:
        return named
    from server.advising.models import recommended
    from server.settings import load_settings

    return [one.choice.entry.id for one in recommended(load_settings(None)) if one.choice is not None]


def _pulled(bench: Bench, name: str, left_out: list[str]) -> str:
    bench.say(f"pulling {name}")
    done = subprocess.run([sys.executable, "-m", "server.cli", "pull", name], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        left_out.append(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        return ""
    return name


async def _measured(bench: Bench, url: str, names: list[str], left_out: list[str]) -> list[Figure]:
    figures: list[Figure] = []
    async with httpx.AsyncClient(base_url=url, timeout=LONGEST, trust_env=False) as client:
        known = {row["id"]: row for row in (await client.get("/v1/models")).json()["data"]}
        for name in names:
            row = known.get(name) or (await client.get(f"/v1/models/{name}")).json()
            for capability in row.get("capabilities", ()):
                measure = MEASURES.get(Capability(capability))
                if measure is None:
                    continue
                bench.say(f"{name}: {capability}")
                try:
                    figures += await measure(client, name, bench)
                except (httpx.HTTPError, AssertionError, LookupError) as error:
                    left_out.append(f"{name}, {capability}: {error}")
    return figures


async def _post(client: httpx.AsyncClient, path: str, **asked: object) -> Json:
    answer = await client.post(path, **asked)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text[:300]
    found: Json = answer.json()
    return found


async def chats(client: httpx.AsyncClient, model: str, bench: Bench) -> list[Figure]:
    """Tokens a second of all streams, and the median time to the first token."""
    await _stream(client, model, 8)
    found = []
    for streams in bench.pick(STREAMS, STREAMS[:2]):
        began = time.monotonic()
        told = await asyncio.gather(*(_stream(client, model, bench.pick(256, 32)) for _ in range(streams)))
        rate = sum(tokens for _, tokens in told) / (time.monotonic() - began)
        found.append(Figure(f"{model}: tokens a second, {streams} streams", rate, "/s"))
        firsts = sorted(first for first, _ in told)
        found.append(Figure(f"{model}: first token, {streams} streams", firsts[len(firsts) // 2] * 1000, "ms"))
    return found


async def _stream(client: httpx.AsyncClient, model: str, tokens: int) -> tuple[float, int]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, counted = time.monotonic(), 0.0, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200, (await answer.aread())[:300]
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = httpx.Response(200, content=line[6:]).json()
            assert "error" not in event, event["error"]
            if not first and any(choice["delta"].get("content") for choice in event["choices"]):
                first = time.monotonic() - began
            counted = (event.get("usage") or {}).get("completion_tokens", counted)
    return first, counted


async def sights(client: httpx.AsyncClient, model: str, bench: Bench) -> list[Figure]:
    """How much of the red quarter of a picture a grounded box covers: intersection over union."""
    picture = base64.b64encode(encoded(quarters(640, 480))).decode()
    body = {"model": model, "image": f"data:image/png;base64,{picture}", "phrase": "the red rectangle"}
    began = time.monotonic()
    found = await _post(client, "/v1/ground", json=body)
    taken = time.monotonic() - began
    boxes = [one["box"] for one in found["data"] if one.get("box")]
    best = max((_overlap(box, (0.0, 0.0, 320.0, 240.0)) for box in boxes), default=0.0)
    return [
        Figure(f"{model}: seconds to find a thing in a picture", taken, "s"),
        Figure(f"{model}: overlap of the box with the thing", best),
    ]


def _overlap(box: Json | list[float], other: tuple[float, float, float, float]) -> float:
    left, top, right, bottom = box.values() if isinstance(box, dict) else box
    width = max(0.0, min(right, other[2]) - max(left, other[0]))
    height = max(0.0, min(bottom, other[3]) - max(top, other[1]))
    both = width * height
    whole = (right - left) * (bottom - top) + (other[2] - other[0]) * (other[3] - other[1]) - both
    return both / whole if whole > 0 else 0.0


async def vectors(client: httpx.AsyncClient, model: str, bench: Bench) -> list[Figure]:
    """Short texts embedded in a second."""
    count = bench.pick(TEXTS, 32)
    texts = [f"{number}: {SPOKEN}" for number in range(count)]
    await _post(client, "/v1/embeddings", json={"model": model, "input": texts[:1]})
    began = time.monotonic()
    await _post(client, "/v1/embeddings", json={"model": model, "input": texts})
    return [Figure(f"{model}: texts a second", count / (time.monotonic() - began), "/s")]


async def speech(client: httpx.AsyncClient, model: str, bench: Bench) -> list[Figure]:
    """Seconds of sound that are spoken in a second."""
    asked = {"model": model, "input": SPOKEN, "response_format": "pcm"}
    await client.post("/v1/audio/speech", json=asked)
    began = time.monotonic()
    answer = await client.post("/v1/audio/speech", json=asked)
    assert answer.status_code == 200, answer.text[:300]
    seconds = len(answer.content) / 2 / 24_000
    return [Figure(f"{model}: seconds spoken in a second", seconds / (time.monotonic() - began))]


async def transcripts(client: httpx.AsyncClient, model: str, bench: Bench) -> list[Figure]:
    """Seconds of sound that are transcribed in a second; a starter speaks it."""
    answer = await client.post(
        "/v1/audio/speech", json={"input": SPOKEN * bench.pick(8, 2), "model": "auto:local"}
    )
    assert answer.status_code == 200, answer.text[:300]
    files = {"file": ("spoken.mp3", io.BytesIO(answer.content))}
    fields = {"model": model, "response_format": "verbose_json", "language": "en"}
    await client.post("/v1/audio/transcriptions", data=fields, files=files)
    files["file"][1].seek(0)
    began = time.monotonic()
    heard = await _post(client, "/v1/audio/transcriptions", data=fields, files=files)
    rate = float(heard["duration"]) / (time.monotonic() - began)
    return [Figure(f"{model}: seconds heard in a second", rate)]


async def pictures(client: httpx.AsyncClient, model: str, bench: Bench) -> list[Figure]:
    """Seconds of a picture after the first one."""
    asked = {"model": model, "prompt": "A lighthouse at dusk, watercolour", "response_format": "b64_json"}
    await _post(client, "/v1/images/generations", json=asked)
    began = time.monotonic()
    await _post(client, "/v1/images/generations", json=asked)
    return [Figure(f"{model}: seconds of a picture", time.monotonic() - began, "s")]


async def videos(client: httpx.AsyncClient, model: str, bench: Bench) -> list[Figure]:
    """Seconds of a short video, loading included."""
    began = time.monotonic()
    video = await _post(client, "/v1/videos", json={"model": model, "prompt": "Waves at a pier", "seconds": "2"})
    while video["status"] in ("queued", "in_progress"):
        await asyncio.sleep(1.0)
        video = (await client.get(f"/v1/videos/{video['id']}")).json()
    assert video["status"] == "completed", video.get("error")
    return [Figure(f"{model}: seconds of a video", time.monotonic() - began, "s")]


MEASURES: dict[Capability, Measure] = {
    Capability.CHAT: chats,
    Capability.VISION: sights,
    Capability.EMBED: vectors,
    Capability.SPEAK: speech,
    Capability.TRANSCRIBE: transcripts,
    Capability.IMAGE: pictures,
    Capability.VIDEO: videos,
}
"""The measurement of a model, by a capability that it has."""
