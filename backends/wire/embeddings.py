"""POST /v1/embeddings: the request. Source: OpenAI's API reference; ``input_type`` as in Cohere and Voyage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from backends.wire.common import MAX_TEXT, Identifier, ModelName, Text, TokenId, WireModel

MAX_INPUTS = 8192
NonEmpty = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]
Tokens = Annotated[list[TokenId], Field(min_length=1, max_length=1_000_000)]


class EmbeddingRequest(WireModel):
    """Texts, or lists of token ids, to embed; the answer keeps their order.

    ``input_type`` and ``instruction`` choose the prompt that the model expects before each.
    """

    model: ModelName = "auto"
    input: (
        NonEmpty
        | Annotated[list[NonEmpty], Field(min_length=1, max_length=MAX_INPUTS)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=65536)] | None = None
    input_type: Literal["query", "document"] | None = None
    instruction: Text | None = None
    user: Identifier | None = None

    def items(self) -> list[str] | list[list[int]]:
        """The inputs as a list, one entry per vector of the answer."""
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [self.input]
        return self.input
