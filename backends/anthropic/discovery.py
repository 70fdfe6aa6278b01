"""Rows of the models that Anthropic lists. Source: Anthropic's API reference of ``GET /v1/models``, SDK types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any

from catalog.discovery import FoundRows, discovered_rows, is_positive
from catalog.model import Capability, Endpoint, Limits
from catalog.types import Json

PAGE = "1000"
"""Models asked for at once, which is the most."""
MAX_PAGES = 10

_OF_ALL = frozenset({Capability.CHAT, Capability.TOOLS, Capability.PARALLEL_TOOLS})
_BY_NAME: Mapping[str, frozenset[Capability]] = {
    "image_input": frozenset({Capability.VISION}),
    "pdf_input": frozenset({Capability.DOCUMENTS}),
    "structured_outputs": frozenset({Capability.JSON_SCHEMA}),
    "thinking": frozenset({Capability.REASONING}),
}
"""Capabilities by the names of Anthropic's ``capabilities``."""


def rows_from_models(server: Endpoint, entries: Iterable[Json]) -> FoundRows:
    """Make rows of ``ModelInfo`` objects; a retired model, which cannot be called, has none."""
    return discovered_rows(server, list(entries), _described)


def _described(entry: Json) -> Mapping[str, Any] | None:
    if entry.get("lifecycle") == "retired":
        return None
    told = entry.get("capabilities")
    told = told if isinstance(told, dict) else {}
    supported = [_BY_NAME[name] for name in _BY_NAME.keys() & told.keys() if _supports(told[name])]
    if _supports((told.get("server_tools") or {}).get("web_search")):
        supported.append(frozenset({Capability.WEB_SEARCH}))
    most = entry.get("max_tokens")
    return {
        "name": entry.get("id"),
        "context": entry.get("max_input_tokens"),
        "capabilities": _OF_ALL.union(*supported),
        "limits": Limits(max_output_tokens=most if is_positive(most) else None),
        **_end(entry.get("retires_at")),
    }


def _end(told: Any) -> Mapping[str, date]:
    """The day on which a model is shut down, if one is known."""
    try:
        return {"ends": datetime.fromisoformat(told).date()}
    except (TypeError, ValueError):
        return {}


def _supports(told: Any) -> bool:
    return isinstance(told, dict) and told.get("supported") is True
