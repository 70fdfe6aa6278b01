"""Translates a speech request into a call of ElevenLabs' text-to-speech, and its timed answer back.

Source: ElevenLabs' API reference and SDK types.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from backends.base import Upstream
from backends.elevenlabs.voices import resolved
from backends.streams.noted import NotedAudio
from backends.translation import Dropped
from backends.wire.audio import SpeechRequest
from catalog.errors import UnsupportedParameter
from catalog.types import Json

MIN_SPEED, MAX_SPEED = 0.7, 1.2
"""The speeds that ElevenLabs takes; OpenAI's wire goes from 0.25 to 4."""

_RATES = (24_000, 8_000, 16_000, 22_050, 32_000, 44_100, 48_000)
FORMATS: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    "mp3": {44_100: (128, 32, 64, 96, 192), 24_000: (48,), 22_050: (32,)},
    "opus": {48_000: (128, 32, 64, 96, 192)},
    "pcm": dict.fromkeys(_RATES, ()),
    "wav": dict.fromkeys(_RATES, ()),
    "ulaw": {8_000: ()},
    "alaw": {8_000: ()},
}
"""Sample rates in Hz by OpenAI's format, and their bit rates in kbit/s; the first of each is the default."""

_WHOLE_ONLY = frozenset({"wav"})  # a WAV file's header holds its length, so it cannot be streamed
_NO_LANGUAGE = re.compile(r"eleven_(multilingual_v[12]|monolingual_v1|english_sts_v2|turbo_v2$|flash_v2$)")
_NO_STITCHING = re.compile(r"eleven_v3")
_SETTINGS = ("stability", "similarity_boost", "style", "use_speaker_boost", "clone_strength")
_STITCHING = ("previous_text", "next_text", "previous_request_ids", "next_request_ids")
_PASSED = (
    *("seed", "apply_text_normalization", "apply_language_text_normalization", "use_pvc_as_ivc"),
    *("pronunciation_dictionary_locators", "audio_effects"),
)
_QUERY = ("enable_logging", "optimize_streaming_latency")
_OWN = frozenset({*_SETTINGS, *_STITCHING, *_PASSED, *_QUERY, "voice_settings", "routing", "user"})


@dataclass(frozen=True, slots=True)
class SpeechCall:
    """One call. ``path`` has a place for the voice's id, which is ``voice`` if it is known without a look-up.

    ``timed``: the answer is a JSON object per line, or a single one. ``dropped`` names the parameters left out.
    """

    path: str
    voice: str | None
    query: dict[str, str]
    body: Json
    timed: bool
    dropped: tuple[str, ...]


def translate(request: SpeechRequest, upstream: Upstream) -> SpeechCall:
    """The call to make.

    Raises :class:`UnsupportedParameter` for a format, sample rate or bit rate that ElevenLabs does not have, for
    times without a form that can carry them, and with ``strict`` for any parameter that would be dropped.
    """
    dropped = Dropped()
    extra = request.model_extra or {}
    body: Json = {"text": request.input, "model_id": upstream.model}
    if settings := _settings(request, extra, dropped):
        body["voice_settings"] = settings
    if request.language is not None:
        if _NO_LANGUAGE.match(upstream.model):
            dropped.add("language")
        else:
            body["language_code"] = request.language.split("-")[0].lower()
    body |= {name: extra[name] for name in _PASSED if extra.get(name) is not None}
    stitched = {name: extra[name] for name in _STITCHING if extra.get(name) is not None}
    if _NO_STITCHING.match(upstream.model):
        dropped.add(*stitched)
    else:
        body |= stitched
    if request.instructions:
        dropped.add("instructions")
    voice, replaced = resolved(request, upstream)
    if replaced:
        dropped.add("voice")
    dropped.add(*(name for name in extra if name not in _OWN))
    if request.strict and dropped.names:
        first = next(iter(dropped.names))
        raise UnsupportedParameter(f"ElevenLabs does not take this {first[:80]!r}.", param=first[:80])
    query = {"output_format": output_format(request)}
    query |= {name: str(extra[name]).lower() for name in _QUERY if extra.get(name) is not None}
    timed = bool(request.timestamp_granularities)
    if timed and request.stream_format != "sse":
        raise UnsupportedParameter(
            "Times come with stream_format 'sse'; plain audio has no place for them.",
            param="timestamp_granularities",
        )
    path = "/v1/text-to-speech/{voice}" + ("" if request.response_format in _WHOLE_ONLY else "/stream")
    return SpeechCall(path + "/with-timestamps" * timed, voice, query, body, timed, dropped.as_tuple())


