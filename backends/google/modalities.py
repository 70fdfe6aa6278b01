"""Translates ``modalities`` and ``audio`` of a chat, so that Gemini answers with pictures or with sound.

Pictures come from models with "image" or "nano-banana" in their names, sound from those with "tts" or
"native-audio"; a row whose ``parameters`` list ``modalities`` says so of any other. ``image_config``
(``aspect_ratio``, ``image_size``) is OpenRouter's name. Source: Google's pages on image generation and speech
generation, SDK types.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from typing import Any

from backends.base import Upstream
from backends.google.models import PICTURES
from backends.parameters import OTHER_ANSWERS
from backends.translation import Dropped
from backends.voices import OPENAI_VOICES
from backends.wire.chat import ChatRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json

_NAMES = ("modalities", "audio", "image_config")
_KINDS = frozenset({"text", "image", "audio"})
_FORMATS = ("pcm16", "wav")
"""Of OpenAI's formats of sound, those that need no encoder. Gemini's is PCM of 16 bits, 24 kHz, one channel."""
_IMAGE = {"aspect_ratio": "aspectRatio", "image_size": "imageSize"}
_SOUND = re.compile(r"\b(?:tts|native-audio)\b")
_RATE = re.compile(r"rate=(\d{4,6})")
_USUAL_RATE = 24_000

_VOICES: Mapping[str, str] = {
    "alloy": "Kore",
    "ash": "Orus",
    "ballad": "Algieba",
    "cedar": "Charon",
    "coral": "Aoede",
    "echo": "Iapetus",
    "fable": "Puck",
    "marin": "Zephyr",
    "nova": "Leda",
    "onyx": "Algenib",
    "sage": "Vindemiatrix",
    "shimmer": "Achernar",
    "verse": "Fenrir",
}
"""Gemini's voice nearest to each of OpenAI's."""
assert _VOICES.keys() == OPENAI_VOICES.keys()


def wants_wav(request: ChatRequest) -> bool:
    """Whether the caller asked for sound as a WAV file."""
    asked = (request.model_extra or {}).get("audio")
    return isinstance(asked, dict) and asked.get("format") == "wav"


def take_modalities(request: ChatRequest, upstream: Upstream, config: Json, dropped: Dropped) -> ChatRequest:
    """Set the kinds of the answer's parts in ``config``; returns the request without these fields.

    Raises UnsupportedParameter for what the model does not make, InvalidRequest for fields of another form.
    """
    extra = request.model_extra or {}
    given = {name: extra[name] for name in _NAMES if extra.get(name) is not None}
    if not given:
        return request
    kinds = _kinds(given.get("modalities"))
    if "image" in kinds:
        _refuse_unless(PICTURES, "modalities", "It makes no pictures; ask POST /v1/images/generations.", upstream)
    if "image" in kinds and "audio" in kinds:
        raise UnsupportedParameter("Gemini answers with pictures or with sound, not both.", param="modalities")
    if "audio" in kinds:
        _refuse_unless(_SOUND, "modalities", OTHER_ANSWERS["modalities"], upstream)
        config["responseModalities"] = ["AUDIO"]  # it refuses TEXT beside it
        _speech(given.get("audio"), upstream, config, dropped)
    elif "image" in kinds:
        config["responseModalities"] = ["TEXT", "IMAGE"] if "text" in kinds else ["IMAGE"]
    if "audio" in given and "audio" not in kinds:
        raise UnsupportedParameter(
            f"'{upstream.model}' gives sound only if 'modalities' ask for it. {OTHER_ANSWERS['audio']}",
            param="audio",
        )
    if "image_config" in given:
        _image_config(given["image_config"], upstream, config, dropped)
    return request.model_copy(update=dict.fromkeys(given))


def wav_file(pcm: list[str], mime_type: str) -> str:
    """A WAV file, in base64, of pieces of PCM in base64."""
    data = b"".join(base64.b64decode(piece) for piece in pcm)
    rate = int(found[1]) if (found := _RATE.search(mime_type)) else _USUAL_RATE
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16
    )
    return base64.b64encode(head + struct.pack("<4sI", b"data", len(data)) + data).decode()


def _kinds(given: Any) -> frozenset[str]:
    if given is None:
        return frozenset()
    if not isinstance(given, list) or not all(isinstance(kind, str) for kind in given):
        raise InvalidRequest("'modalities' must be a list of 'text', 'image' and 'audio'.", param="modalities")
    if unknown := sorted(set(given) - _KINDS):
        raise UnsupportedParameter(f"Gemini has no modality {unknown[0][:40]!r}.", param="modalities")
    return frozenset(given)


def _refuse_unless(made_by: re.Pattern[str], param: str, advice: str, upstream: Upstream) -> None:
    if made_by.search(upstream.model.lower()) is None and param not in (upstream.parameters or ()):
        raise UnsupportedParameter(f"'{upstream.model}' does not take this '{param}'. {advice}", param=param)


def _speech(asked: Any, upstream: Upstream, config: Json, dropped: Dropped) -> None:
    if not isinstance(asked, dict):
        raise InvalidRequest(
            "An answer with sound needs 'audio': an object with its 'voice' and 'format'.", param="audio"
        )
    wanted = asked.get("format", "pcm16")
    if wanted not in _FORMATS:
        raise UnsupportedParameter(
            f"'{upstream.model}' speaks in the formats {' and '.join(_FORMATS)} only.", param="audio.format"
        )
    voice = asked.get("voice")
    voice = voice.get("id") if isinstance(voice, dict) else voice
    if voice is not None:
        if not isinstance(voice, str) or not voice:
            raise InvalidRequest("'audio.voice' must be the name of a voice.", param="audio.voice")
        own = upstream.voices.get(voice.casefold())
        if own is None and (own := _VOICES.get(voice.casefold())) is not None:
            dropped.add("audio.voice")
        config["speechConfig"] = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": own or voice}}}


def _image_config(asked: Any, upstream: Upstream, config: Json, dropped: Dropped) -> None:
    if not isinstance(asked, dict):
        raise InvalidRequest("'image_config' must be an object.", param="image_config")
    _refuse_unless(PICTURES, "image_config", "It makes no pictures.", upstream)
    made = {_IMAGE[name]: value for name, value in asked.items() if name in _IMAGE and value is not None}
    dropped.add(*(f"image_config.{name}"[:80] for name in asked if name not in _IMAGE))
    if made:
        config["imageConfig"] = made
