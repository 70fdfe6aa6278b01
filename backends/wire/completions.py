"""POST /v1/completions: the request. Source: OpenAI's API reference."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backends.wire.chat import ResponseFormat
from backends.wire.common import Text, TokenId
from backends.wire.sampling import Sampling

Tokens = Annotated[list[TokenId], Field(min_length=1, max_length=1_000_000)]


class CompletionRequest(Sampling):
    """A prompt to continue: a text, texts, token ids or lists of token ids."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=128)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=128)]
    )
    suffix: Text | None = None
    echo: bool | None = None

    max_tokens: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
