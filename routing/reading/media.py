"""Estimates the tokens of pictures, sounds, videos and files in a chat."""

from __future__ import annotations

from typing import Any, NamedTuple

from backends.pictures.looking import size_by_head
from backends.wire.chat import ContentPart
from backends.wire.media import is_data_url, is_text, media_type_of
from catalog.model import Capability

_CHARACTERS_PER_FILE_TOKEN = 30
"""Characters of a file in base64 per token: a page of a PDF is 60 to 100 kB and 1,500 to 3,000 tokens."""
_CHARACTERS_PER_TEXT_TOKEN = 5
"""Characters of a text in base64 per token."""
TOKENS_PER_IMAGE = 800
"""Of a picture of unknown size."""
_TOKENS_PER_SMALL_IMAGE = 300
"""Of one with ``detail`` "low": 512 pixels a side at most. OpenAI counts 85, Qwen's models up to 324."""
_PIXELS_PER_TOKEN, _LEAST_PER_IMAGE, _USUAL_MOST = 750, 258, 1_600
"""Anthropic counts a token for 750 pixels and scales larger pictures down, Google 258 for any that is small."""
_FEWEST_PIXELS_PER_TOKEN, _MOST_PER_IMAGE, _MOST_OF_ORIGINAL = 416, 4_784, 10_000
"""OpenAI's smallest models count 2.46 tokens for 32 by 32 pixels, Anthropic's largest one up to 4,784; with
``detail`` "original" OpenAI counts up to 10,000."""
_TOKENS_PER_VIDEO = 18_000
"""A minute at 300 tokens a second (Gemini's guide on video), as an address does not tell the length."""
_LEAST_PER_VIDEO = 300
_CHARACTERS_PER_VIDEO_TOKEN = 55
"""Characters of a video in base64 per token, at 100 kbit/s and 300 tokens a second; most videos have more bits."""
_TOKENS_PER_AUDIO_BYTE = 1 / 4000


class MediaTokens(NamedTuple):
    """Tokens about, and how many more there may be by another model's way to count."""

    about: int
    margin: int = 0


def picture_tokens(url: Any, detail: Any = None) -> MediaTokens:
    """Tokens of a picture, by its size where the URL holds it."""
    if detail == "low":
        return MediaTokens(_TOKENS_PER_SMALL_IMAGE)
    most, size = _MOST_OF_ORIGINAL if detail == "original" else _MOST_PER_IMAGE, size_by_head(url)
    if size is None:
        return MediaTokens(TOKENS_PER_IMAGE, most - TOKENS_PER_IMAGE)
    pixels = size[0] * size[1]
    about = min(_USUAL_MOST, max(_LEAST_PER_IMAGE, pixels // _PIXELS_PER_TOKEN))
    return MediaTokens(about, max(0, min(most, pixels // _FEWEST_PIXELS_PER_TOKEN) - about))


def media_tokens(part: ContentPart, features: set[Capability]) -> MediaTokens:
    """Tokens of a part that is no text; the feature that it needs is added to ``features``."""
    if part.image_url is not None:
        features.add(Capability.VISION)
        return picture_tokens(part.image_url.get("url"), part.image_url.get("detail"))
    return MediaTokens(_other_tokens(part, features))


def _other_tokens(part: ContentPart, features: set[Capability]) -> int:
    if part.input_audio is not None:
        features.add(Capability.AUDIO_INPUT)
        return round(len(str(part.input_audio.get("data", ""))) * _TOKENS_PER_AUDIO_BYTE) + 1
    if part.file is not None:
        data = part.file.get("file_data")
        if is_text(media_type_of(data)):
            return len(str(data)) // _CHARACTERS_PER_TEXT_TOKEN
        features.add(Capability.DOCUMENTS)
        return max(TOKENS_PER_IMAGE, len(str(part.file.get("file_data", ""))) // _CHARACTERS_PER_FILE_TOKEN)
    if part.video_url is not None:
        features.add(Capability.VIDEO_INPUT)
        url = str(part.video_url.get("url") or "")
        size = len(url) // _CHARACTERS_PER_VIDEO_TOKEN if is_data_url(url) else _TOKENS_PER_VIDEO
        return min(_TOKENS_PER_VIDEO, max(_LEAST_PER_VIDEO, size))
    return 0
