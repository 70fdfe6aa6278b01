"""The rows of the models that an Ollama has, from as many of its routes as it serves.

``/api/tags`` lists them, ``/api/show`` has a model's abilities and context length, ``/api/ps`` the context length
with which a loaded one runs. Old versions, proxies and servers that only look like Ollama lack some of them: the
rows are made of what is there, and of ``/v1/models`` where nothing else lists. Source: Ollama's API reference.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from backends.base import Upstream
from backends.http import HttpClient
from backends.ollama.errors import read_ollama_error
from backends.openai.models import rows_from_models
from backends.translation import reading
from catalog.discovery import MAX_LISTED, FoundRows, discovered_rows, is_positive, listed_entries
from catalog.errors import PathMissing, RoundhouseError, UpstreamTimeout, UpstreamUnreachable
from catalog.model import Capability, Endpoint, Size
from catalog.types import Json

AT_ONCE = 8
"""Models whose details are asked for at the same time."""

_CAPABILITIES = {
    "completion": frozenset({Capability.CHAT, Capability.COMPLETION, Capability.JSON_SCHEMA}),
    "tools": frozenset({Capability.TOOLS}),
    "vision": frozenset({Capability.VISION}),
    "thinking": frozenset({Capability.REASONING}),
    "embedding": frozenset({Capability.EMBED}),
    "audio": frozenset({Capability.AUDIO_INPUT}),
}
"""Ollama's names of capabilities (its API documentation, ``/api/tags`` and ``/api/show``)."""

Details = Mapping[str, Json]


class Shown:
    """The answers of ``/api/show``, kept while a model's digest stays: they are not asked for at every scan."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], Json] = {}

    async def of(self, http: HttpClient, root: Upstream, entries: list[Json]) -> Details:
        """The details of the models by name, as far as the server has them. Raises UpstreamUnreachable."""
        found: dict[str, Json] = {}
        turns = asyncio.Semaphore(AT_ONCE)
        missing = False

        async def ask(name: str, digest: str) -> None:
            nonlocal missing
            known = self._known.get((root.base_url, name, digest)) if digest else None
            async with turns:
                if known is None and not missing:
                    known, missing = await _shown(http, root, name)
            if known:
                found[name] = known
                self._known[(root.base_url, name, digest)] = known

        asked = {name: str(entry.get("digest") or "") for entry in entries if (name := name_of(entry))}
        async with asyncio.TaskGroup() as tasks:
            for name, digest in asked.items():
                tasks.create_task(ask(name, digest))
        here = {(root.base_url, name, digest) for name, digest in asked.items()}
        self._known = {key: value for key, value in self._known.items() if key[0] != root.base_url or key in here}
        return found


async def list_models(http: HttpClient, root: Upstream, server: Endpoint, shown: Shown) -> FoundRows:
    """The rows of a server. Raises the first route's error if none of its routes lists models."""
    try:
        tags = await http.get_json(root, "/api/tags", errors=read_ollama_error)
    except (UpstreamUnreachable, UpstreamTimeout):
        raise
    except RoundhouseError as error:
        return await _of_v1(http, root, server, error)
    entries = listed_entries(tags, "models")[:MAX_LISTED]
    try:
        details = await shown.of(http, root, entries)
    except* RoundhouseError as group:
        raise _first(group) from None
    running = await _running(http, root)
    with reading(f"The endpoint '{root.endpoint}'"):
        return await asyncio.to_thread(rows_from_tags, server, tags, details, running)


async def _of_v1(http: HttpClient, root: Upstream, server: Endpoint, error: RoundhouseError) -> FoundRows:
    """The rows of ``/v1/models``. Raises ``error`` if that does not answer either."""
    try:
        listed = await http.get_json(root, "/v1/models")
    except RoundhouseError:
        raise error from None
    with reading(f"The endpoint '{root.endpoint}'"):
        return await asyncio.to_thread(rows_from_models, server, listed)


