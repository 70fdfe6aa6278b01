"""Engine ``diffusion-video``: videos with diffusers. A model is a folder written by ``save_pretrained``.

Only safetensors are read, and code in the folder is never run. The response is a stream of events: progress by
denoising step, the MP4 in pieces of base64, and the end. A comment between them says that the work goes on. A
disconnect ends it after the running step.
"""

from __future__ import annotations

import base64
import io
import secrets
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.wire.video.events import completed, progress
from backends.wire.video.request import MAX_SOURCE, VideoRequest
from backends.workers.engines.common.options import EngineOptions, read_options
from backends.workers.engines.video.mp4 import Clip, Frames, Sound, encoded, read_clip
from backends.workers.engines.video.pipelines import Kind, VideoPipelines, VideoShape, open_pipelines, shape_of
from backends.workers.program.app import dropped, parse, serve_engine, sse_event, stream_response
from backends.workers.program.threads import CancelSignal, ThreadRunner, WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import UndecodableMedia
from catalog.types import Json

ALIVE = 5.0
"""Seconds between two signs of life."""
PIECE = 1 << 20
"""Bytes of the file in one event."""
_STEPS, _DECODED = 90, 95
"""Percentages at the last step, and once the pictures are decoded."""


class VideoOptions(EngineOptions):
    """The ``options`` of a catalogue row."""

    size: str = Field(
        default="832x480", pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$", description="without one asked for"
    )
    fps: float = Field(default=24, gt=0, le=120, description="pictures a second")
    steps: int = Field(default=40, ge=1, le=500, description="denoising steps")
    guidance_scale: float | None = Field(default=None, ge=0, le=100, description="by default the pipeline's")
    strength: float = Field(default=0.8, gt=0, le=1, description="share of a source video that is made anew")
    max_pixels: int = Field(default=200_000_000, gt=0, description="most pixels of all frames of a video")


class WorkerVideoRequest(VideoRequest):
    """The request to a worker: pictures and videos are base64."""

    image: str | None = Field(default=None, repr=False)  # type: ignore[assignment]
    source: str | None = Field(default=None, repr=False, max_length=2 * MAX_SOURCE)  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Shot:
    """One video to make: its pipeline, the arguments of the call, its shape, and the frames that go before it."""

    pipeline: Any
    arguments: Json
    shape: VideoShape
    steps: int
    seed: int
    unused: tuple[str, ...]
    before: Clip | None


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, VideoEngine(spec), ready)


def seeded_noise(seed: int) -> Any:
    """Make torch's noise generator, on the CPU, so that a seed gives the same video on every device."""
    import torch

    return torch.Generator("cpu").manual_seed(seed % 2**63)


