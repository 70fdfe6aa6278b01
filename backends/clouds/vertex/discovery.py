"""Rows of Google's own models in Vertex AI's Model Garden. Source: the code of google-genai.

The list of another publisher does not tell which of its models the project has enabled, so those need rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from backends.clouds.vertex.addresses import name_of
from backends.google.discovery import described
from backends.google.models import traits
from catalog.discovery import FoundRows, discovered_rows
from catalog.model import Endpoint
from catalog.types import Json

PATH = "/v1beta1/publishers/google/models"
PAGE = "100"
"""Models asked for at once."""
MAX_PAGES = 20


def rows_of(server: Endpoint, entries: Iterable[Json]) -> FoundRows:
    """Make rows of ``publisherModels`` entries that are Gemini and chat, or that embed texts."""
    return discovered_rows(server, list(entries), _described)


def _described(entry: Json) -> Mapping[str, Any] | None:
    """The entry as the Gemini API would list it: this list tells neither methods nor limits."""
    name = name_of(str(entry["name"]))
    if name.startswith("gemini-embedding") or (name.startswith("text-") and "embedding" in name):
        methods = ["embedContent"]
    elif name.startswith("gemini-"):
        methods = ["generateContent"]
    else:
        return None
    can = traits(name)
    thinks = bool(can.levels) or can.budgets is not None
    return described({"name": name, "supportedGenerationMethods": methods, "thinking": thinks})
