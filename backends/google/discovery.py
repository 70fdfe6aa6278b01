"""Rows of the models that Google lists. Source: the Gemini API's reference of ``models.list``, SDK types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from backends.google.models import PICTURES
from catalog.discovery import FoundRows, discovered_rows, is_positive
from catalog.model import Capability, Endpoint, Limits
from catalog.types import Json

DRAWS = frozenset({Capability.IMAGE, Capability.IMAGE_EDIT})
PAGE = "1000"
"""Models asked for at once, which is the most."""
MAX_PAGES = 10

_GEMINI = frozenset(
    {
        *(Capability.CHAT, Capability.TOOLS, Capability.PARALLEL_TOOLS, Capability.JSON_SCHEMA),
        *(Capability.VISION, Capability.DOCUMENTS, Capability.AUDIO_INPUT, Capability.VIDEO_INPUT),
        Capability.WEB_SEARCH,
    }
)
"""Inputs and features of every Gemini for chats; the list does not tell. Other families may lack some."""
_OTHER_ANSWERS = re.compile(r"-(?:tts|live|native-audio|computer-use|omni)\b")
_FILMS = re.compile(r"^(?:veo-|gemini-omni)")
"""Models that make videos. What Omni lists as its methods is not what it serves."""
_VIDEOS = frozenset({Capability.VIDEO, Capability.VISION, Capability.VIDEO_INPUT})
"""Models that are called for something else than a text, or need tools of their own."""


def rows_from_models(server: Endpoint, entries: Iterable[Json]) -> FoundRows:
    """Make rows of ``models`` entries that chat, draw or embed; those that do something else have none."""
    return discovered_rows(server, list(entries), described)


def described(entry: Json) -> Mapping[str, Any] | None:
    """The arguments of a row for one entry, ``None`` for a model that does something else."""
    name = str(entry.get("name") or "").removeprefix("models/")
    # The wire calls them methods, Google's SDK supported_actions.
    actions = entry.get("supportedGenerationMethods") or entry.get("supportedActions") or ()
    context, most = entry.get("inputTokenLimit"), entry.get("outputTokenLimit")
    if _FILMS.match(name):
        return {"name": name, "capabilities": _VIDEOS}
    if "generateContent" in actions and PICTURES.search(name) is not None:
        return {"name": name, "context": context, "capabilities": DRAWS, "limits": Limits()}
    if "generateContent" in actions and _OTHER_ANSWERS.search(name) is None:
        capabilities = _GEMINI if name.startswith("gemini") else frozenset({Capability.CHAT})
        if entry.get("thinking") is True:
            capabilities |= {Capability.REASONING}
        limits = Limits(max_output_tokens=most if is_positive(most) else None)
    elif "batchEmbedContents" in actions or "embedContent" in actions:
        capabilities = frozenset({Capability.EMBED})
        limits = Limits(max_input_tokens=context if is_positive(context) else None)
        context = None
    else:
        return None
    return {"name": name, "context": context, "capabilities": capabilities, "limits": limits}
