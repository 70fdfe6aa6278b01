"""ElevenLabs' premade voices, and which of them is nearest to each of OpenAI's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from backends.base import Upstream
from backends.voices import mapped, openai_voice
from backends.wire.audio import SpeechRequest

PREMADE: Mapping[str, str] = MappingProxyType(
    {
        "adam": "pNInz6obpgDQGcFmaJgB",
        "alice": "Xb7hH8MSUJpSbSDYk0k2",
        "bella": "hpp4J3VqNfWAUOO0d1Us",
        "bill": "pqHfZKP75CvOlQylNhV4",
        "brian": "nPczCjzI2devNBz1zQrb",
        "callum": "N2lVS1w4EtoT3dr4eOWO",
        "charlie": "IKne3meq5aSn9XLyUdCD",
        "chris": "iP95p4xoKVk53GoZ742B",
        "daniel": "onwK4e9ZLuTAKqWW03F9",
        "eric": "cjVigY5qzO86Huf0OWal",
        "george": "JBFqnCBsd6RMkjVDRZzb",
        "harry": "SOYHLrjzK2X1ezoPC6cr",
        "jessica": "cgSgspJ2msm6clMCkdW9",
        "laura": "FGY2WhTYpPnrIDTdsKH5",
        "liam": "TX3LPaxmHKxFdv7VOQHJ",
        "lily": "pFZP5JQG7iQjIQuC4Bku",
        "matilda": "XrExE9yKIg1WjnnlVkGX",
        "river": "SAz9YHcvj6GT2YYXdXww",
        "roger": "CwhRBWXzGAHq8TQ4Fs17",
        "sarah": "EXAVITQu4vr4xnSDxMaL",
        "will": "bIHbv24MWmeRgasZH58o",
    }
)
"""Ids of the voices that every account has, by their names. Source: ElevenLabs' page on its default voices."""

DEFAULT_VOICE = PREMADE["george"]
"""Used when the caller names none."""

NEAREST: Mapping[str, str] = MappingProxyType(
    {
        "alloy": "river",
        "ash": "chris",
        "ballad": "daniel",
        "cedar": "roger",
        "coral": "jessica",
        "echo": "liam",
        "fable": "george",
        "marin": "alice",
        "nova": "laura",
        "onyx": "brian",
        "sage": "sarah",
        "shimmer": "matilda",
        "verse": "eric",
    }
)
"""The premade voice that sounds most like each voice of OpenAI; a ``voice_map`` says otherwise."""

_ID = re.compile(r"[A-Za-z0-9]{20}")
_LEGACY = frozenset({"aria", "charlotte", "rachel"})
"""Older premade voices, which not every account has: they are looked for by name."""


def resolved(request: SpeechRequest, upstream: Upstream) -> tuple[str | None, bool]:
    """The id of a request's voice, None if only the account's list tells it, and whether it is a replacement.

    A voice is replaced if its name is OpenAI's or one of this machine's.
    """
    voice = mapped(request, upstream)
    if voice is None:
        return DEFAULT_VOICE, False
    if voice != request.voice or _ID.fullmatch(voice):  # of the map, or given as an id
        return (voice, False) if _ID.fullmatch(voice) or voice == request.voice_name else (None, False)
    own = voice.casefold().split(" - ")[0]
    common = None if own in PREMADE or own in _LEGACY else openai_voice(voice)
    return (None, False) if common is None else (PREMADE[NEAREST[common]], True)
