"""Rows for models that are found, not configured: those of running servers and of files on disk; and upgrades.

Servers' documents are passed in; a higher layer fetches them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

from catalog.errors import RoundhouseError
from catalog.file_rows import default_id, gguf_facts
from catalog.model import (
    FREE,
    Capability,
    Endpoint,
    Limits,
    Model,
    PathSource,
    Price,
    Size,
    UpstreamSource,
)
from catalog.quantization import quantization_of
from catalog.types import Json

_ID = re.compile(r"^[\w][\w./:@+-]*$")
_PART = re.compile(r"-(\d{5})-of-\d{5}\.gguf$", re.IGNORECASE)

_BY_NAME: tuple[tuple[re.Pattern[str], frozenset[Capability]], ...] = (
    (re.compile(r"rerank", re.IGNORECASE), frozenset({Capability.RERANK})),
    (re.compile(r"embed|minilm|(^|[/_-])(bge|e5|gte)[-_]", re.IGNORECASE), frozenset({Capability.EMBED})),
    (re.compile(r"whisper|transcribe|parakeet|scribe", re.IGNORECASE), frozenset({Capability.TRANSCRIBE})),
    (re.compile(r"(^|[/_-])tts([-_]|$)|kokoro|piper|orpheus", re.IGNORECASE), frozenset({Capability.SPEAK})),
    (re.compile(r"gpt-image|dall-e|stable-diffusion|flux|sdxl", re.IGNORECASE), frozenset({Capability.IMAGE})),
)
"""Capabilities guessed from a name, as a server's list gives nothing else; without a match, a chat model."""

_OLLAMA = {
    "completion": frozenset({Capability.CHAT, Capability.COMPLETION, Capability.JSON_SCHEMA}),
    "tools": frozenset({Capability.TOOLS}),
    "vision": frozenset({Capability.VISION}),
    "thinking": frozenset({Capability.REASONING}),
    "embedding": frozenset({Capability.EMBED}),
    "audio": frozenset({Capability.AUDIO_INPUT}),
}
"""Ollama's names of capabilities (its API documentation, ``/api/tags`` and ``/api/show``)."""


# ---- servers


def rows_from_openai_models(endpoint: Endpoint, document: Json) -> list[Model]:
    """Make rows from ``GET /v1/models``. vLLM adds ``max_model_len``, which becomes the context window.

    Ids are ``endpoint/model``, with the bare name as alias. Entries without a usable name are skipped.
    """
    rows = []
    for entry in _entries(document, "data"):
        name = entry.get("id")
        if not _usable(name):
            continue
        context = entry.get("max_model_len") or entry.get("context_length") or entry.get("context_window")
        rows.append(
            _row(
                endpoint,
                name,
                capabilities=_guess(name),
                limits=Limits(context_window=context) if _positive(context) else Limits(),
            )
        )
    return rows


def rows_from_ollama_tags(
    endpoint: Endpoint, document: Json, details: Mapping[str, Json] = MappingProxyType({})
) -> list[Model]:
    """Make rows from Ollama's ``GET /api/tags``, which gives family, size and quantisation.

    ``details`` holds the documents of ``POST /api/show`` by model, as far as they were fetched: older versions
    give capabilities and context only there.
    """
    rows = []
    for entry in _entries(document, "models"):
        name = entry.get("model") or entry.get("name")
        if not _usable(name):
            continue
        facts = entry.get("details")
        facts = facts if isinstance(facts, dict) else {}
        shown = details.get(name, {})
        known = entry.get("capabilities") or shown.get("capabilities")
        capabilities: frozenset[Capability] = frozenset()
        if isinstance(known, list):
            capabilities = frozenset().union(*(_OLLAMA.get(str(word), frozenset()) for word in known))
        context = entry.get("context_length") or facts.get("context_length") or _shown_context(shown)
        size = entry.get("size")
        rows.append(
            _row(
                endpoint,
                name,
                capabilities=capabilities or _guess(f"{name} {facts.get('family', '')}"),
                family=str(facts["family"]) if facts.get("family") else None,
                limits=Limits(context_window=context) if _positive(context) else Limits(),
                size=Size(
                    parameters=_count(facts.get("parameter_size")),
                    disk=size if _positive(size) else None,
                    quantization=str(facts.get("quantization_level") or "") or None,
                ),
            )
        )
    return rows


