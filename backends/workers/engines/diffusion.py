"""Engine ``diffusion``: image generation with diffusers. A model is a folder written by ``save_pretrained``.

Only safetensors are read, and code in the folder is never run. The response is a stream of OpenAI's image events,
one ``image_generation.completed`` per image, each preceded by an SSE comment per denoising step, which shows
progress. A disconnect ends the work after the running step.
"""

from __future__ import annotations

import base64
import inspect
import io
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.wire.images import ImageRequest
from backends.workers.engines.common.options import EngineOptions, read_options
from backends.workers.program.app import dropped, parse, serve_engine, sse_event, stream_response
from backends.workers.program.threads import CancelSignal, ThreadRunner, WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import EngineMissing, InvalidRequest, ModelUnavailable
from catalog.types import Json

Pipeline = Callable[..., Any]
_MULTIPLE = 8
"""Width and height are multiples of it, because the variational autoencoder halves an image three times."""


class DiffusionOptions(EngineOptions):
    """The ``options`` of a catalogue row."""

    size: str = Field(default="512x512", pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")
    steps: int = Field(default=25, ge=1, le=500)
    guidance_scale: float | None = Field(default=None, ge=0, le=100)
    max_pixels: int = Field(default=1024 * 1024, gt=0)


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, DiffusionEngine(spec), ready)


def open_pipeline(spec: WorkerSpec) -> Pipeline:
    """Load the pipeline that ``model_index.json`` names. Raises EngineMissing and ModelUnavailable."""
    try:
        import torch
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise EngineMissing("diffusion", extra="images", package=error.name) from None
    if not (Path(spec.path or "") / "model_index.json").is_file():
        raise ModelUnavailable("The model's folder has no model_index.json. Pull the model again.")
    if spec.device == "cpu":
        torch.set_num_threads(spec.threads)
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            spec.path,
            torch_dtype=torch.float32 if spec.device == "cpu" else torch.float16,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelUnavailable(f"diffusers cannot open '{spec.model_id}': {str(error)[:300]}") from error
    pipeline.set_progress_bar_config(disable=True)
    opened: Pipeline = pipeline.to(spec.device)
    return opened


def seeded_generator(seed: int) -> Any:
    """Make torch's noise generator, on the CPU, so that a seed gives the same image on every device."""
    import torch

    return torch.Generator("cpu").manual_seed(seed)


class DiffusionEngine:
    """Generates one image at a time, because a pipeline's scheduler keeps state between steps."""

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        opener: Callable[[WorkerSpec], Pipeline] = open_pipeline,
        generator: Callable[[int], Any] = seeded_generator,
    ) -> None:
        self._spec = spec
        self._opener = opener
        self._generator = generator
        self._runner = ThreadRunner(1)

    @property
    def stats(self) -> WorkerStats:
        return self._runner.stats

    def load(self) -> None:
        self._options = read_options(DiffusionOptions, "diffusion", self._spec.options)
        self._pipeline = self._opener(self._spec)
        self._known = frozenset(inspect.signature(self._pipeline).parameters)

    def close(self) -> None:
        self._runner.close()

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/v1/images/generations", self._generations, methods=["POST"])]

    async def _generations(self, http: Request) -> Response:
        request = parse(ImageRequest, await http.body())
        arguments, unused = pipeline_arguments(request, self._options, self._known)
        seed = request.seed if request.seed is not None else secrets.randbelow(2**31)

        def produce(cancel: CancelSignal) -> Generator[bytes, None, None]:
            for i in range(request.n or 1):
                yield from self._picture(request, arguments, seed + i, cancel)

        async def events() -> AsyncGenerator[bytes, None]:
            async with aclosing(self._runner.stream(produce)) as bodies:
                async for body in bodies:
                    yield body

        return await stream_response(http, events(), media_type="text/event-stream", headers=dropped(unused))

    def _picture(
        self, request: ImageRequest, arguments: Json, seed: int, cancel: CancelSignal
    ) -> Generator[bytes, None, None]:
        steps: SimpleQueue[int | None] = SimpleQueue()

        def on_step(_: Any, step: int, __: Any, tensors: Json) -> Json:
            cancel.check()
            steps.put(step + 1)
            return tensors

        with ThreadPoolExecutor(1, thread_name_prefix="pipeline") as thread:
            drawing = thread.submit(
                self._pipeline,
                generator=self._generator(seed % 2**63),
                callback_on_step_end=on_step,
                **arguments,
            )
            drawing.add_done_callback(lambda _: steps.put(None))
            while (step := steps.get()) is not None:
                yield f": step {step} of {arguments['num_inference_steps']}\n\n".encode()
            (image,) = drawing.result().images
        kind = request.output_format or "png"
        body = {
            "type": "image_generation.completed",
            "b64_json": base64.b64encode(encoded(image, kind, request.output_compression)).decode(),
            "created_at": int(time.time()),
            "size": f"{arguments['width']}x{arguments['height']}",
            "output_format": kind,
            "seed": seed,
        }
        yield sse_event(body)


def pipeline_arguments(
    request: ImageRequest, options: DiffusionOptions, known: frozenset[str]
) -> tuple[Json, list[str]]:
    """Make the pipeline's arguments for one image, and list the request's parameters without effect.

    ``known`` are the pipeline's parameters. Raises InvalidRequest for an unsupported size.
    """
    asked = request.size if request.size not in {None, "auto"} else options.size
    width, height = (int(side) for side in str(asked).split("x"))
    if width % _MULTIPLE or height % _MULTIPLE:
        raise InvalidRequest(f"Width and height must be multiples of {_MULTIPLE}.", param="size")
    if width * height > options.max_pixels:
        raise InvalidRequest(f"A picture has at most {options.max_pixels} pixels here.", param="size")
    arguments: Json = {
        "prompt": request.prompt,
        "width": width,
        "height": height,
        "num_inference_steps": request.steps or options.steps,
        "num_images_per_prompt": 1,
    }
    scale = request.guidance_scale if request.guidance_scale is not None else options.guidance_scale
    if scale is not None:
        arguments["guidance_scale"] = scale
    if request.negative_prompt:
        arguments["negative_prompt"] = request.negative_prompt
    unused: list[str] = [
        name for name in ("guidance_scale", "negative_prompt") if name in arguments and name not in known
    ]
    taken = {name: value for name, value in arguments.items() if name not in unused}
    unknown_here = [
        name for name in ("quality", "style", "background") if getattr(request, name) not in {None, "auto"}
    ]
    if request.partial_images:
        unknown_here.append("partial_images")
    if request.response_format == "url":
        unknown_here.append("response_format")
    return taken, [*unused, *unknown_here, *(request.model_extra or {})]


def encoded(image: Any, kind: str, compression: int | None) -> bytes:
    """Encode an image; ``compression`` in [0, 100] is the quality of JPEG and WebP, as in OpenAI's API."""
    assert re.fullmatch("png|jpeg|webp", kind)
    quality = {} if compression is None or kind == "png" else {"quality": compression}
    file = io.BytesIO()
    image.save(file, format=kind.upper(), **quality)
    return file.getvalue()
