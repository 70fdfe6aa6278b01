"""The routes of an engine that draws, and OpenAI's events of its pictures.

The response is a stream: an SSE comment per step, which shows progress, partial pictures where they were asked
for, and one ``image_generation.completed`` or ``image_edit.completed`` per picture. A disconnect ends the work.
"""

from __future__ import annotations

import base64
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from backends.wire.images import ImageEditRequest, ImageRequest
from backends.wire.images.forms import MOST_FILES, fields_of
from backends.workers.engines.common.options import EngineOptions
from backends.workers.engines.pictures.canvas import Canvas, Format, canvas_of, encoded
from backends.workers.program.app import (
    dropped,
    invalid_request,
    parse,
    sse_event,
    stream_response,
)
from backends.workers.program.threads import CancelSignal, ThreadRunner, WorkerStats
from catalog.errors import UnsupportedMediaType, UnsupportedValue
from catalog.types import Json

if TYPE_CHECKING:
    from PIL.Image import Image

MULTIPLE = 8
"""Width and height are multiples of it, because the variational autoencoder halves an image three times."""
_QUALITIES = {"low": 0.6, "medium": 1.0, "standard": 1.0, "high": 1.5, "hd": 1.5, "xhigh": 2.0, "max": 2.5}
"""The steps of a quality, relative to the row's."""
_DISTILLED = 10
"""Models of fewer steps are distilled to their number, and no quality changes it."""
_STRENGTH, _FAITHFUL, _REPAINTED = 0.8, 0.5, 1.0
"""How far a picture may change: usually (diffusers' default), with input_fidelity "high", and within a mask."""
_MOST_STEPS = 500


class PictureOptions(EngineOptions):
    """The ``options`` of a catalogue row that every engine of pictures has."""

    size: str = Field(default="512x512", pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$", description="the usual size")
    steps: int = Field(default=25, ge=1, le=_MOST_STEPS, description="the usual number of steps")
    guidance_scale: float | None = Field(default=None, ge=0, le=100, description="the usual guidance")
    max_pixels: int = Field(default=1024 * 1024, gt=0, description="most pixels of a picture")


@dataclass(frozen=True, slots=True)
class Painting:
    """One picture to paint. ``strength`` is how far it may depart from the first source; ``partial`` are the steps
    after which it is shown in the making."""

    prompt: str
    negative_prompt: str | None
    canvas: Canvas
    steps: int
    guidance: float | None
    strength: float
    partial: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Stroke:
    """A step that is done; ``glimpse`` is the picture so far, if it was asked for."""

    step: int
    glimpse: Image | None = None


class PictureEngine(ABC):
    """Paints one picture at a time. A subclass loads a model, and paints."""

    multiple: ClassVar[int] = MULTIPLE
    _options: PictureOptions

    def __init__(self) -> None:
        self._runner = ThreadRunner(1)

    @property
    def stats(self) -> WorkerStats:
        return self._runner.stats

    @abstractmethod
    def paint(self, painting: Painting, seed: int, cancel: CancelSignal) -> Generator[Stroke, None, Image]:
        """Paint, in a thread; gives each step as it is done, and returns the picture, in the canvas's size.

        Raises WorkCancelled soon after ``cancel`` is set, and UnsupportedParameter for what the model cannot do.
        """

    @abstractmethod
    def without_effect(self, request: ImageRequest) -> list[str]:
        """The names of parameters that the model does not heed, beside those that no engine does."""

    def close(self) -> None:
        self._runner.close()

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/images/generations", self._generations, methods=["POST"]),
            Route("/v1/images/edits", self._edits, methods=["POST"]),
            Route("/v1/images/variations", self._variations, methods=["POST"]),
        ]

    async def _generations(self, http: Request) -> Response:
        return await self._answer(http, parse(ImageRequest, await http.body()), "image_generation")

    async def _edits(self, http: Request) -> Response:
        return await self._answer(http, await _form(http, variation=False), "image_edit")

    async def _variations(self, http: Request) -> Response:
        return await self._answer(http, await _form(http, variation=True), "image_edit")

    async def _answer(
        self, http: Request, request: ImageRequest, kind: Literal["image_generation", "image_edit"]
    ) -> Response:
        if request.output_format in ("gif", "svg"):
            raise UnsupportedValue(
                f"Models of this machine make no {request.output_format} pictures: ask for png, jpeg or webp.",
                param="output_format",
            )
        unused = [*self.without_effect(request), *_unheeded(request, self._options)]
        seed = request.seed if request.seed is not None else secrets.randbelow(2**31)

        def produce(cancel: CancelSignal) -> Generator[bytes, None, None]:
            painting = planned(request, self._options, self.multiple)
            for at in range(request.n or 1):
                yield from self._picture(painting, request, kind, at, seed + at, cancel)

        async def events() -> AsyncGenerator[bytes, None]:
            async with aclosing(self._runner.stream(produce)) as bodies:
                async for body in bodies:
                    yield body

        return await stream_response(http, events(), media_type="text/event-stream", headers=dropped(unused))

    def _picture(
        self, painting: Painting, request: ImageRequest, kind: str, at: int, seed: int, cancel: CancelSignal
    ) -> Generator[bytes, None, None]:
        form = cast("Format", request.output_format or "png")

        def event(state: str, image: Image, **fields: object) -> bytes:
            body: Json = {
                "type": f"{kind}.{state}",
                "b64_json": base64.b64encode(encoded(image, form, request.output_compression)).decode(),
                "created_at": int(time.time()),
                "size": f"{image.width}x{image.height}",
                "quality": request.quality or "auto",
                "background": "opaque",
                "output_format": form,
                "index": at,
            }
            return sse_event({**body, **fields})

        shown = 0
        strokes = self.paint(painting, seed, cancel)
        try:
            while True:
                stroke = next(strokes)
                yield f": step {stroke.step} of {painting.steps}\n\n".encode()
                if stroke.glimpse is not None:
                    glimpse = painting.canvas.finished(stroke.glimpse)
                    yield event("partial_image", glimpse, partial_image_index=shown)
                    shown += 1
        except StopIteration as done:
            yield event("completed", painting.canvas.finished(done.value), seed=seed)
        finally:
            strokes.close()


