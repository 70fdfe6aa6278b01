"""POST /v1/images/generations, /edits and /variations: the requests.

Sources: OpenAI's API reference and SDK types; diffusers for samplers and ``strength``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from backends.wire.common import Finite, Identifier, ModelName, Seed, Text, WireModel, Written

MOST_PICTURES = 16
"""Pictures of one edit, as at OpenAI."""
VARY = "Draw a variation of this picture: the same subject, style and composition, with small differences."
"""The prompt of a variation at a server that edits and has no variations of its own."""
PictureDimensions = Annotated[
    str, Written(r"^(auto|[1-9]\d{1,3}x[1-9]\d{1,3})$", "'auto' or WIDTHxHEIGHT, each from 10 to 9999 pixels")
]
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=32_000)]
Strength = Annotated[Finite, Field(gt=0, le=1)]
Fidelity = Literal["high", "low"]


class ImageRequest(WireModel):
    """Pictures to draw. Of several, picture ``i`` has ``seed + i``."""

    model: ModelName = "auto"
    prompt: Prompt
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: PictureDimensions | None = None
    quality: Identifier | None = None
    style: Identifier | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    moderation: Literal["low", "auto"] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp", "gif", "svg"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    negative_prompt: Text | None = None
    steps: Annotated[int, Field(ge=1, le=500)] | None = None
    guidance_scale: Annotated[Finite, Field(ge=0, le=100)] | None = None
    seed: Seed | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    user: Identifier | None = None

    @property
    def files(self) -> tuple[bytes, ...]:
        """All pictures that were sent with the request."""
        return ()


class ImageEditRequest(ImageRequest):
    """Pictures to change: the fields of the multipart form, and the bytes of its files.

    ``image`` may be one file or several (``image[]``), PNG, JPEG or WebP. Where ``mask``, a PNG of the first
    picture's size, is transparent, that picture is drawn anew. ``markup`` is a transparent PNG that is laid over
    it. ``strength`` from 0 to 1, which is ours, is how far the result may depart from the picture. ``variation``
    marks POST /v1/images/variations, whose prompt is empty.
    """

    prompt: Annotated[str, StringConstraints(max_length=32_000)] = ""
    image: Annotated[tuple[bytes, ...], Field(min_length=1, max_length=MOST_PICTURES)] = Field(
        repr=False, exclude=True
    )
    mask: bytes | None = Field(default=None, repr=False, exclude=True)
    markup: bytes | None = Field(default=None, repr=False, exclude=True)
    input_fidelity: Fidelity | None = None
    strength: Strength | None = None
    variation: SkipJsonSchema[bool] = Field(default=False, exclude=True)

    @property
    def files(self) -> tuple[bytes, ...]:
        return (*self.image, *(data for data in (self.mask, self.markup) if data is not None))


class ImageReference(WireModel):
    """A picture within JSON: a ``data:`` URL, or the id of a file of the caller's."""

    image_url: Text | None = None
    file_id: Identifier | None = None


class ImageEditBody(ImageRequest):
    """The JSON form of an edit, whose pictures are ``data:`` URLs or ids of the caller's files."""

    images: Annotated[tuple[ImageReference, ...], Field(min_length=1, max_length=MOST_PICTURES)]
    mask: ImageReference | None = None
    markup: ImageReference | None = None
    input_fidelity: Fidelity | None = None
    strength: Strength | None = None
