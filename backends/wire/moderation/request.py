"""POST /v1/moderations: the request. Source: OpenAI's API reference."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from typing_extensions import TypedDict

from backends.wire.answers import InputUsage
from backends.wire.common import MAX_TEXT, ModelName, Text, WireModel

MAX_INPUTS = 1024
MAX_PARTS = 128


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class ModeratedText(_Part):
    type: Literal["text"]
    text: Text


class ImageAddress(_Part):
    url: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]


class ModeratedImage(_Part):
    """A picture, as an address or a data URL."""

    type: Literal["image_url"]
    image_url: ImageAddress


ModeratedPart = Annotated[ModeratedText | ModeratedImage, Field(discriminator="type")]


class ModerationRequest(WireModel):
    """Content to judge: a text, texts with a result each, or the parts of one content with one result."""

    model: ModelName = "auto"
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[list[ModeratedPart], Field(min_length=1, max_length=MAX_PARTS)]
    )

    @property
    def has_images(self) -> bool:
        """Whether a part is a picture."""
        return not isinstance(self.input, str) and any(isinstance(item, ModeratedImage) for item in self.input)

    def texts(self) -> list[str]:
        """The text of each result; that of several parts is joined."""
        if isinstance(self.input, str):
            return [self.input]
        texts = [item for item in self.input if isinstance(item, str)]
        if texts:
            return texts
        return ["\n".join(item.text for item in self.input if isinstance(item, ModeratedText))]


class ModerationResult(TypedDict):
    """The verdict on one content. The maps have OpenAI's categories, and a provider's further ones.

    A category without an applied input type was not judged.
    """

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]


class ModerationList(TypedDict):
    """One result per content. ``scoring`` names the source of the scores where the model is no moderator."""

    id: str
    model: str
    results: list[ModerationResult]
    scoring: NotRequired[str]
    truncated: NotRequired[list[int]]
    usage: NotRequired[InputUsage]