def planned(request: ImageRequest, options: PictureOptions, multiple: int = MULTIPLE) -> Painting:
    """The picture to paint: the request's parameters over the row's. Raises as :func:`canvas_of`."""
    canvas = canvas_of(request, options.size, multiple, options.max_pixels)
    steps = request.steps or quality_steps(request.quality, options.steps)
    strength = strength_of(request) if isinstance(request, ImageEditRequest) else 1.0
    scale = request.guidance_scale if request.guidance_scale is not None else options.guidance_scale
    negative = request.negative_prompt or None
    partial = partial_steps(steps, request.partial_images or 0)
    return Painting(request.prompt, negative, canvas, steps, scale, strength, partial)


def quality_steps(quality: str | None, usual: int) -> int:
    """The steps of a quality: fewer for "low", more for "high"."""
    if usual < _DISTILLED:
        return usual
    return max(1, min(_MOST_STEPS, round(usual * _QUALITIES.get(quality or "", 1.0))))


def strength_of(request: ImageEditRequest) -> float:
    """How far the result may depart from the picture, in (0, 1]."""
    if request.strength is not None:
        return request.strength
    if request.mask is not None:
        return _REPAINTED
    return _FAITHFUL if request.input_fidelity == "high" else _STRENGTH


def partial_steps(steps: int, count: int) -> frozenset[int]:
    """The steps, from 1, after which ``count`` pictures in the making are shown, at even distances."""
    return frozenset(round(steps * (at + 1) / (count + 1)) for at in range(count)) - {0, steps}


def _unheeded(request: ImageRequest, options: PictureOptions) -> list[str]:
    names = ["background"] if request.background == "transparent" else []
    known = request.quality in _QUALITIES and options.steps >= _DISTILLED
    if request.quality not in (None, "auto") and (not known or request.steps is not None):
        names.append("quality")
    return [*names, *(request.model_extra or {})]


async def _form(http: Request, *, variation: bool) -> ImageEditRequest:
    """Read the multipart form. Raises UnsupportedMediaType and InvalidRequest."""
    if not http.headers.get("content-type", "").startswith("multipart/form-data"):
        raise UnsupportedMediaType("Pictures to change are sent with multipart/form-data.")
    async with http.form(max_files=MOST_FILES, max_fields=64, max_part_size=8 << 20) as form:
        parts = [
            (name, await value.read() if isinstance(value, UploadFile) else value)
            for name, value in form.multi_items()
        ]
    try:
        return ImageEditRequest.model_validate({**fields_of(parts), "variation": variation})
    except ValidationError as error:
        raise invalid_request(error) from None
