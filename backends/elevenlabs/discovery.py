"""Rows of the models that ElevenLabs lists. Source: its API reference of ``GET /v1/models``, SDK types.

Only models of speech are listed there; transcription (Scribe) has rows of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from catalog.discovery import FoundRows, discovered_rows
from catalog.model import Capability, Endpoint
from catalog.types import Json

MAX_VOICES = 500
"""Names of voices in a row; an account may have thousands, which are found by name all the same."""


def rows_from_models(server: Endpoint, entries: list[Json], voices: Iterable[str]) -> FoundRows:
    """Make rows of the models that speak, with the names of the account's voices."""
    names = tuple(voices)[:MAX_VOICES]
    return discovered_rows(server, entries, partial(_described, voices=names))


def _described(entry: Json, *, voices: tuple[str, ...]) -> Mapping[str, Any] | None:
    if entry.get("can_do_text_to_speech") is not True:
        return None
    spoken = (language.get("language_id") for language in entry.get("languages") or ())
    return {
        "name": entry.get("model_id"),
        "capabilities": frozenset({Capability.SPEAK}),
        "languages": tuple(dict.fromkeys(str(code) for code in spoken if code)),
        "voices": voices,
    }
