"""Loads a diffusers pipeline within a device's memory: numbers, offloading, tiling, LoRA adapters.

Source: diffusers' pages on memory, on loading adapters, and on its automatic pipelines.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backends.workers.engines.common.options import UserPath
from backends.workers.engines.pictures.painting import PictureOptions
from backends.workers.spec import WorkerSpec
from catalog.errors import EngineMissing, ModelUnavailable, UnsupportedParameter

Offload = Literal["none", "model", "sequential"]
_BESIDE_ALL, _BESIDE_ONE = 1.2, 1.3
"""Memory that all weights, or those of the largest part alone, need with their activations, relative to them."""
_LARGE = 1_500_000
"""Pixels from which a picture is decoded in tiles: the autoencoder takes the most memory of all."""


class PictureLora(BaseModel):
    """An adapter that is loaded with the model; ``scale`` is its weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: UserPath = Field(description="safetensors file of the adapter")
    scale: float = Field(default=1.0, ge=-10, le=10, description="its weight")


class DiffusionOptions(PictureOptions):
    """The ``options`` of a catalogue row."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto", description="numbers of the weights; auto: float32 on a CPU, else bfloat16 or float16"
    )
    offload: Literal["auto", Offload] = Field(
        default="auto", description="weights wait in main memory, by model part or by layer; auto: if they must"
    )
    tiling: bool | None = Field(
        default=None, description="pictures are decoded in tiles; by default if they are large or memory is short"
    )
    lora: tuple[PictureLora, ...] = Field(default=(), max_length=16, description="adapters that change the model")


class Pipelines:
    """The pipelines of one model, which share its weights: from a text, from pictures, and within a mask."""

    def __init__(self, base: Any, options: DiffusionOptions, device: str) -> None:
        self._base = base
        self._options = options
        self._device = device
        self._made: dict[str, Any] = {}
        self._known: dict[type, frozenset[str]] = {}

    @property
    def base(self) -> Any:
        return self._base

    def parameters(self, pipeline: Any) -> frozenset[str]:
        """The names of a pipeline's parameters."""
        kind = type(pipeline)
        if kind not in self._known:
            self._known[kind] = frozenset(inspect.signature(pipeline).parameters)
        return self._known[kind]

    def of_pictures(self) -> Any:
        """The pipeline that changes pictures. Raises UnsupportedParameter for a model without one."""
        return self._other("image", "AutoPipelineForImage2Image")

    def of_mask(self) -> Any:
        """The pipeline that paints within a mask, else the one that changes pictures."""
        if "mask_image" in self.parameters(self._base):
            return self._base
        try:
            return self._other("mask_image", "AutoPipelineForInpainting")
        except UnsupportedParameter:
            return self.of_pictures()

    def _other(self, parameter: str, kind: str) -> Any:
        if parameter in self.parameters(self._base):
            return self._base
        if kind not in self._made:
            import diffusers

            try:
                made = getattr(diffusers, kind).from_pipe(self._base)
            except (ValueError, TypeError):
                raise UnsupportedParameter(
                    f"{type(self._base).__name__} draws from texts alone; it changes no pictures.", param="image"
                ) from None
            made.set_progress_bar_config(disable=True)
            self._made[kind] = place(made, self._options, self._device)  # offloading is of each pipeline
        return self._made[kind]


def open_pipeline(spec: WorkerSpec, options: DiffusionOptions | None = None) -> Any:
    """Load the pipeline that ``model_index.json`` names. Raises EngineMissing and ModelUnavailable."""
    try:
        import torch
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise EngineMissing("diffusion", extra="images", package=error.name) from None
    options = options or DiffusionOptions()
    if not (Path(spec.path or "") / "model_index.json").is_file():
        raise ModelUnavailable("The model's folder has no model_index.json. Pull the model again.")
    if spec.device == "cpu":
        torch.set_num_threads(spec.threads)
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            spec.path,
            torch_dtype=getattr(torch, _dtype(spec.device, options)),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        add_adapters(pipeline, options.lora)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelUnavailable(f"diffusers cannot open '{spec.model_id}': {str(error)[:300]}") from error
    pipeline.set_progress_bar_config(disable=True)
    return place(pipeline, options, spec.device)


def add_adapters(pipeline: Any, adapters: Iterable[PictureLora]) -> None:
    """Load LoRA adapters into a pipeline. Raises EngineMissing without the package for them."""
    names, scales = [], []
    for at, adapter in enumerate(adapters):
        name = f"adapter{at}"
        try:
            pipeline.load_lora_weights(
                str(adapter.path.parent), weight_name=adapter.path.name, adapter_name=name, use_safetensors=True
            )
        except ImportError as error:
            raise EngineMissing("diffusion", extra="images", package=error.name or "peft") from None
        names.append(name)
        scales.append(adapter.scale)
    if names:
        pipeline.set_adapters(names, adapter_weights=scales)


def place(pipeline: Any, options: DiffusionOptions, device: str) -> Any:
    """The pipeline on its device, in the way that its memory allows; returns it."""
    free = _free(device)
    offload = offload_of(options, _sizes(pipeline), free)
    if options.tiling or (options.tiling is None and (offload != "none" or options.max_pixels > _LARGE)):
        vae: Any = getattr(pipeline, "vae", None)
        if hasattr(vae, "enable_tiling"):
            vae.enable_tiling()
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline = pipeline.to(device)
    return pipeline


def offload_of(options: DiffusionOptions, sizes: Iterable[int], free: int | None) -> Offload:
    """The way of offloading for parts of these sizes; ``free`` is the device's memory, both in bytes.

    None of it is for a CPU, where weights are in main memory anyway.
    """
    if free is None:
        return "none"
    if options.offload != "auto":
        return options.offload
    parts = list(sizes)
    if sum(parts) * _BESIDE_ALL <= free:
        return "none"
    return "model" if max(parts, default=0) * _BESIDE_ONE <= free else "sequential"


def _dtype(device: str, options: DiffusionOptions) -> str:
    if options.dtype != "auto":
        return options.dtype
    if device == "cpu":
        return "float32"
    if device.startswith("cuda"):
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "float16"


def _free(device: str) -> int | None:
    """The free bytes of a device's own memory; None for one that shares main memory."""
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


def _sizes(pipeline: Any) -> list[int]:
    """The bytes of the weights of each part of a pipeline."""
    parts = [part for part in pipeline.components.values() if hasattr(part, "parameters")]
    return [sum(weight.numel() * weight.element_size() for weight in part.parameters()) for part in parts]