def _shown_context(shown: Json) -> Any:
    info = shown.get("model_info")
    if not isinstance(info, dict):
        return None
    return info.get(f"{info.get('general.architecture')}.context_length")


def _row(endpoint: Endpoint, name: str, **fields: Any) -> Model:
    return Model(
        id=f"{endpoint.id}/{name}",
        aliases=(name,),
        provider=endpoint.id,
        source=UpstreamSource(endpoint=endpoint.id, model=name),
        price=FREE if endpoint.private else Price(),
        tags=endpoint.tags | {"discovered"},
        origin="discovered",
        **fields,
    )


def _entries(document: Json, key: str) -> list[Json]:
    listed = document.get(key) if isinstance(document, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _usable(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and len(name) <= 150 and _ID.match(name) is not None


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _guess(name: str) -> frozenset[Capability]:
    for pattern, capabilities in _BY_NAME:
        if pattern.search(name):
            return capabilities
    return frozenset({Capability.CHAT, Capability.COMPLETION})


def _count(text: Any) -> int | None:
    """Parse a count such as ``8.0B``."""
    match = re.fullmatch(r"([\d.]+)([KMBT])", str(text or ""))
    if match is None:
        return None
    return round(float(match[1]) * {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}[match[2]])


# ---- disk


def rows_from_folder(folder: Path) -> list[Model]:
    """Make a row for each GGUF file under ``folder``; links are followed, as in the Hugging Face cache.

    A split model is represented by its first part. Projectors, importance matrices and other files are skipped.
    """
    rows: dict[str, Model] = {}
    if not folder.is_dir():
        return []
    for path in sorted(folder.rglob("*.gguf")):
        part = _PART.search(path.name)
        if "mmproj" in path.name.lower() or "imatrix" in path.name.lower() or not path.is_file():
            continue
        if part is not None and part[1] != "00001":
            continue
        row = _file_row(path)
        if row is not None:
            rows.setdefault(row.id, row)
    return list(rows.values())


def hugging_face_cache() -> Path:
    """The folder where ``huggingface_hub`` keeps its snapshots."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _file_row(path: Path) -> Model | None:
    try:
        facts = gguf_facts(path)
        size = path.stat().st_size
    except (RoundhouseError, OSError):
        return None
    described: Size = facts.pop("size")
    return Model(
        id=default_id(path.name),
        engine="llamacpp",
        source=PathSource(path=str(path)),
        price=FREE,
        tags=frozenset({"discovered"}),
        origin="discovered",
        size=described.model_copy(update={"disk": size, "quantization": quantization_of(path.name)}),
        **facts,
    )


# ---- upgrades


def upgrades(
    installed: Iterable[Model], catalog: Iterable[Model], fits: Callable[[Model], bool]
) -> dict[str, Model]:
    """Map the id of each installed model that has an upgrade to the row of that upgrade.

    An upgrade is the last row in the chain of ``successor`` that fits; without a successor, the newest version of
    the same family with at least the same capabilities and at most twice the parameters. ``fits`` tells whether a
    model fits on this machine.
    """
    rows = {row.id: row for row in catalog}
    found: dict[str, Model] = {}
    for model in installed:
        better = _successor(model, rows, fits) or _newer(model, rows.values(), fits)
        if better is not None:
            found[model.id] = better
    return found


def _successor(model: Model, rows: dict[str, Model], fits: Callable[[Model], bool]) -> Model | None:
    best: Model | None = None
    seen = {model.id}
    current = model
    while current.successor and current.successor not in seen and current.successor in rows:
        current = rows[current.successor]
        seen.add(current.id)
        if fits(current):
            best = current
    return best


def _newer(model: Model, rows: Iterable[Model], fits: Callable[[Model], bool]) -> Model | None:
    if model.family is None or model.version is None or not model.local:
        return None
    weights = model.size.parameters

    def comparable(other: Model) -> bool:
        if weights is None or other.size.parameters is None:
            return False
        return other.size.parameters <= 2 * weights

    newer = [
        other
        for other in rows
        if other.local
        and other.family == model.family
        and other.version is not None
        and _numbers(other.version) > _numbers(model.version)
        and model.capabilities <= other.capabilities
        and comparable(other)
        and fits(other)
    ]
    return max(newer, key=lambda other: (_numbers(other.version or ""), other.size.parameters or 0), default=None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
