"""Translates a speech request into a call of ElevenLabs' text-to-speech.

Source: ElevenLabs' API reference and SDK types.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from backends.base import Upstream
from backends.translation import Dropped
from backends.wire.audio import SpeechRequest
from catalog.errors import UnsupportedParameter
from catalog.types import Json

DEFAULT_VOICE = "JBFqnCBsd6RMkjVDRZzb"
"""George, a voice of every account; used when the caller names none."""

MIN_SPEED, MAX_SPEED = 0.7, 1.2
"""The speeds that ElevenLabs takes; OpenAI's wire goes from 0.25 to 4."""

FORMATS: dict[str, dict[int, str]] = {
    "mp3": {44_100: "mp3_44100_128", 24_000: "mp3_24000_48", 22_050: "mp3_22050_32"},
    "opus": {48_000: "opus_48000_128"},
    "pcm": {rate: f"pcm_{rate}" for rate in (24_000, 8_000, 16_000, 22_050, 32_000, 44_100, 48_000)},
    "wav": {rate: f"wav_{rate}" for rate in (24_000, 8_000, 16_000, 22_050, 32_000, 44_100, 48_000)},
}
"""``output_format`` by OpenAI's format and sample rate in Hz; the first rate of each is the default."""

_WHOLE_ONLY = frozenset({"wav"})  # a WAV file's header holds its length, so it cannot be streamed
_NO_LANGUAGE = re.compile(r"eleven_(multilingual_v[12]|monolingual_v1|english_sts_v2|turbo_v2$|flash_v2$)")
_SETTINGS = ("stability", "similarity_boost", "style", "use_speaker_boost")
_PASSED = ("seed", "previous_text", "next_text", "apply_text_normalization")
_VOICE_ID = re.compile(r"[A-Za-z0-9]{20}")


@dataclass(frozen=True, slots=True)
class SpeechCall:
    """One call. ``path`` has a place for the voice's id; ``dropped`` names the parameters left out of the body."""

    path: str
    output_format: str
    body: Json
    dropped: tuple[str, ...]


def translate(request: SpeechRequest, upstream: Upstream) -> SpeechCall:
    """The call to make.

    Raises :class:`UnsupportedParameter` for a format or sample rate that ElevenLabs does not have, and with
    ``strict`` for any parameter that would be dropped.
    """
    dropped = Dropped()
    rates = FORMATS.get(request.response_format)
    if rates is None:
        raise UnsupportedParameter(
            f"ElevenLabs does not make {request.response_format}; it makes {', '.join(FORMATS)}.",
            param="response_format",
        )
    rate = request.sample_rate or next(iter(rates))
    if rate not in rates:
        raise UnsupportedParameter(
            f"ElevenLabs makes {request.response_format} at {', '.join(map(str, sorted(rates)))} Hz, not {rate}.",
            param="sample_rate",
        )
    body: Json = {"text": request.input, "model_id": upstream.model}
    extra = request.model_extra or {}
    settings = {name: extra[name] for name in _SETTINGS if extra.get(name) is not None}
    if request.speed != 1:
        if MIN_SPEED <= request.speed <= MAX_SPEED:
            settings["speed"] = request.speed
        else:
            dropped.add("speed")
    if settings:
        body["voice_settings"] = settings
    if request.language is not None:
        if _NO_LANGUAGE.match(upstream.model):
            dropped.add("language")
        else:
            body["language_code"] = request.language.split("-")[0].lower()
    body |= {name: extra[name] for name in _PASSED if extra.get(name) is not None}
    if request.instructions:
        dropped.add("instructions")
    dropped.add(*(name for name in extra if name not in (*_SETTINGS, *_PASSED, "routing", "user")))
    if request.strict and dropped.names:
        first = next(iter(dropped.names))
        raise UnsupportedParameter(f"ElevenLabs does not take this {first[:80]!r}.", param=first[:80])
    whole = request.response_format in _WHOLE_ONLY
    path = "/v1/text-to-speech/{voice}" if whole else "/v1/text-to-speech/{voice}/stream"
    return SpeechCall(path, rates[rate], body, dropped.as_tuple())


def is_voice_id(voice: str) -> bool:
    """Whether this is an id, not a voice's name."""
    return _VOICE_ID.fullmatch(voice) is not None
