"""Serves pictures of a process that runs stable-diffusion.cpp (:mod:`.child`), which ends when its caller leaves.

A model is one file with all its parts, or a file of the diffusion model, whose text encoders and autoencoder are
options. Source: stable-diffusion.cpp's documentation.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from backends.wire.images import ImageRequest
from backends.workers.engines.common.options import UserPath, read_options
from backends.workers.engines.pictures.loading import PictureLora
from backends.workers.engines.pictures.painting import Painting, PictureEngine, PictureOptions, Stroke
from backends.workers.engines.stable_diffusion_cpp.child import Pixels
from backends.workers.program.app import serve_engine
from backends.workers.program.threads import CancelSignal
from backends.workers.spec import Ready, WorkerSpec
from catalog.errors import EngineMissing, ModelUnavailable, RequestFailed, UnsupportedValue
from catalog.types import Json

_CHILD = "backends.workers.engines.stable_diffusion_cpp.child"
_LOOK = 0.05
"""Seconds between two looks at whether the caller has left."""
_NO_GUIDANCE = 1.0
_USUAL_GUIDANCE, _USUAL_DISTILLED = 7.0, 3.5
_LARGE = 1_500_000
"""Pixels from which a picture is decoded in tiles."""

Sampler = Literal[
    "euler", "euler_a", "heun", "dpm2", "dpmpp2s_a", "dpmpp2m", "dpmpp2mv2", "ipndm", "ipndm_v", "lcm",
    "ddim_trailing", "tcd", "res_multistep", "res_2s",
]  # fmt: skip
Schedule = Literal[
    "discrete", "karras", "exponential", "ays", "gits", "sgm_uniform", "simple", "smoothstep", "kl_optimal", "lcm",
    "bong_tangent",
]  # fmt: skip


class StableDiffusionCppOptions(PictureOptions):
    """The ``options`` of a catalogue row. With a text encoder among them, the model's file is its diffusion
    part."""

    vae: UserPath | None = Field(default=None, description="file of the autoencoder")
    taesd: UserPath | None = Field(default=None, description="file of the small autoencoder, for partial pictures")
    taesd_only: bool = Field(default=False, description="it decodes finished pictures, too: fast, and coarser")
    clip_l: UserPath | None = Field(default=None, description="file of the text encoder CLIP-L")
    clip_g: UserPath | None = Field(default=None, description="file of the text encoder CLIP-G")
    t5xxl: UserPath | None = Field(default=None, description="file of the text encoder T5-XXL")
    llm: UserPath | None = Field(default=None, description="file of a language model that encodes texts")
    llm_vision: UserPath | None = Field(default=None, description="file of its projector for pictures")
    lora: tuple[PictureLora, ...] = Field(default=(), max_length=16, description="adapters that change the model")
    sampler: Sampler | None = Field(default=None, description="sampling method; by default the model's own")
    scheduler: Schedule | None = Field(default=None, description="noise schedule; by default the model's own")
    flow_shift: float | None = Field(default=None, description="shift of flow models (SD3, Wan)")
    distilled: bool = Field(default=False, description="guidance_scale is an input of the model, as FLUX has it")
    reference: bool = Field(
        default=False,
        description="pictures to change are references of the prompt (FLUX Kontext, Qwen-Image-Edit)",
    )
    flash_attention: bool = Field(default=False, description="attention in less memory")
    offload: bool = Field(default=False, description="weights wait in main memory until they are used")
    text_on_cpu: bool = Field(default=False, description="text encoders run on the CPU")
    vae_on_cpu: bool = Field(default=False, description="the autoencoder runs on the CPU")
    tiling: bool | None = Field(
        default=None, description="pictures are decoded in tiles; by default if they are large"
    )


def serve(spec: WorkerSpec, ready: Ready) -> None:
    """Run the worker; see ``backends.workers.spec.EngineEntryPoint``. Raises as ``load`` does."""
    serve_engine(spec, StableDiffusionCppEngine(spec), ready)


def model_file(spec: WorkerSpec) -> Path | None:
    """The file of the model; that of a folder is the only one with weights, as a pull of one file leaves it."""
    path = Path(spec.path or "")
    if path.is_file():
        return path
    found = [file for file in sorted(path.glob("*")) if file.suffix in (".gguf", ".safetensors")]
    return found[0] if spec.path and len(found) == 1 else None


def settings_of(spec: WorkerSpec, options: StableDiffusionCppOptions) -> Json:
    """The description of the model for the painting process."""
    encoders = ("clip_l", "clip_g", "t5xxl", "llm")
    paths = {
        name: None if (path := getattr(options, name)) is None else str(path)
        for name in (*encoders, "vae", "taesd", "llm_vision")
    }
    lora = [{"path": str(one.path), "multiplier": one.scale} for one in options.lora]
    told = (
        *("sampler", "scheduler", "flow_shift", "reference", "taesd_only"),
        *("flash_attention", "offload", "text_on_cpu", "vae_on_cpu"),
    )
    return {
        "path": str(model_file(spec)),
        "parts": any(paths[name] for name in encoders),
        "threads": spec.threads,
        "device": spec.device,
        "lora": lora,
        **paths,
        **{name: getattr(options, name) for name in told},
    }


def devices(device: str) -> Mapping[str, str]:
    """The environment that shows a process its device alone, where it may choose among NVIDIA's."""
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    return {"CUDA_VISIBLE_DEVICES": index} if kind == "cuda" and index else {}


