"""Estimates the tokens of pictures, sounds, videos and files in a chat."""

from __future__ import annotations

from backends.wire.chat import ContentPart
from backends.wire.media import is_data_url, is_text, media_type_of
from catalog.model import Capability

_CHARACTERS_PER_FILE_TOKEN = 30
"""Characters of a file in base64 per token: a page of a PDF is 60 to 100 kB and 1,500 to 3,000 tokens."""
_CHARACTERS_PER_TEXT_TOKEN = 5
"""Characters of a text in base64 per token."""
TOKENS_PER_IMAGE = 800
TOKENS_PER_SMALL_IMAGE = 300
"""Of one with ``detail`` "low": 512 pixels a side at most. OpenAI counts 85, Qwen's models up to 324."""
_TOKENS_PER_VIDEO = 18_000
"""A minute at 300 tokens a second (Gemini's guide on video), as an address does not tell the length."""
_LEAST_PER_VIDEO = 300
_CHARACTERS_PER_VIDEO_TOKEN = 55
"""Characters of a video in base64 per token, at 100 kbit/s and 300 tokens a second; most videos have more bits."""
_TOKENS_PER_AUDIO_BYTE = 1 / 4000


def media_tokens(part: ContentPart, features: set[Capability]) -> int:
    """Tokens of a part that is no text, about; the feature that it needs is added to ``features``."""
    if part.image_url is not None:
        features.add(Capability.VISION)
        return TOKENS_PER_SMALL_IMAGE if part.image_url.get("detail") == "low" else TOKENS_PER_IMAGE
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
