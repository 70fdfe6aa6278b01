"""The engine diffusion-video without torch and diffusers, with a fake pipeline; the MP4 is real."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from backends.workers.engines.video.engine import (
    VideoEngine,
    VideoOptions,
    WorkerVideoRequest,
    finished,
    plan_of,
    resampled,
    sound_of,
)
from backends.workers.engines.video.mp4 import Clip, Sound, encoded, read_clip
from backends.workers.engines.video.pipelines import VideoPipelines, shape_of
from backends.workers.program.app import build_app
from backends.workers.program.threads import CancelSignal, WorkCancelled
from backends.workers.spec import WorkerSpec
from catalog.errors import CapabilityMismatch, InvalidRequest, UndecodableMedia
from tests.conformance.capability_checks import events
from tests.fakes.films import brightness, tiny_mp4

SPEC = WorkerSpec(engine="diffusion-video", model_id="filmer", socket="unused", api_key="k")
ROOM = 10_000_000


@dataclass
class WanPipeline:
    """A fake of diffusers' pipeline of this name: it calls back after each step, and its frames grow brighter."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    steps: int = 0
    vae_scale_factor_spatial: int = 8
    vae_scale_factor_temporal: int = 4
    config: Any = field(default_factory=lambda: SimpleNamespace(expand_timesteps=False))
    transformer: Any = field(default_factory=lambda: SimpleNamespace(config=SimpleNamespace(patch_size=(1, 2, 2))))

    def __call__(
        self,
        *,
        prompt: str,
        width: int,
        height: int,
        num_frames: int,
        num_inference_steps: int,
        generator: int,
        callback_on_step_end: Callable[..., Any],
        output_type: str,
        return_dict: bool,
        guidance_scale: float = 5.0,
    ) -> Any:
        self.calls.append({"prompt": prompt, "size": (width, height, num_frames), "seed": generator})
        for step in range(num_inference_steps):
            self.steps += 1
            callback_on_step_end(self, step, 0, {})
            self.go.wait(10)
        levels = np.linspace(0, 1, num_frames)[None, :, None, None, None]
        return SimpleNamespace(frames=np.broadcast_to(levels, (1, num_frames, height, width, 3)))


@pytest.fixture
def pipeline() -> WanPipeline:
    made = WanPipeline()
    made.go.set()
    return made


@pytest.fixture
def engine(pipeline: WanPipeline) -> VideoEngine:
    made = VideoEngine(SPEC, opener=lambda _: VideoPipelines("filmer", pipeline, "cpu"), noise=lambda seed: seed)
    made.load()
    return made


@pytest.fixture
async def client(engine: VideoEngine) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(SPEC, engine))
    headers = {"Authorization": "Bearer k"}
    async with httpx.AsyncClient(transport=transport, base_url="http://worker", headers=headers) as made:
        yield made
    await asyncio.to_thread(engine.close)


def asked(**fields: Any) -> WorkerVideoRequest:
    return WorkerVideoRequest.model_validate({"model": "m", "prompt": "a fox", **fields})


async def test_a_video_has_the_size_and_the_length_that_were_asked_for(
    client: httpx.AsyncClient, pipeline: WanPipeline
) -> None:
    body = {"model": "m", "prompt": "a fox", "size": "62x50", "seconds": "2", "fps": 5, "steps": 4, "seed": 9}
    answer = await client.post("/v1/videos", json=body)
    told = events(answer.text)
    assert [each["progress"] for each in told if each["type"] == "video.progress"] == [0, 22, 45, 67, 90, 95]
    assert pipeline.calls == [{"prompt": "a fox", "size": (64, 64, 13), "seed": 9}]
    assert told[-1] == {"type": "video.completed", "seconds": 2.0, "size": "62x50", "seed": 9, "fps": 5.0}
    data = b"".join(base64.b64decode(each["data"]) for each in told if each["type"] == "video.content")
    clip = read_clip(data)
    assert (clip.frames.shape, clip.fps) == ((10, 50, 62, 3), 5)
    assert brightness(data) == sorted(brightness(data))
    assert data.index(b"moov") < data.index(b"mdat"), "the index stands first"


async def test_what_a_pipeline_does_not_take_is_named(client: httpx.AsyncClient) -> None:
    body = {"model": "m", "prompt": "a fox", "size": "32x32", "seconds": "1", "steps": 1, "guidance_scale": 2.0}
    answer = await client.post("/v1/videos", json={**body, "negative_prompt": "hens", "generate_audio": True})
    assert answer.headers["x-roundhouse-dropped"] == "negative_prompt, generate_audio"


