"""The process that paints: ``child.py DESCRIPTOR``, on a connection to the worker, with cyllama's bindings.

stable-diffusion.cpp, as cyllama has it (its revision of May 2026), cannot be stopped between steps. So it runs
apart from the worker, which ends this process when a caller leaves and starts another. Messages are tuples of a
kind and a value: ``ready`` or ``failed`` once; then for each job ``step`` (its number, and a picture in the making
or None), and ``done`` with the picture or ``error`` with the reason. Pictures are ``(width, height, RGB bytes)``.
"""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from typing import Any

Pixels = tuple[int, int, bytes]
Job = dict[str, Any]
_PATHS = {
    "vae": "vae_path",
    "taesd": "taesd_path",
    "clip_l": "clip_l_path",
    "clip_g": "clip_g_path",
    "t5xxl": "t5xxl_path",
    "llm": "llm_path",
    "llm_vision": "llm_vision_path",
}
"""Names of options by cyllama's names of the files of a model."""


class CppPainter:
    """A loaded model. ``settings`` are those of :func:`engine.settings_of`. Raises what cyllama raises."""

    def __init__(self, settings: Job) -> None:
        from cyllama import sd

        self._sd = sd
        self._settings = settings
        sd.set_log_callback(_log)
        params = sd.SDContextParams()
        name = "diffusion_model_path" if settings["parts"] else "model_path"
        setattr(params, name, settings["path"])
        for option, path in _PATHS.items():
            if settings[option] is not None:
                setattr(params, path, settings[option])
        params.n_threads = settings["threads"]
        params.vae_decode_only = False
        params.free_params_immediately = False  # the model paints more than once
        params.enable_mmap = True
        params.tae_preview_only = settings["taesd"] is not None and not settings["taesd_only"]
        params.diffusion_flash_attn = settings["flash_attention"]
        params.offload_params_to_cpu = settings["offload"]
        params.keep_clip_on_cpu = settings["text_on_cpu"]
        params.keep_vae_on_cpu = settings["vae_on_cpu"]
        self._context = sd.SDContext(params)

    def paint(self, job: Job, connection: Connection) -> Pixels:
        """Paint one picture, and tell of each step. Raises RuntimeError if stable-diffusion.cpp fails."""
        sd, settings = self._sd, self._settings
        params = sd.SDImageGenParams(
            prompt=job["prompt"],
            negative_prompt=job["negative_prompt"],
            width=job["width"],
            height=job["height"],
            seed=job["seed"],
            sample_steps=job["scheduled"],
            cfg_scale=job["cfg_scale"],
            strength=job["strength"],
            sample_method=_named(sd.SampleMethod, settings["sampler"], sd.SampleMethod.COUNT),
            scheduler=_named(sd.Scheduler, settings["scheduler"], sd.Scheduler.COUNT),
        )
        sampling = params.sample_params
        sampling.distilled_guidance = job["distilled_guidance"]
        if settings["flow_shift"] is not None:
            sampling.flow_shift = settings["flow_shift"]
        params.sample_params = sampling
        params.vae_tiling_enabled = job["tiling"]
        if settings["lora"]:
            params.set_loras(settings["lora"])
        self._give_pictures(params, job)
        self._tell(job, connection)
        (image,) = self._context.generate_with_params(params)
        return _pixels(image)

    def _give_pictures(self, params: Any, job: Job) -> None:
        pictures = [self._image(pixels, 3) for pixels in job["pictures"]]
        if pictures and self._settings["reference"]:
            params.set_ref_images(pictures)
        elif pictures:
            params.set_init_image(pictures[0])
            if job["mask"] is not None:
                params.set_mask_image(self._image(job["mask"], 1))

    def _image(self, pixels: Pixels, channels: int) -> Any:
        import numpy as np

        width, height, data = pixels
        form = (height, width, channels) if channels > 1 else (height, width)
        return self._sd.SDImage.from_numpy(np.frombuffer(data, np.uint8).reshape(form).copy())

    def _tell(self, job: Job, connection: Connection) -> None:
        """Send each step of the sampling; other work of stable-diffusion.cpp reports progress, too."""
        sd, steps, wanted = self._sd, job["steps"], job["partial"]
        seen: dict[int, Pixels] = {}

        def glimpsed(step: int, frames: list[Any], noisy: bool) -> None:
            if step in wanted and frames and not noisy:
                seen[step] = _pixels(frames[0])

        def progressed(step: int, total: int, _seconds: float) -> None:
            if step > 0 and abs(total - steps) <= 1:
                connection.send(("step", (step, seen.pop(step, None))))

        mode = sd.PreviewMode.TAE if self._settings["taesd"] is not None else sd.PreviewMode.PROJ
        if wanted:
            sd.set_preview_callback(glimpsed, mode, 1, True, False)
        else:
            sd.set_preview_callback(None, sd.PreviewMode.NONE, 1, False, False)
        sd.set_progress_callback(progressed)


def _named(enumeration: Any, name: str | None, usual: Any) -> Any:
    return usual if name is None else enumeration[name.upper()]


def _pixels(image: Any) -> Pixels:
    array = image.to_numpy()[:, :, :3]
    return array.shape[1], array.shape[0], array.tobytes()


def _log(level: int, text: str) -> None:
    if level >= 1:  # not the details, of which each step has some
        sys.stderr.write(text if text.endswith("\n") else text + "\n")


def main() -> None:
    """Load the model that the first message names, then paint until the connection ends."""
    connection = Connection(int(sys.argv[1]))
    os.dup2(2, 1)  # native code prints to standard output
    try:
        painter = CppPainter(connection.recv())
    except (ImportError, KeyError, OSError, RuntimeError, ValueError) as error:
        connection.send(("failed", str(error)))
        return
    connection.send(("ready", None))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("done", painter.paint(job, connection)))
        except (RuntimeError, ValueError) as error:
            connection.send(("error", str(error)))


if __name__ == "__main__":
    main()
