"""POST /v1/videos: the request. Source: OpenAI's API reference; diffusers and vLLM-Omni for the samplers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator
from pydantic.json_schema import SkipJsonSchema

from backends.wire.common import Finite, Identifier, ModelName, Seed, Text, WireModel, Written

USUAL_SECONDS = "4"
"""The length of a video without one in its request, as at OpenAI."""
LONGEST = 120
"""The most seconds of a video that a request may ask for; models make less."""
MAX_SOURCE = 64 * 1024 * 1024
"""Bytes of a video that another is made from."""

VideoPrompt = Annotated[str, StringConstraints(min_length=1, max_length=32_000)]


def _as_text(value: Any) -> Any:
    """A number of seconds as OpenAI writes it, in quotes."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return str(value) if type(value) is int else value


VideoLength = Annotated[
    str, BeforeValidator(_as_text), Written(r"^([1-9]\d?|1[01]\d|120)$", "whole seconds from 1 to 120")
]
"""Whole seconds, from 1 to :data:`LONGEST`. OpenAI's are 4, 8 and 12."""
VideoSize = Annotated[str, Written(r"^[1-9]\d{1,3}x[1-9]\d{1,3}$", "WIDTHxHEIGHT, each from 10 to 9999 pixels")]
"""Width and height in pixels."""


class VideoRequest(WireModel):
    """A video to make.

    ``task`` is the kind of work: a new video, or one made from ``source``, the bytes of an MP4, which a server
    that has it itself is told by ``source_id`` instead: a ``remix`` or an ``edit`` changes it, ``extend`` goes
    on from its end for ``seconds``. ``image`` is the first frame, of the media type ``image_type``.
    ``resized``: another ``size`` than the source's is asked for.
    ``strength`` is the share of a source that is made anew. ``fps``, ``steps``, ``guidance_scale``,
    ``negative_prompt``, ``seed``, ``strength`` and ``generate_audio`` are ours. ``accepted`` is the name of a
    server's work that goes on.
    """

    model: ModelName = "auto"
    prompt: VideoPrompt
    seconds: VideoLength = USUAL_SECONDS
    size: VideoSize | None = None
    fps: Annotated[int, Field(ge=1, le=120)] | None = None
    negative_prompt: Text | None = None
    steps: Annotated[int, Field(ge=1, le=500)] | None = None
    guidance_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None
    strength: Annotated[Finite, Field(ge=0, le=1)] | None = None
    generate_audio: bool | None = None
    seed: Seed | None = None
    user: Identifier | None = None
    task: SkipJsonSchema[Literal["create", "remix", "edit", "extend"]] = Field(default="create", exclude=True)
    image: SkipJsonSchema[bytes | None] = Field(default=None, repr=False, exclude=True)
    image_type: SkipJsonSchema[str] = Field(default="image/png", exclude=True)
    source: SkipJsonSchema[bytes | None] = Field(default=None, repr=False, exclude=True)
    source_id: SkipJsonSchema[str | None] = Field(default=None, exclude=True)
    resized: SkipJsonSchema[bool] = Field(default=False, exclude=True)
    accepted: SkipJsonSchema[str | None] = Field(default=None, exclude=True)

    @field_validator("seconds", mode="before")
    @classmethod
    def _usual(cls, value: Any) -> Any:
        return USUAL_SECONDS if value is None else value

    @property
    def from_video(self) -> bool:
        """Whether it is made from another video."""
        return self.task != "create"


INTERNAL = frozenset({"task", "image", "image_type", "source", "source_id", "resized", "accepted"})
"""Fields of a request that no caller sends."""


class DiscardRequest(WireModel):
    """Ends a server's work on a video, and deletes what it has of it: ``accepted`` is its name there."""

    model: ModelName
    accepted: str