async def test_a_worker_says_that_it_is_alive_while_a_step_takes_long(pipeline: WanPipeline) -> None:
    pipeline.go.clear()
    engine = VideoEngine(
        SPEC, opener=lambda _: VideoPipelines("filmer", pipeline, "cpu"), noise=lambda seed: seed, alive=0.01
    )
    engine.load()
    plan = plan_of(asked(size="32x32", seconds="1", steps=2), VideoOptions(), engine._pipelines)
    made = engine._made(plan, CancelSignal())
    seen = [await asyncio.to_thread(next, made) for _ in range(4)]
    assert seen[0].startswith(b"data: ")
    assert b": at work\n\n" in seen
    pipeline.go.set()
    assert b"video.completed" in [piece async for piece in _rest(made)][-1]


async def _rest(made: Any) -> AsyncIterator[bytes]:
    while (piece := await asyncio.to_thread(next, made, None)) is not None:
        yield piece


async def test_the_work_stops_after_the_step_that_runs_when_the_caller_leaves(
    engine: VideoEngine, pipeline: WanPipeline
) -> None:
    pipeline.go.clear()
    cancel = CancelSignal()
    plan = plan_of(asked(size="32x32", seconds="1", steps=100), VideoOptions(), engine._pipelines)
    made = engine._made(plan, cancel)
    assert b'"progress":0' in await asyncio.to_thread(next, made)
    cancel.set()
    pipeline.go.set()
    with pytest.raises(WorkCancelled):
        await asyncio.to_thread(list, made)
    assert pipeline.steps <= 2


def test_a_shape_is_at_least_what_was_asked_for_on_the_pipelines_grid() -> None:
    shape = shape_of(1280, 720, 4, 24, (32, 8), 200_000_000)
    assert (shape.frames, shape.made) == (96, (1280, 736, 97))
    with pytest.raises(InvalidRequest, match="even"):
        shape_of(63, 48, 4, 24, (16, 4), ROOM)
    with pytest.raises(InvalidRequest, match="at most 10,000,000"):
        shape_of(1280, 720, 4, 24, (16, 4), ROOM)


def test_a_model_that_lacks_a_kind_of_source_says_so(pipeline: WanPipeline) -> None:
    pipelines = VideoPipelines("filmer", pipeline, "cpu")
    with pytest.raises(CapabilityMismatch, match="no first frame"):
        pipelines.of("image")
    still = type("WanImageToVideoPipeline", (WanPipeline,), {})()
    with pytest.raises(CapabilityMismatch, match="input_reference"):
        VideoPipelines("filmer", still, "cpu").of("text")


def test_an_extension_stands_behind_the_video_that_it_goes_on_from(pipeline: WanPipeline) -> None:
    before = Clip(np.full((4, 32, 32, 3), 200, np.uint8), 4.0)
    plan = SimpleNamespace(shape=shape_of(32, 32, 1, 4, (16, 4), ROOM), before=before)
    whole = finished(np.zeros((5, 32, 32, 3), np.uint8), plan)  # type: ignore[arg-type]
    assert [int(frame.mean()) for frame in whole] == [200] * 4 + [0] * 3


def test_a_source_is_read_at_even_distances_in_time() -> None:
    clip = Clip(np.arange(8, dtype=np.uint8)[:, None, None, None].repeat(3, 3), 8.0)
    shape = shape_of(32, 32, 1, 4, (16, 4), ROOM)
    assert [int(frame.item(0)) for frame in resampled(clip, shape)] == [0, 2, 4, 6, 7]


def test_sound_stands_beside_the_pictures() -> None:
    shape = shape_of(32, 32, 1, 4, (16, 4), ROOM)
    tone = np.sin(np.arange(48_000) / 20).astype(np.float32)
    sound = sound_of(SimpleNamespace(audio=[tone]), 24_000, shape)
    assert sound is not None
    assert (sound.samples.shape, sound.rate) == ((1, 24_000), 24_000)
    assert sound_of(SimpleNamespace(), 24_000, shape) is None
    import io

    import av

    frames = np.zeros((4, 32, 32, 3), np.uint8)
    for samples in (sound.samples, np.stack([tone, tone])[:, :24_000]):
        data = encoded(frames, 4, Sound(samples, 24_000), lambda: None)
        opening: Any = av.open(io.BytesIO(data))
        with opening as opened:
            (stream,) = opened.streams.audio
            assert (stream.codec_context.name, stream.rate) == ("aac", 24_000)
            heard = sum(frame.samples for frame in opened.decode(stream))
        assert abs(heard - 24_000) < 4096


@pytest.mark.parametrize("data", [b"", b"GIF89a", tiny_mp4()[:200], tiny_mp4()[:40] + bytes(500)])
def test_bytes_that_are_no_video_are_refused(data: bytes) -> None:
    with pytest.raises(UndecodableMedia):
        read_clip(data)


def test_a_video_with_too_many_pixels_is_refused_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backends.workers.engines.video.mp4.MAX_PIXELS", 64 * 48 * 5)
    with pytest.raises(UndecodableMedia, match="too long"):
        read_clip(tiny_mp4())