async def _running(http: HttpClient, root: Upstream) -> Mapping[str, Json]:
    """The loaded models by name; empty if the server does not tell."""
    try:
        document = await http.get_json(root, "/api/ps", errors=read_ollama_error)
    except RoundhouseError:
        return {}
    return {name: entry for entry in listed_entries(document, "models") if (name := name_of(entry))}


async def _shown(http: HttpClient, root: Upstream, name: str) -> tuple[Json, bool]:
    """A model's details, empty without any, and whether the route is missing. Raises UpstreamUnreachable."""
    try:
        details = await http.post_json(root, "/api/show", {"model": name}, errors=read_ollama_error)
    except UpstreamUnreachable:
        raise
    except PathMissing:
        return {}, True
    except RoundhouseError:
        return {}, False
    return (details if isinstance(details, dict) else {}), False


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def name_of(entry: Json) -> str:
    """A listed model's name; empty without one."""
    name = entry.get("model") or entry.get("name")
    return name if isinstance(name, str) else ""


def rows_from_tags(
    server: Endpoint,
    document: Json,
    details: Details = MappingProxyType({}),
    running: Mapping[str, Json] = MappingProxyType({}),
) -> FoundRows:
    """Make rows from Ollama's ``GET /api/tags``, which gives family, size and quantisation.

    ``details`` holds the documents of ``POST /api/show`` by model, as far as they were fetched, ``running`` the
    entries of ``GET /api/ps``. A model's context is the one with which it is loaded, else the one that its
    Modelfile sets, else the most that it was trained for.
    """

    def described(entry: Json) -> Mapping[str, Any]:
        name = name_of(entry)
        facts = entry.get("details")
        facts = facts if isinstance(facts, dict) else {}
        shown = details.get(name, {})
        loaded = running.get(name, {}).get("context_length")
        size = entry.get("size")
        return {
            "name": name or None,
            "context": (loaded if is_positive(loaded) else None)
            or _set_context(shown)
            or entry.get("context_length")
            or facts.get("context_length")
            or _trained_context(shown),
            "kind": str(facts.get("family") or ""),
            "capabilities": _abilities(entry, facts, shown),
            "family": str(facts["family"]) if facts.get("family") else None,
            "size": Size(
                parameters=_count(facts.get("parameter_size")),
                disk=size if is_positive(size) else None,
                quantization=str(facts.get("quantization_level") or "") or None,
            ),
        }

    return discovered_rows(server, listed_entries(document, "models"), described)


def _abilities(entry: Json, facts: Json, shown: Json) -> frozenset[Capability]:
    """The listed capabilities; of a server that lists none, those that its template and families show."""
    known = entry.get("capabilities") or shown.get("capabilities")
    if isinstance(known, list):
        return frozenset().union(*(_CAPABILITIES.get(str(word), frozenset()) for word in known))
    template, families = shown.get("template"), facts.get("families")
    found: frozenset[Capability] = frozenset()
    if isinstance(template, str) and ".Tools" in template:
        found |= _CAPABILITIES["tools"]
    if shown.get("projector_info") or (
        isinstance(families, list) and {"clip", "mllama"} & set(map(str, families))
    ):
        found |= _CAPABILITIES["vision"]
    return found and found | _CAPABILITIES["completion"]


_NUM_CTX = re.compile(r"^\s*num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)


def _set_context(shown: Json) -> int | None:
    """The context length that the Modelfile sets."""
    parameters = shown.get("parameters")
    match = _NUM_CTX.search(parameters) if isinstance(parameters, str) else None
    return None if match is None else int(match[1])


def _trained_context(shown: Json) -> Any:
    info = shown.get("model_info")
    if not isinstance(info, dict):
        return None
    return info.get(f"{info.get('general.architecture')}.context_length")


def _count(text: Any) -> int | None:
    """Parse a count such as ``8.0B``."""
    match = re.fullmatch(r"([\d.]+)([KMBT])", str(text or ""))
    if match is None:
        return None
    return round(float(match[1]) * {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}[match[2]])
