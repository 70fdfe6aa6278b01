"""POST /v1/embeddings with pictures: inputs in parts, or a chat.

Sources of the shapes: OpenAI's parts of a message; vLLM's page on multimodal embeddings (``messages``); Cohere's
and Voyage's references (``content``); Jina's (``{"image": ...}``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from backends.wire.chat import ContentPart, Message
from backends.wire.common import MAX_TEXT, Identifier, ModelName, Text, WireModel
from backends.wire.embeddings import MAX_INPUTS, EmbeddingRequest, Tokens
from catalog.errors import InvalidRequest

MAX_MIXED = 256
MAX_PARTS = 64
NonEmpty = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]


class EmbeddedPicture(BaseModel):
    """A picture, as a data URL or an address."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")
    url: NonEmpty
    detail: Literal["auto", "low", "high"] | None = None


class _Part(BaseModel):
    """A text or a picture; ``image`` is Jina's name of a picture's address or base64."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    type: Literal["text", "image_url"] | None = None
    text: NonEmpty | None = None
    image_url: EmbeddedPicture | NonEmpty | None = None
    image: NonEmpty | None = None

    def part(self) -> ContentPart:
        """The part in OpenAI's shape."""
        if self.text is not None:
            return ContentPart(type="text", text=self.text)
        if isinstance(self.image_url, EmbeddedPicture):
            return ContentPart(type="image_url", image_url=self.image_url.model_dump(exclude_none=True))
        url = self.image_url or self.image or ""
        if self.image is not None and "://" not in url[:16] and not url[:5].lower().startswith("data:"):
            url = f"data:image/png;base64,{url}"  # the data tells its kind
        return ContentPart(type="image_url", image_url={"url": url})


def _check_one(part: _Part) -> None:
    given = [name for name in ("text", "image_url", "image") if getattr(part, name) is not None]
    if len(given) != 1 or (part.type is not None and part.type != given[0]):
        raise ValueError("a part is a text or a picture: give 'text', or 'image_url' with its url")


class EmbeddedPart(_Part):
    """One part of an input."""

    @model_validator(mode="after")
    def _one_thing(self) -> EmbeddedPart:
        _check_one(self)
        return self


class EmbeddedContent(_Part):
    """One input: a part, or the parts of ``content``, which become one vector."""

    content: Annotated[list[EmbeddedPart], Field(min_length=1, max_length=MAX_PARTS)] | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> EmbeddedContent:
        if self.content is None:
            _check_one(self)
            return self
        if any(value is not None for value in (self.type, self.text, self.image_url, self.image)):
            raise ValueError("an input has 'content' or is one part, not both")
        return self

    def parts(self) -> list[ContentPart]:
        return [self.part()] if self.content is None else [one.part() for one in self.content]


Inputs = Annotated[list[NonEmpty | EmbeddedContent], Field(min_length=1, max_length=MAX_INPUTS)]
TokenLists = Annotated[list[Tokens], Field(min_length=1, max_length=MAX_INPUTS)]


class MixedEmbeddingRequest(WireModel):
    """Texts and pictures to embed, one vector per input; or a chat in ``messages``, which becomes one vector."""

    model: ModelName = "auto"
    input: NonEmpty | Inputs | Tokens | TokenLists | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MIXED)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=65536)] | None = None
    input_type: Literal["query", "document"] | None = None
    instruction: Text | None = None
    user: Identifier | None = None

    def contents(self) -> list[list[ContentPart]]:
        """The parts of each input; those of all messages are one. Raises InvalidRequest for other parts."""
        if (self.input is None) == (self.messages is None):
            raise InvalidRequest("Give 'input', or 'messages' of a chat that becomes one vector.", param="input")
        if self.messages is not None:
            return [[part for message in self.messages for part in _parts(message)]]
        given = [self.input] if isinstance(self.input, str) else self.input or []
        if sum(isinstance(one, EmbeddedContent) for one in given) > MAX_MIXED:
            raise InvalidRequest(f"A request may hold at most {MAX_MIXED} objects to embed.", param="input")
        contents = []
        for one in given:
            if not isinstance(one, str | EmbeddedContent):
                raise InvalidRequest("Token ids stand alone, without pictures.", param="input")
            contents.append([ContentPart(type="text", text=one)] if isinstance(one, str) else one.parts())
        return contents

    def items(self) -> list[str]:
        """The texts of each input."""
        return ["\n".join(part.text for part in parts if part.text) for parts in self.contents()]

    def pictures(self) -> int:
        """The number of pictures."""
        return sum(part.image_url is not None for parts in self.contents() for part in parts)

    def plain(self) -> EmbeddingRequest | None:
        """The request of texts alone; None for one with pictures, or a chat."""
        body: dict[str, Any] = self.to_wire(input=None, messages=None)
        if self.messages is None and isinstance(self.input, list) and isinstance(self.input[0], int | list):
            return EmbeddingRequest.model_validate({**body, "input": self.input})
        if self.messages is not None or self.pictures():
            return None
        return EmbeddingRequest.model_validate({**body, "input": self.items()})


def _parts(message: Message) -> list[ContentPart]:
    content = message.content
    parts = [ContentPart(type="text", text=content)] if isinstance(content, str) else content or []
    if other := next((part.type for part in parts if part.type not in ("text", "image_url")), None):
        raise InvalidRequest(f"Texts and pictures are embedded, not {other[:40]!r}.", param="messages")
    return parts
