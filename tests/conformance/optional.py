"""Engines with separate environments, and their models, both built by ``make engines``.

Their rows are part of the suite if ``ROUNDHOUSE_ENGINES`` names the folder of that build, with
``<engine>/bin/python`` and ``models/<model>``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from backends.workers.engines.registry import Engines, builtin_engines
from catalog.model import Capability, Model, PathSource

_FOLDER = os.environ.get("ROUNDHOUSE_ENGINES")
_PICTURES = frozenset({Capability.IMAGE, Capability.IMAGE_EDIT})
_LANGUAGE = frozenset({Capability.CHAT, Capability.COMPLETION, Capability.JSON_SCHEMA})


_FILMERS = {
    "wan": frozenset({Capability.VIDEO_INPUT}),
    "ltx": frozenset({Capability.VIDEO_INPUT, Capability.VISION}),
}
_SMALL = {"size": "64x32", "steps": 4, "fps": 4}


def _row(engine: str, folder: str, capabilities: frozenset[Capability], **fields: object) -> Model:
    path = str(Path(_FOLDER or "") / "models" / folder)
    return Model.model_validate(
        {
            "id": f"{folder}-{engine}",
            "engine": engine,
            "capabilities": capabilities,
            "source": PathSource(path=path),
            **fields,
        }
    )


def _rows() -> list[Model]:
    return [
        _row("mlx", "smollm2", _LANGUAGE),
        _row("vllm", "smollm2", _LANGUAGE, options={"cpu_kv_cache_gib": 1, "enforce_eager": True}),
        _row("llama-cpp-python", "smollm2.gguf", _LANGUAGE),
        *(
            _row("diffusion-video", name, frozenset({Capability.VIDEO, *more}), options=_SMALL)
            for name, more in _FILMERS.items()
        ),
        _row("diffusion", "painter", _PICTURES, options={"size": "64x64", "steps": 4}),
        _row("diffusion", "flow-painter", _PICTURES, options={"size": "64x64", "steps": 4, "tiling": True}),
        _row(
            "diffusion",
            "painter",
            _PICTURES,
            id="inked-diffusion",
            options={
                "size": "64x64",
                "steps": 4,
                "lora": [
                    {"path": str(Path(_FOLDER or "").absolute() / "models/painter/ink.safetensors"), "scale": 0.9}
                ],
            },
        ),
        _row(
            "stable-diffusion-cpp",
            "flux/flux.gguf",
            _PICTURES,
            id="flux-stable-diffusion-cpp",
            options={
                "size": "64x64",
                "steps": 4,
                "guidance_scale": 1.0,
                "taesd_only": True,
                "taesd": str(Path(_FOLDER or "").absolute() / "models/flux/taesd.safetensors"),
            },
        ),
    ]


def pythons() -> Mapping[str, Path]:
    """Return the built interpreters, by engine."""
    if _FOLDER is None:
        return {}
    found = {str(row.engine): Path(_FOLDER).absolute() / str(row.engine) / "bin" / "python" for row in _rows()}
    return {engine: python for engine, python in found.items() if python.exists()}


def eyes() -> Path:
    """Return the folder of the small model of MLX that sees."""
    return Path(_FOLDER or "").absolute() / "models" / "eyes"


def models() -> dict[str, Model]:
    """Return the rows of the built engines, by id."""
    return {row.id: row for row in _rows() if row.engine in pythons()}


def engines() -> Engines:
    """Return the table of engines, with the built environments."""
    return builtin_engines(pythons())
