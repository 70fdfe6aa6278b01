"""Engine ``onnx-painter``: draws single things in the manner of emojis, in milliseconds and without a GPU.

The worker's folder has the text encoder (``model.onnx`` and ``tokenizer.json`` of a sentence-transformers model
with mean pooling); the reader, the painter and its subjects are files of :mod:`catalog.starter_image`. The answer
is a stream of OpenAI's image events, one ``image_generation.completed`` per picture, whose ``revised_prompt`` says
how the prompt was understood.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import catalog.starter_image
from backends.wire.images import ImageRequest
from backends.workers.engines.common.options import EngineOptions, read_options
from backends.workers.engines.common.text_tokenizer import TextTokenizer
from backends.workers.engines.onnx.session import OnnxBatchRunner, normalized, open_session
from backends.workers.engines.onnx_painter.colours import recoloured
from backends.workers.engines.onnx_painter.rendering import ImageFormat, encode, on_canvas
from backends.workers.engines.onnx_painter.subjects import Motif, choose, read_repertoire
from backends.workers.program.app import dropped, parse, serve_engine, sse_event, stream_response
from backends.workers.program.threads import CancelSignal, ThreadRunner, WorkerStats
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import EngineMissing, InvalidRequest, UnsupportedValue
from catalog.types import Json

_WEIGHTS = Path(catalog.starter_image.__file__).parent
_SMALLEST = 16
"""Least pixels of a side."""


class OnnxPainterOptions(EngineOptions):
    """The ``options`` of a catalogue row."""

    size: str = Field(default="512x512", pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")
    max_pixels: int = Field(default=2048 * 2048, gt=0)
    max_tokens: int = Field(default=256, gt=0, description="longest prompt")


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, OnnxPainterEngine(spec), ready)


class OnnxPainterEngine:
    """Reads the prompt once, then draws its pictures one after the other."""

    def __init__(self, spec: WorkerSpec, *, weights: Path = _WEIGHTS) -> None:
        self._spec = spec
        self._weights = weights
        self._runner = ThreadRunner(spec.slots)

    @property
    def stats(self) -> WorkerStats:
        return self._runner.stats

    def load(self) -> None:
        try:
            import tokenizers  # noqa: F401
        except ImportError:
            raise EngineMissing("onnx-painter", extra="onnx", package="tokenizers") from None
        self._options = read_options(OnnxPainterOptions, "onnx-painter", self._spec.options)
        folder, threads = Path(self._spec.path or ""), self._spec.threads
        self._tokenizer = TextTokenizer(
            folder / "tokenizer.json", model=self._spec.model_id, max_tokens=self._options.max_tokens
        )
        encoder = open_session(folder / "model.onnx", device="cpu", threads=threads)
        self._encoder = OnnxBatchRunner(encoder, pooling="mean", pad_id=self._tokenizer.pad_id)
        self._repertoire = read_repertoire(self._weights / "subjects.json")
        self._reader = open_session(self._weights / "reader.onnx", device="cpu", threads=threads)
        self._painter = open_session(self._weights / "painter.onnx", device="cpu", threads=threads)

    def close(self) -> None:
        self._runner.close()

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/v1/images/generations", self._generations, methods=["POST"])]

    async def _generations(self, http: Request) -> Response:
        request = parse(ImageRequest, await http.body())
        form = _form(request)
        width, height = self._size(request)
        seed = request.seed if request.seed is not None else secrets.randbelow(2**31)

        def produce(cancel: CancelSignal) -> Generator[bytes, None, None]:
            subjects, colours = self._read(request.prompt)
            for i in range(request.n or 1):
                cancel.check()
                motif = choose(self._repertoire, subjects, colours, (seed + i) % 2**63)
                pixels = self._painted(request, motif, width, height)
                yield _event(pixels, form, request, i, seed + i, motif)

        async def events() -> AsyncGenerator[bytes, None]:
            async with aclosing(self._runner.stream(produce)) as bodies:
                async for body in bodies:
                    yield body

        headers = dropped(unused(request))
        return await stream_response(http, events(), media_type="text/event-stream", headers=headers)

    def _size(self, request: ImageRequest) -> tuple[int, int]:
        """Width and height. Raises InvalidRequest for a size that is too small or too large."""
        asked = request.size if request.size not in {None, "auto"} else self._options.size
        width, height = (int(side) for side in str(asked).split("x"))
        if min(width, height) < _SMALLEST:
            raise InvalidRequest(f"Width and height must be at least {_SMALLEST} pixels.", param="size")
        if width * height > self._options.max_pixels:
            raise InvalidRequest(f"A picture has at most {self._options.max_pixels} pixels here.", param="size")
        return width, height

    def _read(self, prompt: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The logits of the subjects and of the colours. Raises ContextLengthExceeded."""
        tokens, _ = self._tokenizer.texts([prompt], truncate=False, param="prompt")
        call, _ = self._encoder.begin(tokens)
        vector = normalized(np.stack(call()))
        subjects, colours = self._reader.run(["subjects", "colours"], {"vector": vector})
        return subjects[0], colours[0]

    def _painted(self, request: ImageRequest, motif: Motif, width: int, height: int) -> NDArray[np.uint8]:
        (pictures,) = self._painter.run(["picture"], {"row": np.array([motif.row], np.int64)})
        picture = pictures[0] if motif.colour is None else recoloured(pictures[0], motif.colour)
        opaque = request.background != "transparent" or request.output_format == "jpeg"
        return on_canvas(picture, width, height, room=motif.room, mirrored=motif.mirrored, opaque=opaque)


def _form(request: ImageRequest) -> ImageFormat:
    """Raises UnsupportedParameter for a format that is not made here."""
    match request.output_format:
        case None:
            return "png"
        case "png" | "jpeg" | "webp" as form:
            return form
        case other:
            raise UnsupportedValue(
                f"Models of this machine make no {other} pictures: ask for png, jpeg or webp.",
                param="output_format",
            )


def _event(
    pixels: NDArray[np.uint8], form: ImageFormat, request: ImageRequest, index: int, seed: int, motif: Motif
) -> bytes:
    height, width, channels = pixels.shape
    body: Json = {
        "type": "image_generation.completed",
        "b64_json": base64.b64encode(encode(pixels, form, request.output_compression)).decode(),
        "created_at": int(time.time()),
        "size": f"{width}x{height}",
        "quality": "auto",
        "background": "opaque" if channels == 3 else "transparent",
        "output_format": form,
        "index": index,
        "revised_prompt": motif.told,
        "seed": seed,
    }
    return sse_event(body)


def unused(request: ImageRequest) -> list[str]:
    """The parameters of the request that have no effect here; addresses of pictures are made by the gateway."""
    names = ("quality", "style", "negative_prompt", "steps", "guidance_scale", "partial_images")
    found = [name for name in names if getattr(request, name) not in {None, "auto", 0, ""}]
    if request.background == "transparent" and request.output_format == "jpeg":
        found.append("background")
    return [*found, *(request.model_extra or {})]
