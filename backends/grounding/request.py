"""POST /v1/ground: where things are in a picture."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints
from typing_extensions import TypedDict

from backends.wire.answers import FinishReason, TokenUsage
from backends.wire.chat import ChatRequest
from backends.wire.common import Effort, Finite, Identifier, ModelName, Seed, WireModel
from backends.wire.seeing.places import LocatedPlace

MAX_PHRASES = 64
MAX_BOXES = 200
USUAL_BOXES = 32
_OF_EVERY_REQUEST = frozenset({"routing", "strict", "timings"})
Phrase = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"\S")]
Address = Annotated[str, StringConstraints(min_length=1)]
"""Of any length, as in a chat: the limit of the body bounds it."""


class PictureAddress(BaseModel):
    """A picture, as a data URL or an address; ``detail`` as in a chat."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    url: Address
    detail: Literal["auto", "low", "high"] | None = None


class GroundRequest(WireModel):
    """A picture, and a phrase or several: what is to be found in it."""

    model: ModelName = "auto"
    image: Address | PictureAddress
    phrase: Phrase | Annotated[list[Phrase], Field(min_length=1, max_length=MAX_PHRASES)]
    max_boxes: Annotated[int, Field(ge=1, le=MAX_BOXES)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    seed: Seed | None = None
    reasoning_effort: Effort | None = None
    user: Identifier | None = None

    def unknown(self) -> tuple[str, ...]:
        """The names of fields that it does not have."""
        return tuple(name for name in self.model_extra or {} if name not in _OF_EVERY_REQUEST)

    def phrases(self) -> list[str]:
        """The phrases, each once."""
        return list(dict.fromkeys([self.phrase] if isinstance(self.phrase, str) else self.phrase))


class GroundingChat(ChatRequest):
    """The chat that answers a :class:`GroundRequest`; its prompt is put in the words of the model that gets it."""

    _phrases: tuple[str, ...] = PrivateAttr(default=())
    _most: int = PrivateAttr(default=USUAL_BOXES)

    @property
    def phrases(self) -> tuple[str, ...]:
        return self._phrases

    @property
    def most(self) -> int:
        """The most boxes of the answer."""
        return self._most

    @classmethod
    def of(cls, request: GroundRequest) -> GroundingChat:
        """The chat of a request."""
        picture = request.image
        address = {"url": picture} if isinstance(picture, str) else picture.model_dump(exclude_none=True)
        asked = ", ".join(request.phrases())
        given = request.to_wire(image=None, phrase=None, max_boxes=None)
        body: dict[str, Any] = {name: given[name] for name in given if name not in request.unknown()}
        parts = [{"type": "image_url", "image_url": address}, {"type": "text", "text": f"Locate: {asked}"}]
        chat = cls.model_validate({**body, "messages": [{"role": "user", "content": parts}]})
        chat._phrases = tuple(request.phrases())
        chat._most = request.max_boxes or USUAL_BOXES
        return chat


class PictureSize(TypedDict):
    """Pixels of the upright picture."""

    width: int
    height: int


class GroundList(TypedDict):
    """The places of what was looked for. ``image`` is null where only the model's server has seen the picture.

    ``content`` is the model's own text.
    """

    object: Literal["grounding"]
    model: NotRequired[str]
    image: PictureSize | None
    data: list[LocatedPlace]
    content: str
    finish_reason: FinishReason | None
    usage: NotRequired[TokenUsage | None]
