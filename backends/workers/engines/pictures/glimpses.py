"""The picture in the making: a diffusers model's estimate of the finished one, while it still denoises.

A scheduler's step tells the estimate (``pred_original_sample``), or it follows from the model's output: for flow
matching ``x0 = x - sigma * v`` (Lipman et al., 2022). Decoding the noisy latents themselves would show noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

_DECODERS = frozenset({"AutoencoderKL", "AutoencoderTiny"})
"""Autoencoders whose latents are one scale and shift away from the model's."""


def shows_glimpses(pipeline: Any) -> bool:
    """Whether :func:`glimpse` can decode what this pipeline has in the making."""
    return type(getattr(pipeline, "vae", None)).__name__ in _DECODERS and hasattr(pipeline, "image_processor")


@contextmanager
def estimates(pipeline: Any) -> Iterator[Callable[[], Any]]:
    """A function that gives the latest estimate of the finished latents, None before the first step."""
    scheduler = pipeline.scheduler
    told: list[Any] = [None]
    step = scheduler.step

    @wraps(step)  # pipelines look at the parameters of a scheduler's step
    def watched(model_output: Any, timestep: Any, sample: Any, *further: Any, **options: Any) -> Any:
        wants_tuple = options.get("return_dict", True) is False
        made = step(model_output, timestep, sample, *further, **{**options, "return_dict": True})
        told[0] = _estimate(scheduler, made, model_output, sample)
        return (made.prev_sample,) if wants_tuple else made

    scheduler.step = watched
    try:
        yield lambda: told[0]
    finally:
        del scheduler.step


def _estimate(scheduler: Any, made: Any, output: Any, sample: Any) -> Any:
    for name in ("pred_original_sample", "denoised"):
        if getattr(made, name, None) is not None:
            return getattr(made, name)
    index = getattr(scheduler, "step_index", None)
    if type(scheduler).__name__.startswith("FlowMatch") and index:
        return sample.float() - float(scheduler.sigmas[index - 1]) * output.float()
    return made.prev_sample


def glimpse(pipeline: Any, latents: Any, width: int, height: int) -> Any:
    """The picture of latents, as a Pillow image; None for latents of a form that is not known."""
    if latents.ndim == 3 and hasattr(pipeline, "_unpack_latents"):  # in patches, as FLUX has them
        latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
    if latents.ndim != 4:
        return None
    vae = pipeline.vae
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    scaled = latents[:1] / vae.config.scaling_factor + shift
    decoded = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
    return pipeline.image_processor.postprocess(decoded.detach(), output_type="pil")[0]
