"""Engine ``diffusion``: draws and changes pictures with diffusers. A model is a folder of ``save_pretrained``.

Only safetensors are read, and code in the folder is never run. A picture is drawn from a text, from pictures
(image to image, or by a model that takes pictures itself), or within a mask. A disconnect ends the work after the
running step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from queue import SimpleQueue
from typing import Any

from backends.wire.images import ImageEditRequest, ImageRequest
from backends.workers.engines.common.options import read_options
from backends.workers.engines.pictures.glimpses import estimates, glimpse, shows_glimpses
from backends.workers.engines.pictures.loading import DiffusionOptions, Pipelines, open_pipeline
from backends.workers.engines.pictures.painting import Painting, PictureEngine, Stroke
from backends.workers.program.app import serve_engine
from backends.workers.program.threads import CancelSignal
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import UnsupportedValue
from catalog.types import Json

__all__ = ["DiffusionEngine", "DiffusionOptions", "serve"]

_MOST_SCHEDULED = 1000
"""Steps of a schedule, of which image to image makes only the last ones."""


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, DiffusionEngine(spec), ready)


def seeded_generator(seed: int) -> Any:
    """Make torch's noise generator, on the CPU, so that a seed gives the same image on every device."""
    import torch

    return torch.Generator("cpu").manual_seed(seed)


class DiffusionEngine(PictureEngine):
    """Paints with pipelines that share one model's weights."""

    _options: DiffusionOptions

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        opener: Callable[[WorkerSpec, DiffusionOptions], Any] = open_pipeline,
        generator: Callable[[int], Any] = seeded_generator,
    ) -> None:
        super().__init__()
        self._spec = spec
        self._opener = opener
        self._generator = generator

    def load(self) -> None:
        self._options = read_options(DiffusionOptions, "diffusion", self._spec.options)
        self._pipelines = Pipelines(self._opener(self._spec, self._options), self._options, self._spec.device)

    def without_effect(self, request: ImageRequest) -> list[str]:
        pipeline = self._chosen(
            edits=isinstance(request, ImageEditRequest), masked=getattr(request, "mask", None) is not None
        )
        known = self._pipelines.parameters(pipeline)
        named = [
            name
            for name in ("guidance_scale", "negative_prompt", "strength", "input_fidelity")
            if getattr(request, name, None) not in (None, "", "low") and _ARGUMENTS.get(name, name) not in known
        ]
        if request.partial_images and not shows_glimpses(pipeline):
            named.append("partial_images")
        return named

    def paint(self, painting: Painting, seed: int, cancel: CancelSignal) -> Generator[Stroke, None, Any]:
        canvas = painting.canvas
        pipeline = self._chosen(edits=bool(canvas.sources), masked=canvas.mask is not None)
        arguments = arguments_of(painting, self._pipelines.parameters(pipeline), pipeline)
        strokes: SimpleQueue[Stroke | None] = SimpleQueue()
        watching = estimates(pipeline) if painting.partial else nullcontext(lambda: None)

        def on_step(_: Any, step: int, __: Any, tensors: Json) -> Json:
            cancel.check()
            shown = None
            if step + 1 in painting.partial and (latents := latest()) is not None:
                shown = glimpse(pipeline, latents, canvas.width, canvas.height)
            strokes.put(Stroke(step + 1, shown))
            return tensors

        with watching as latest, ThreadPoolExecutor(1, thread_name_prefix="pipeline") as thread:
            drawing = thread.submit(
                pipeline,
                generator=self._generator(seed % 2**63),
                callback_on_step_end=on_step,
                **arguments,
            )
            drawing.add_done_callback(lambda _: strokes.put(None))
            while (stroke := strokes.get()) is not None:
                yield stroke
            (image,) = drawing.result().images
        return image

    def _chosen(self, *, edits: bool, masked: bool) -> Any:
        if masked:
            return self._pipelines.of_mask()
        return self._pipelines.of_pictures() if edits else self._pipelines.base


_ARGUMENTS = {"input_fidelity": "strength"}
"""Parameters of a request that set an argument of another name."""


def arguments_of(painting: Painting, known: frozenset[str], pipeline: Any = None) -> Json:
    """The arguments of a pipeline that has the parameters ``known``, for one picture.

    Raises UnsupportedParameter for more pictures than the pipeline takes.
    """
    canvas, steps = painting.canvas, painting.steps
    if "strength" in known and canvas.sources:  # of the schedule, only this share of the last steps is made
        steps = min(_MOST_SCHEDULED, math.ceil(steps / painting.strength))
    arguments: Json = {
        "prompt": painting.prompt,
        "negative_prompt": painting.negative_prompt,
        "width": canvas.width,
        "height": canvas.height,
        "num_inference_steps": steps,
        "num_images_per_prompt": 1,
        "guidance_scale": painting.guidance,
    }
    if canvas.sources:
        arguments["image"] = _pictures(painting, known, pipeline)
        arguments["strength"] = painting.strength
        arguments["mask_image"] = canvas.mask
    return {name: value for name, value in arguments.items() if name in known and value is not None}


def _pictures(painting: Painting, known: frozenset[str], pipeline: Any) -> Any:
    sources = painting.canvas.sources
    if len(sources) == 1:
        return sources[0]
    if "strength" in known:  # image to image has one picture to begin with
        raise UnsupportedValue(
            f"{type(pipeline).__name__} changes one picture at a time; {len(sources)} were sent.", param="image"
        )
    return list(sources)
