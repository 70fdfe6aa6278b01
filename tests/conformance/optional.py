"""Engines that need an environment of their own, and models for them: ``make engines`` builds both.

Their rows are in the suite when ``ROUNDHOUSE_ENGINES`` names the folder built: ``<engine>/bin/python`` and
``models/<model>``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from backends.workers.engines.registry import Engines, builtin_engines
from catalog.model import Capability, Model, PathSource

_FOLDER = os.environ.get("ROUNDHOUSE_ENGINES")
_LANGUAGE = frozenset({Capability.CHAT, Capability.COMPLETION, Capability.JSON_SCHEMA})


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
        _row("diffusion", "painter", frozenset({Capability.IMAGE}), options={"size": "64x64", "steps": 4}),
    ]


def pythons() -> Mapping[str, Path]:
    """The interpreters that were built, by engine."""
    if _FOLDER is None:
        return {}
    found = {str(row.engine): Path(_FOLDER).absolute() / str(row.engine) / "bin" / "python" for row in _rows()}
    return {engine: python for engine, python in found.items() if python.exists()}


def models() -> dict[str, Model]:
    """The rows of the engines that were built, by id."""
    return {row.id: row for row in _rows() if row.engine in pythons()}


def engines() -> Engines:
    """All engines, each with the interpreter of its environment."""
    return builtin_engines(pythons())
