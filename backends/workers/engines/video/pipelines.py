"""Pipelines of diffusers that make videos: how each is opened, and the shapes and arguments that it takes.

Text, a first frame and a source video are three pipelines of diffusers around the same weights: one is made of
another without a copy. Source: diffusers' pages on video generation.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from backends.workers.spec import WorkerSpec
from catalog.errors import CapabilityMismatch, EngineMissing, InvalidRequest, ModelUnavailable

Kind = Literal["text", "image", "video"]

_FAMILIES: Mapping[str, Mapping[Kind, str]] = {
    "Wan": {"text": "WanPipeline", "image": "WanImageToVideoPipeline", "video": "WanVideoToVideoPipeline"},
    "LTX2": {"text": "LTX2Pipeline", "image": "LTX2ImageToVideoPipeline"},
    "LTX": {"text": "LTXPipeline", "image": "LTXImageToVideoPipeline", "video": "LTXConditionPipeline"},
    "CogVideoX": {
        "text": "CogVideoXPipeline",
        "image": "CogVideoXImageToVideoPipeline",
        "video": "CogVideoXVideoToVideoPipeline",
    },
    "HunyuanVideo": {"text": "HunyuanVideoPipeline", "image": "HunyuanVideoImageToVideoPipeline"},
}
"""Pipelines by the beginning of their names; the first that matches counts."""
_SIDES = {"LTX": 32}
"""Multiples of a side that a pipeline demands, whatever its autoencoder is."""


@dataclass(slots=True)
class VideoPipelines:
    """A model's pipelines by what a video is made from. ``first`` is the one that its folder names."""

    model: str
    first: Any
    device: str
    made: dict[Kind, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = type(self.first).__name__
        self.made[_kind_of(name)] = self.first

    def of(self, kind: Kind) -> Any:
        """The pipeline for what a video is made from. Raises CapabilityMismatch for one that the model has not."""
        if kind not in self.made:
            if not self._can(kind):
                raise _cannot(self.model, kind)
            self.made[kind] = self._other(kind)
        return self.made[kind]

    def _can(self, kind: Kind) -> bool:
        """Whether the weights are made for it: Wan's for text lack the channels of a first frame, unless they are
        of the kind that holds noise per frame."""
        if kind == "text" and _kind_of(type(self.first).__name__) == "image":
            return False
        if kind == "image" and type(self.first).__name__.startswith("Wan"):
            return bool(getattr(self.first.config, "expand_timesteps", False))
        return True

    def _other(self, kind: Kind) -> Any:
        import diffusers

        family = next((each for each in _FAMILIES if type(self.first).__name__.startswith(each)), None)
        name = None if family is None else _FAMILIES[family].get(kind)
        wanted = None if name is None else getattr(diffusers, name, None)
        if wanted is None:
            raise _cannot(self.model, kind)
        # Not by ``from_pipe``, which casts all weights to one type.
        taken = inspect.signature(wanted.__init__).parameters
        given = {**dict(self.first.config), **self.first.components}
        try:
            pipeline = wanted(**{name: given[name] for name in taken if name in given})
        except (TypeError, ValueError):
            raise _cannot(self.model, kind) from None
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @property
    def grid(self) -> tuple[int, int]:
        """Width and height are multiples of the first, and frames one more than a multiple of the second."""
        pipeline = self.first
        spatial = _first_of(
            pipeline, "vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor"
        )
        temporal = _first_of(pipeline, "vae_scale_factor_temporal", "vae_temporal_compression_ratio")
        patch = getattr(getattr(pipeline, "transformer", None), "config", None)
        size = getattr(patch, "patch_size", 1)
        side = size[-1] if isinstance(size, tuple | list) else size
        multiple = next((each for name, each in _SIDES.items() if type(pipeline).__name__.startswith(name)), 1)
        return math.lcm((spatial or 8) * (side or 1), multiple), temporal or 4

    @property
    def sample_rate(self) -> int:
        """Hz of the sound that the model makes beside the pictures."""
        vocoder = getattr(getattr(self.first, "vocoder", None), "config", None)
        return int(getattr(vocoder, "output_sampling_rate", None) or 24_000)


def open_pipelines(spec: WorkerSpec) -> VideoPipelines:
    """Load the pipeline that ``model_index.json`` names. Raises EngineMissing and ModelUnavailable.

    On an accelerator the weights are in half precision. Those that do not fit beside the pictures wait in the
    machine's memory until their part of the work begins, and the autoencoder decodes in tiles.
    """
    try:
        import torch
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise EngineMissing("diffusion-video", extra="video", package=error.name) from None
    if not (Path(spec.path or "") / "model_index.json").is_file():
        raise ModelUnavailable("The model's folder has no model_index.json. Pull the model again.")
    if spec.device == "cpu":
        torch.set_num_threads(spec.threads)
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            spec.path,
            torch_dtype=torch.float32 if spec.device == "cpu" else torch.bfloat16,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelUnavailable(f"diffusers cannot open '{spec.model_id}': {str(error)[:300]}") from error
    pipeline.set_progress_bar_config(disable=True)
    if "num_frames" not in inspect.signature(pipeline).parameters:
        raise ModelUnavailable(f"'{spec.model_id}' makes no videos: its pipeline takes no number of frames.")
    if spec.device != "cpu":
        _place(pipeline, spec.device)
    if hasattr(getattr(pipeline, "vae", None), "enable_tiling"):
        pipeline.vae.enable_tiling()
    return VideoPipelines(spec.model_id, pipeline, spec.device)


def _place(pipeline: Any, device: str) -> None:
    """Put the weights on the device, or only the part that is at work if all do not fit with some room."""
    import torch

    size = sum(
        parameter.numel() * parameter.element_size()
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for parameter in part.parameters()
    )
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(torch.device(device))
        if size * 1.25 > free:
            pipeline.enable_model_cpu_offload(device=device)
            return
    pipeline.to(device)


@dataclass(frozen=True, slots=True)
class VideoShape:
    """The size and length that a pipeline is asked for, and the part that is cut out.

    ``width`` and ``height`` are those of the video, ``frames`` its pictures at ``fps``; ``made`` is the size that
    the pipeline makes (width, height, frames), each at least as large.
    """

    width: int
    height: int
    frames: int
    fps: float
    made: tuple[int, int, int]


def shape_of(width: int, height: int, seconds: float, fps: float, grid: tuple[int, int], most: int) -> VideoShape:
    """The shape of a video. ``most`` bounds the pixels of all its frames.

    Raises InvalidRequest for odd sides, which H.264 does not have, and for too many pixels.
    """
    if width % 2 or height % 2:
        raise InvalidRequest("Width and height must be even.", param="size")
    side, stride = grid
    frames = max(1, round(seconds * fps))
    made = (
        math.ceil(width / side) * side,
        math.ceil(height / side) * side,
        math.ceil((frames - 1) / stride) * stride + 1,
    )
    pixels = made[0] * made[1] * made[2]
    if pixels > most:
        raise InvalidRequest(
            f"{frames} frames of {width}x{height} are {pixels:,} pixels; a video has at most {most:,} here. Ask "
            "for fewer 'seconds', a smaller 'size' or lower 'fps'. The operator can raise the option max_pixels.",
            param="size",
        )
    return VideoShape(width, height, frames, fps, made)


def _kind_of(name: str) -> Kind:
    if "ImageToVideo" in name:
        return "image"
    return "video" if "VideoToVideo" in name or "Condition" in name else "text"


def _first_of(pipeline: Any, *names: str) -> int | None:
    return next((value for name in names if isinstance(value := getattr(pipeline, name, None), int)), None)


def _cannot(model: str, kind: Kind) -> CapabilityMismatch:
    told = {"text": "a first frame: send 'input_reference'", "image": "no first frame", "video": "no other video"}
    return CapabilityMismatch(
        f"'{model}' takes {told[kind]}.", param="video" if kind == "video" else "input_reference"
    )
