"""A video in a chat: a part of type ``video_url``, as vLLM and OpenRouter take it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from backends.wire.chat import ContentPart
from backends.wire.common import Finite
from catalog.errors import CapabilityMismatch, InvalidRequest
from catalog.model import Capability

MAX_VIDEO_BYTES = 64 * 1024 * 1024
MAX_FRAMES = 64
"""Frames of all videos of a request, other pictures included."""


class VideoAddress(BaseModel):
    """A data URL or an address.

    ``fps`` frames a second are looked at, ``max_frames`` at most: evenly spaced over the video if it is too long.
    ``detail`` "low" gives frames of 512 pixels a side, as is usual for a video.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    url: Annotated[str, StringConstraints(min_length=1)]
    fps: Annotated[Finite, Field(gt=0, le=30)] | None = None
    max_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] | None = None
    detail: Literal["auto", "low", "high"] | None = None


def takes_no_videos(subject: str) -> CapabilityMismatch:
    """The error of a model or server that sees no videos; the request may be answered with pictures of them."""
    error = CapabilityMismatch(f"{subject} takes no videos.", param="messages")
    error.lacks = frozenset({Capability.VIDEO_INPUT})
    return error


def video_of(part: ContentPart) -> VideoAddress:
    """The options of a part for its video. Raises InvalidRequest, which names the field."""
    try:
        return VideoAddress.model_validate(part.video_url or {})
    except ValidationError as wrong:
        first = wrong.errors()[0]
        field = ".".join(map(str, ("video_url", *first["loc"])))
        raise InvalidRequest(f"A video_url part: {field}: {first['msg']}.", param="messages") from None