def _settings(request: SpeechRequest, extra: Mapping[str, Any], dropped: Dropped) -> Json:
    """``voice_settings``: the caller's object, and beside it single settings and the speed."""
    given = extra.get("voice_settings")
    settings: Json = dict(given) if isinstance(given, dict) else {}
    settings |= {name: extra[name] for name in _SETTINGS if extra.get(name) is not None}
    if request.speed != 1:
        if MIN_SPEED <= request.speed <= MAX_SPEED:
            settings["speed"] = request.speed
        else:
            dropped.add("speed")
    return settings


def output_format(request: SpeechRequest) -> str:
    """ElevenLabs' name of the format, such as ``mp3_44100_128``. Raises UnsupportedParameter."""
    wanted = request.response_format
    rates = FORMATS.get(wanted)
    if rates is None:
        raise UnsupportedParameter(
            f"ElevenLabs does not make {wanted}; it makes {', '.join(FORMATS)}.", param="response_format"
        )
    bits = request.bit_rate
    fitting = [rate for rate in rates if bits is None or bits in rates[rate]]
    rate = request.sample_rate or next(iter(fitting), next(iter(rates)))
    if rate not in rates:
        raise UnsupportedParameter(
            f"ElevenLabs makes {wanted} at {', '.join(map(str, sorted(rates)))} Hz, not {rate}.",
            param="sample_rate",
        )
    if bits is not None and bits not in rates[rate]:
        has = ", ".join(map(str, sorted(rates[rate]))) or "no choice of"
        raise UnsupportedParameter(
            f"ElevenLabs makes {wanted} at {rate} Hz with {has} kbit/s, not {bits}.", param="bit_rate"
        )
    kbits = bits or next(iter(rates[rate]), None)
    return f"{wanted}_{rate}" if kbits is None else f"{wanted}_{rate}_{kbits}"


# ---- times


@dataclass(slots=True)
class TimedReader:
    """Reads the pieces of a timed answer. A word goes with the piece that has its end."""

    granularities: frozenset[str]
    _word: Json | None = field(default=None)

    def read(self, piece: Json) -> NotedAudio:
        """The audio of a piece with the times of what it has of the caller's text, in seconds of the whole."""
        alignment = piece.get("alignment") or {}
        characters = [
            {"character": str(character), "start": float(start), "end": float(end)}
            for character, start, end in zip(
                alignment.get("characters") or (),
                alignment.get("character_start_times_seconds") or (),
                alignment.get("character_end_times_seconds") or (),
                strict=True,
            )
        ]
        return NotedAudio.of(base64.b64decode(piece["audio_base64"]), **self._times(characters))

    def rest(self) -> NotedAudio | None:
        """The last word, which no space followed."""
        word, self._word = self._word, None
        return NotedAudio.of(b"", words=[word]) if word is not None and "word" in self.granularities else None

    def _times(self, characters: list[Json]) -> Json:
        times: Json = {"characters": characters} if "character" in self.granularities else {}
        words = list(self._words(characters))
        return times | ({"words": words} if "word" in self.granularities else {})

    def _words(self, characters: list[Json]) -> Iterator[Json]:
        for at in characters:
            if at["character"].isspace():
                if self._word is not None:
                    yield self._word
                    self._word = None
            elif self._word is None:
                self._word = {"word": at["character"], "start": at["start"], "end": at["end"]}
            else:
                self._word = {**self._word, "word": self._word["word"] + at["character"], "end": at["end"]}
