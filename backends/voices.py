"""Names of voices. OpenAI's are the common ones: each provider has a nearest voice for them, and they for its own.

So a request for speech can go to another provider, or to this machine's voices, with the voice that it names. A
replaced voice is reported as a dropped ``voice``, and refused under ``strict``; this machine's voices have
OpenAI's names as names of their own. The ``voice_map`` of a row or endpoint says which voice a name means there,
and such a name is not reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from backends.base import Upstream
from backends.wire.audio import ClonedSpeech, SpeechRequest
from catalog.errors import UnsupportedParameter, UnsupportedValue
from catalog.model import Model

OPENAI_VOICES: Mapping[str, Literal["female", "male"] | None] = {
    "alloy": None,
    "ash": "male",
    "ballad": "male",
    "cedar": "male",
    "coral": "female",
    "echo": "male",
    "fable": "male",
    "marin": "female",
    "nova": "female",
    "onyx": "male",
    "sage": "female",
    "shimmer": "female",
    "verse": "male",
}
"""OpenAI's voices, and what they sound like; None is neutral. Source: OpenAI's guide to text to speech."""

KOKORO_VOICES: Mapping[str, str] = {
    "alloy": "af_alloy",
    "ash": "am_michael",
    "ballad": "bm_george",
    "cedar": "am_fenrir",
    "coral": "af_bella",
    "echo": "am_echo",
    "fable": "bm_fable",
    "marin": "af_heart",
    "nova": "af_nova",
    "onyx": "am_onyx",
    "sage": "af_sage",
    "shimmer": "af_sarah",
    "verse": "am_puck",
}
"""The voice of Kokoro that each of OpenAI's means: of the same name, else one of the same gender that VOICES.md
grades well. No two are the same."""

_NEAREST: Mapping[str, str] = {
    # ElevenLabs' premade voices
    "river": "alloy",
    "chris": "ash",
    "charlie": "ash",
    "daniel": "ballad",
    "roger": "cedar",
    "bill": "cedar",
    "jessica": "coral",
    "aria": "coral",
    "liam": "echo",
    "will": "echo",
    "george": "fable",
    "alice": "marin",
    "bella": "marin",
    "laura": "nova",
    "rachel": "nova",
    "brian": "onyx",
    "adam": "onyx",
    "sarah": "sage",
    "matilda": "shimmer",
    "lily": "shimmer",
    "charlotte": "shimmer",
    "eric": "verse",
    "harry": "onyx",
    "callum": "verse",
    # hibari's
    "heart": "nova",
    "heart-british": "nova",
}
_LISTED = 64
"""Voices that an error names."""
_KOKORO = re.compile(r"([a-z])([fm])_([a-z]+)")
_KOKORO_LANGUAGES: Mapping[str, str] = {
    "a": "en-US", "b": "en-GB", "e": "es", "f": "fr", "h": "hi", "i": "it", "j": "ja", "p": "pt-BR", "z": "zh",
}  # fmt: skip
"""By the first letter of a voice's name. Source: Kokoro's VOICES.md."""

Gender = Literal["female", "male"]


def kokoro_voice(name: str) -> tuple[str, Gender] | None:
    """The language (BCP 47) and gender that the name of a voice of Kokoro tells, None for another name."""
    match = _KOKORO.fullmatch(name.casefold())
    if match is None or match[1] not in _KOKORO_LANGUAGES:
        return None
    return _KOKORO_LANGUAGES[match[1]], "female" if match[2] == "f" else "male"


def described(model: Model, voice: str) -> tuple[tuple[str, ...], Gender | None]:
    """The languages and the gender of a voice of a model, as far as its name or the row tells them."""
    if model.family == "kokoro" and (told := kokoro_voice(voice)) is not None:
        return (told[0],), told[1]
    common = openai_voice(voice)
    return model.languages, None if common is None else OPENAI_VOICES[common]


def openai_voice(name: str) -> str | None:
    """The voice of OpenAI that has this name, or is nearest to another provider's voice of this name."""
    lowered = name.casefold()
    if lowered in OPENAI_VOICES:
        return lowered
    if (match := _KOKORO.fullmatch(lowered)) is not None:
        # Kokoro has voices such as "af_alloy"
        return match[3] if match[3] in OPENAI_VOICES else ("nova" if match[2] == "f" else "echo")
    return _NEAREST.get(lowered.split(" - ")[0])


def mapped(request: SpeechRequest, upstream: Upstream) -> str | None:
    """The voice that the request names, or the one that the row's or endpoint's ``voice_map`` has for it.

    Raises UnsupportedParameter for a voice of a recording, which no provider is given.
    """
    voice = request.voice_name
    if isinstance(request, ClonedSpeech) and upstream.engine is None:
        raise UnsupportedParameter(
            f"'{upstream.model}' cannot speak with the voice of a recording.", param="voice"
        )
    return voice if voice is None else upstream.voices.get(voice.casefold(), voice)


def unknown_voice(where: str, voice: str, known: Iterable[str]) -> UnsupportedValue:
    """The error of a voice that a model does not have. Another model may have it, so that speech can fall back."""
    names = list(known)
    listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    return UnsupportedValue(f"{where} has no voice {voice[:80]!r}. It has: {listed}.", param="voice")
