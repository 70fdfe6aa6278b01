"""POST /v1/completions: the request. Source: OpenAI's API reference, and llama.cpp's extra samplers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from backends.wire.chat import StreamOptions
from backends.wire.common import Finite, Identifier, ModelName, Seed, StopText, Text, TokenId, WireModel

Tokens = Annotated[list[TokenId], Field(min_length=1, max_length=1_000_000)]


class CompletionRequest(WireModel):
    """A prompt to go on from: a text, texts, tokens or lists of tokens."""

    model: ModelName
    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=128)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=128)]
    )
    suffix: Text | None = None
    echo: bool | None = None

    max_tokens: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    seed: Seed | None = None

    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[Finite, Field(gt=0, le=100)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=16, pattern=r"^\d+$")],
                Annotated[Finite, Field(ge=-100, le=100)],
            ],
            Field(max_length=2048),
        ]
        | None
    ) = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Identifier | None = None

    @field_validator("stop")
    @classmethod
    def _as_list(cls, value: str | list[str] | None) -> list[str] | None:
        return [value] if isinstance(value, str) else value
