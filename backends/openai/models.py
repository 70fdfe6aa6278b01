"""The rows of the models that a server of OpenAI's wire lists."""

from __future__ import annotations

from catalog.discovery import discovered_row, listed_entries
from catalog.model import Endpoint, Model
from catalog.types import Json


def rows_from_models(server: Endpoint, document: Json) -> list[Model]:
    """Make rows from ``GET /v1/models``. vLLM adds ``max_model_len``, which becomes the context window.

    Entries without a usable name are skipped.
    """
    rows = (
        discovered_row(
            server,
            entry.get("id"),
            context=entry.get("max_model_len") or entry.get("context_length") or entry.get("context_window"),
        )
        for entry in listed_entries(document, "data")
    )
    return [row for row in rows if row is not None]
