"""Models in the shapes of ``/api/tags``, ``/api/show`` and ``/api/ps``. Source: Ollama's API reference."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from backends.workers.pool import WorkerView
from catalog.model import Capability, Model
from catalog.names.ollama import tagged
from catalog.types import Json
from server.wires.ollama.lines import rfc3339

SERVED = frozenset({Capability.CHAT, Capability.COMPLETION, Capability.EMBED})
"""Models with none of these have no place in Ollama's API."""
_CAPABILITIES = {
    Capability.CHAT: "completion",
    Capability.COMPLETION: "completion",
    Capability.TOOLS: "tools",
    Capability.VISION: "vision",
    Capability.REASONING: "thinking",
    Capability.EMBED: "embedding",
    Capability.AUDIO_INPUT: "audio",
}
NEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""The end of a model that stays loaded, or is in use."""
_FORMATS = {
    "llamacpp": "gguf",
    "llama-cpp-python": "gguf",
    "onnx": "onnx",
    "mlx": "safetensors",
    "vllm": "safetensors",
}
_FOR_MODES = frozenset({Capability.CHAT, Capability.COMPLETION})


def listed(row: Model, modified: datetime) -> Json:
    """A model in the list of all."""
    return {
        **_named(row.id),
        "modified_at": rfc3339(modified),
        "size": row.size.disk or 0,
        "digest": digest_of(row),
        "details": details(row),
        "capabilities": capabilities(row.capabilities),
    }


def listed_mode(name: str, rows: Iterable[Model], modified: datetime) -> Json:
    """A name under which the router chooses among ``rows``."""
    return {
        **_named(name),
        "modified_at": rfc3339(modified),
        "size": 0,
        "digest": sha256(name.encode()).hexdigest(),
        "details": _details("router", None, "", ""),
        "capabilities": capabilities(frozenset().union(*(row.capabilities for row in _choosable(rows)))),
    }


def shown(row: Model, modified: datetime) -> Json:
    """The details of one model."""
    info = _info(row.family or "unknown", context=row.limits.context_window, parameters=row.size.parameters)
    if row.limits.dimensions:
        info[f"{row.family or 'unknown'}.embedding_length"] = row.limits.dimensions
    return {
        **({"license": row.license} if row.license else {}),
        **_shown(row.id, row.limits.context_window),
        "details": details(row),
        "model_info": info,
        "capabilities": capabilities(row.capabilities),
        "modified_at": rfc3339(modified),
    }


def shown_mode(name: str, rows: Iterable[Model], modified: datetime) -> Json:
    """The details of a name under which the router chooses: what any of the models can."""
    entry = listed_mode(name, rows, modified)
    windows = [row.limits.context_window or 0 for row in _choosable(rows)]
    return {
        **_shown(name, None),
        "details": entry["details"],
        "model_info": _info("router", context=max(windows, default=0) or None, parameters=None),
        "capabilities": entry["capabilities"],
        "modified_at": entry["modified_at"],
    }


def loaded(row: Model, view: WorkerView, *, clock: float, wall: datetime) -> Json:
    """A loaded model. ``clock`` is the monotonic time of ``wall``."""
    left = None if view.expires_at is None else timedelta(seconds=max(0.0, view.expires_at - clock))
    return {
        **_named(row.id),
        "size": view.memory,
        "digest": digest_of(row),
        "details": details(row),
        "expires_at": rfc3339(NEVER if left is None else wall + left),
        "size_vram": 0 if view.device == "cpu" else view.memory,
        "context_length": row.limits.context_window or 0,
    }


def digest_of(row: Model) -> str:
    """An id of the row's content, which clients compare to notice a change."""
    return sha256(f"{row.id}\n{row.source.model_dump_json()}\n{row.size.quantization}".encode()).hexdigest()


def details(row: Model) -> Json:
    """Format, family, size and quantisation of a model."""
    size = _count(row.size.parameters)
    return _details(row.family or "", _FORMATS.get(row.engine or ""), size, row.size.quantization or "")


def capabilities(able: frozenset[Capability]) -> list[str]:
    """Ollama's names of what a model can."""
    return [
        name for name in dict.fromkeys(_CAPABILITIES.values()) if any(_CAPABILITIES.get(c) == name for c in able)
    ]


def _choosable(rows: Iterable[Model]) -> list[Model]:
    return [row for row in rows if row.capabilities & _FOR_MODES]


def _named(name: str) -> Json:
    return {"name": tagged(name), "model": tagged(name)}


def _details(family: str, kind: str | None, parameters: str, quantization: str) -> Json:
    return {
        "parent_model": "",
        "format": kind or "",
        "family": family,
        "families": [family] if family else None,
        "parameter_size": parameters,
        "quantization_level": quantization,
    }


def _info(family: str, *, context: int | None, parameters: int | None) -> Json:
    info: Json = {"general.architecture": family}
    if parameters:
        info["general.parameter_count"] = parameters
    if context:
        info[f"{family}.context_length"] = context
    return info


def _shown(name: str, context: int | None) -> Json:
    parameters = "" if context is None else f"num_ctx {context}"
    lines = [f"FROM {tagged(name)}", *(["PARAMETER " + parameters] if parameters else [])]
    return {"modelfile": "\n".join(lines) + "\n", "parameters": parameters, "template": ""}


def _count(parameters: int | None) -> str:
    """A count of weights as Ollama writes it: ``134.5M``, ``7.6B``."""
    if not parameters:
        return ""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.4g}{unit}"
    return str(parameters)