class VideoEngine:
    """Makes one video at a time, because a pipeline's scheduler keeps state between steps."""

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        opener: Callable[[WorkerSpec], VideoPipelines] = open_pipelines,
        noise: Callable[[int], Any] = seeded_noise,
        alive: float = ALIVE,
    ) -> None:
        self._spec = spec
        self._opener = opener
        self._noise = noise
        self._alive = alive
        self._runner = ThreadRunner(1)

    @property
    def stats(self) -> WorkerStats:
        return self._runner.stats

    def load(self) -> None:
        self._options = read_options(VideoOptions, "diffusion-video", self._spec.options)
        self._pipelines = self._opener(self._spec)

    def close(self) -> None:
        self._runner.close()

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/v1/videos", self._videos, methods=["POST"])]

    async def _videos(self, http: Request) -> Response:
        request = parse(WorkerVideoRequest, await http.body())
        plan = plan_of(request, self._options, self._pipelines)

        def produce(cancel: CancelSignal) -> Generator[bytes, None, None]:
            yield from self._made(plan, cancel)

        async def events() -> AsyncGenerator[bytes, None]:
            async with aclosing(self._runner.stream(produce)) as bodies:
                async for body in bodies:
                    yield body

        headers = dropped(plan.unused)
        return await stream_response(http, events(), media_type="text/event-stream", headers=headers)

    def _made(self, plan: Shot, cancel: CancelSignal) -> Generator[bytes, None, None]:
        """The events of one video. The pipeline works in a thread of its own, and is looked at while it does."""
        told: SimpleQueue[int | None] = SimpleQueue()

        def on_step(_: Any, step: int, __: Any, tensors: Json) -> Json:
            cancel.check()
            told.put(min(_STEPS, (step + 1) * _STEPS // plan.steps))
            return tensors

        def work() -> bytes:
            result = plan.pipeline(
                generator=self._noise(plan.seed),
                callback_on_step_end=on_step,
                output_type="np",
                return_dict=True,
                **plan.arguments,
            )
            cancel.check()
            told.put(_DECODED)
            frames = finished(pixels_of(result.frames), plan)
            sound = None if plan.before is not None else sound_of(result, self._pipelines.sample_rate, plan.shape)
            return encoded(frames, plan.shape.fps, sound, cancel.check)

        yield sse_event(progress(0))
        with ThreadPoolExecutor(1, thread_name_prefix="pipeline") as thread:
            making = thread.submit(work)
            making.add_done_callback(lambda _: told.put(None))
            while True:
                try:
                    percent = told.get(timeout=self._alive)
                except Empty:
                    yield b": at work\n\n"
                    continue
                if percent is None:
                    break
                yield sse_event(progress(percent))
            data = making.result()
        for start in range(0, len(data), PIECE):
            piece = base64.b64encode(data[start : start + PIECE]).decode()
            yield sse_event({"type": "video.content", "data": piece})
        shape = plan.shape
        seconds = shape.frames / shape.fps
        yield sse_event(completed(seconds, size=f"{shape.width}x{shape.height}", seed=plan.seed, fps=shape.fps))


def plan_of(request: WorkerVideoRequest, options: VideoOptions, pipelines: VideoPipelines) -> Shot:
    """The arguments of a pipeline.

    Raises InvalidRequest for a shape that the model does not make, CapabilityMismatch for a picture or video that
    it does not take, and UndecodableMedia.
    """
    kind = _kind(request)
    source = None if request.source is None else read_clip(_decoded(request.source, "video"))
    pipeline = pipelines.of(kind)
    known = frozenset(_parameters(pipeline))
    extends = request.task == "extend"
    fps = _fps(request, options, source)
    if source is None or (request.size is not None and not extends):
        width, height = (int(side) for side in (request.size or options.size).split("x"))
    else:
        height, width = (side - side % 2 for side in source.frames.shape[1:3])
    seconds = float(request.seconds)
    if kind == "video" and source is not None:
        seconds = min(seconds, len(source.frames) / source.fps)
    shape = shape_of(width, height, seconds, fps, pipelines.grid, options.max_pixels)
    steps = request.steps or options.steps
    arguments: Json = {
        "prompt": request.prompt,
        "width": shape.made[0],
        "height": shape.made[1],
        "num_frames": shape.made[2],
        "num_inference_steps": steps,
    }
    for name in ("fps", "frame_rate"):
        if name in known:
            arguments[name] = shape.fps
    unused = _with_wishes(arguments, request, options, known)
    if kind == "image":
        still = last_frame(source) if source is not None else picture_of(_decoded(request.image or "", "image"))
        arguments["image"] = fitted(still, shape.made[0], shape.made[1])
    elif kind == "video":
        assert source is not None
        arguments["video"] = [fitted(_image(pixels), *shape.made[:2]) for pixels in resampled(source, shape)]
        if "strength" in known:
            arguments["strength"] = request.strength if request.strength is not None else options.strength
        if "num_frames" not in known:
            del arguments["num_frames"]
    if request.strength is not None and "strength" not in arguments:
        unused.append("strength")
    if request.generate_audio is not None and not hasattr(pipelines.first, "vocoder"):
        unused.append("generate_audio")
    taken = {name: value for name, value in arguments.items() if name in known}
    seed = request.seed if request.seed is not None else secrets.randbelow(2**31)
    return Shot(pipeline, taken, shape, steps, seed, tuple(unused), source if extends else None)


def _kind(request: WorkerVideoRequest) -> Kind:
    if request.task == "extend":
        return "image"
    if request.task in ("edit", "remix"):
        return "video"
    return "text" if request.image is None else "image"


def _fps(request: WorkerVideoRequest, options: VideoOptions, source: Clip | None) -> float:
    if request.task == "extend" and source is not None:
        return source.fps
    return float(request.fps or (source.fps if source is not None else options.fps))


def _with_wishes(
    arguments: Json, request: WorkerVideoRequest, options: VideoOptions, known: frozenset[str]
) -> list[str]:
    """Add what the request wishes beyond the shape; the names of what the pipeline does not take."""
    scale = request.guidance_scale if request.guidance_scale is not None else options.guidance_scale
    wishes = {"guidance_scale": scale, "negative_prompt": request.negative_prompt or None}
    arguments |= {name: value for name, value in wishes.items() if value is not None and name in known}
    unused = [name for name in wishes if getattr(request, name) is not None and name not in known]
    return [*unused, *(request.model_extra or {})]


def _parameters(pipeline: Any) -> list[str]:
    import inspect

    return list(inspect.signature(pipeline.__call__).parameters)


def _decoded(data: str, param: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise UndecodableMedia("It is not base64.", param=param) from None


# ---- pictures


def picture_of(data: bytes) -> Any:
    """PIL's picture of these bytes, upright. Raises UndecodableMedia."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UndecodableMedia("The picture cannot be decoded.", param="input_reference") from None


def fitted(picture: Any, width: int, height: int) -> Any:
    """The picture scaled to fill this size, and cut at its longer sides."""
    from PIL import ImageOps

    return picture if picture.size == (width, height) else ImageOps.fit(picture, (width, height))


def last_frame(clip: Clip) -> Any:
    """PIL's picture of the end of a video."""
    return _image(clip.frames[-1])


def _image(pixels: Any) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


def resampled(clip: Clip, shape: VideoShape) -> list[Any]:
    """As many frames of a video as a shape has, at even distances in time; its last one stays at the end."""
    wanted = shape.made[2]
    times = np.arange(wanted) / shape.fps
    places = np.minimum(np.round(times * clip.fps).astype(int), len(clip.frames) - 1)
    return [clip.frames[place] for place in places]


def pixels_of(frames: Any) -> Frames:
    """The frames of a pipeline's answer, shape (1, frames, height, width, 3) in [0, 1], as 8 bits a channel."""
    return np.clip(np.round(np.asarray(frames[0], dtype=np.float32) * 255), 0, 255).astype(np.uint8)


def finished(frames: Frames, plan: Shot) -> Frames:
    """The frames of the video: cut to its size and length, behind the video that it goes on from."""
    shape = plan.shape
    top, left = (frames.shape[1] - shape.height) // 2, (frames.shape[2] - shape.width) // 2
    cut = frames[: shape.frames, top : top + shape.height, left : left + shape.width]
    if plan.before is None:
        return cut
    before = plan.before.frames[:, : shape.height, : shape.width]
    return np.concatenate([before, cut[1:] if len(cut) > 1 else cut])  # its first frame is the last one before


def sound_of(result: Any, rate: int, shape: VideoShape) -> Sound | None:
    """The sound of a pipeline's answer, cut to the length of the pictures; None for a silent one."""
    given = getattr(result, "audio", None)
    if given is None:
        return None
    samples = np.asarray(given[0].float().cpu() if hasattr(given[0], "cpu") else given[0], dtype=np.float32)
    samples = np.atleast_2d(samples)
    if samples.shape[0] > samples.shape[1]:
        samples = samples.T
    return Sound(np.clip(samples[:2, : round(shape.frames / shape.fps * rate)], -1, 1), rate)
