"""POST /v1/images/generations: the request. Source: OpenAI's API reference, diffusers for samplers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from backends.wire.common import Finite, Identifier, ModelName, Seed, Text, WireModel


class ImageRequest(WireModel):
    """Pictures to draw. Of several, picture ``i`` has ``seed + i``."""

    model: ModelName = "auto"
    prompt: Annotated[str, StringConstraints(min_length=1, max_length=32_000)]
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: Annotated[str, StringConstraints(pattern=r"^(auto|[1-9]\d{1,3}x[1-9]\d{1,3})$")] | None = None
    quality: Identifier | None = None
    style: Identifier | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    moderation: Literal["low", "auto"] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    negative_prompt: Text | None = None
    steps: Annotated[int, Field(ge=1, le=500)] | None = None
    guidance_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None
    seed: Seed | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    user: Identifier | None = None