class PainterProcess:
    """The painting process. It is killed at any time without harm to the worker."""

    command: ClassVar[tuple[str, ...]] = (sys.executable, "-m", _CHILD)

    def __init__(self, settings: Json) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 -- an argument list, no shell
                (*self.command, str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **devices(settings["device"])},
            )
        self._connection = Connection(ours.detach())
        self._connection.send(settings)
        self._ready = False

    def wait_ready(self, cancel: CancelSignal | None = None) -> None:
        """Wait until the model is loaded. Raises ModelUnavailable that says why it is not, and WorkCancelled."""
        if self._ready:
            return
        kind, value = self.receive(cancel)
        if kind != "ready":
            raise ModelUnavailable(f"stable-diffusion.cpp cannot open the model: {str(value)[:300]}")
        self._ready = True

    def send(self, job: Json) -> None:
        self._connection.send(job)

    def receive(self, cancel: CancelSignal | None = None) -> tuple[str, Any]:
        """The next message. Raises RequestFailed if the process ends, and WorkCancelled."""
        while not self._connection.poll(_LOOK):
            if cancel is not None:
                cancel.check()
        try:
            kind, value = self._connection.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            raise RequestFailed(f"stable-diffusion.cpp ended with exit code {code}.") from None
        return kind, value

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()


class StableDiffusionCppEngine(PictureEngine):
    """Paints in a process of its own, which is replaced after a cancelled or failed picture."""

    _options: StableDiffusionCppOptions

    def __init__(self, spec: WorkerSpec, *, start: type[PainterProcess] = PainterProcess) -> None:
        super().__init__()
        self._spec = spec
        self._start = start
        self._process: PainterProcess | None = None

    def load(self) -> None:
        self._options = read_options(StableDiffusionCppOptions, "stable-diffusion-cpp", self._spec.options)
        if self._start is PainterProcess and find_spec("cyllama") is None:
            raise EngineMissing("stable-diffusion-cpp", extra="stable-diffusion-cpp", package="cyllama")
        if model_file(self._spec) is None:
            raise ModelUnavailable("The model's file is missing. Pull the model again.")
        self._settings = settings_of(self._spec, self._options)
        self._running().wait_ready()

    def close(self) -> None:
        super().close()
        if self._process is not None:
            self._process.kill()

    def without_effect(self, request: ImageRequest) -> list[str]:
        named = []
        if self._options.reference:
            known = ("strength", "input_fidelity")
            named += [name for name in known if getattr(request, name, None) not in (None, "low")]
        if request.negative_prompt and self._guidance(request.guidance_scale)[0] <= _NO_GUIDANCE:
            named.append("negative_prompt")
        return named

    def paint(self, painting: Painting, seed: int, cancel: CancelSignal) -> Generator[Stroke, None, Any]:
        job = self._job(painting, seed)
        process = self._running()
        try:
            process.wait_ready(cancel)
        except (ModelUnavailable, RequestFailed):  # the next request tries anew
            process.kill()
            self._process = None
            raise
        finished = False
        try:
            process.send(job)
            while True:
                kind, value = process.receive(cancel)
                if kind == "step":
                    step, glimpse = value
                    yield Stroke(step, None if glimpse is None else _picture(glimpse, painting))
                    continue
                finished = True
                if kind != "done":
                    raise RequestFailed(f"stable-diffusion.cpp failed: {str(value)[:300]}")
                return _picture(value, painting)
        finally:
            if not finished:
                process.kill()
                self._process = None
                self._running()  # it loads the model anew meanwhile

    def _running(self) -> PainterProcess:
        if self._process is None:
            self._process = self._start(self._settings)
        return self._process

    def _guidance(self, asked: float | None) -> tuple[float, float]:
        """The classifier-free guidance, and the one that is an input of the model."""
        given = self._options.guidance_scale if asked is None else asked
        if self._options.distilled:
            return _NO_GUIDANCE, _USUAL_DISTILLED if given is None else given
        return max(_NO_GUIDANCE, _USUAL_GUIDANCE if given is None else given), _USUAL_DISTILLED

    def _job(self, painting: Painting, seed: int) -> Json:
        canvas, reference = painting.canvas, self._options.reference
        if len(canvas.sources) > 1 and not reference:
            raise UnsupportedValue(
                f"'{self._spec.model_id}' changes one picture at a time; {len(canvas.sources)} were sent.",
                param="image",
            )
        changes = bool(canvas.sources) and not reference
        scale, distilled = self._guidance(painting.guidance)
        pixels = canvas.width * canvas.height
        return {
            "prompt": painting.prompt,
            "negative_prompt": painting.negative_prompt or "",
            "width": canvas.width,
            "height": canvas.height,
            "seed": seed % 2**63,
            "steps": painting.steps,
            "scheduled": scheduled(painting.steps, painting.strength) if changes else painting.steps,
            "strength": painting.strength,
            "cfg_scale": scale,
            "distilled_guidance": distilled,
            "tiling": pixels > _LARGE if self._options.tiling is None else self._options.tiling,
            "pictures": [(*picture.size, picture.tobytes()) for picture in canvas.sources],
            "mask": None if canvas.mask is None else (*canvas.mask.size, canvas.mask.tobytes()),
            "partial": set(painting.partial),
        }


def scheduled(steps: int, strength: float) -> int:
    """The schedule of which a picture that may change by ``strength`` makes the last ``steps``.

    stable-diffusion.cpp makes one step more than the strength's share.
    """
    return steps if strength >= 1 else max(1, math.ceil((steps - 1) / strength))


def _picture(pixels: Pixels, painting: Painting) -> Any:
    from PIL import Image

    width, height, data = pixels
    image = Image.frombytes("RGB", (width, height), data)
    size = painting.canvas.width, painting.canvas.height
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
