"""POST /tokenize and /detokenize: the requests, in the shapes of llama.cpp and vLLM."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backends.wire.common import ModelName, Text, TokenId, WireModel


class TokenizeRequest(WireModel):
    """A text to split into tokens; ``with_pieces`` adds each token's text (or its bytes)."""

    model: ModelName = "auto"
    content: Text
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class PropertiesRequest(WireModel):
    """The model to describe."""

    model: ModelName = "auto"


class DetokenizeRequest(WireModel):
    """Token ids to join into a text."""

    model: ModelName = "auto"
    tokens: Annotated[list[TokenId], Field(max_length=1_000_000)]
