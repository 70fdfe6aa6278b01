"""The rows of the models that a server of OpenAI's wire lists."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from catalog.discovery import FoundRows, discovered_rows, listed_entries
from catalog.model import Endpoint
from catalog.types import Json


def rows_from_models(server: Endpoint, document: Json) -> FoundRows:
    """Make rows from ``GET /v1/models``. vLLM adds ``max_model_len``, which becomes the context window, and OpenAI
    ``shutdown_date``, on which the model ends.

    Entries without a usable name are skipped, and so are the names under which another Roundhouse routes.
    """
    return discovered_rows(server, listed_entries(document, "data"), _described)


def _described(entry: Json) -> Mapping[str, Any] | None:
    if entry.get("router") is True:
        return None
    context = entry.get("max_model_len") or entry.get("context_length") or entry.get("context_window")
    day = _day(entry.get("shutdown_date"))
    return {"name": entry.get("id"), "context": context, **({} if day is None else {"ends": day})}


def _day(written: object) -> date | None:
    try:
        return date.fromisoformat(written) if isinstance(written, str) else None
    except ValueError:
        return None
