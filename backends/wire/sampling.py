"""The common fields of chat and text completion requests. Source: OpenAI's API reference, llama.cpp's samplers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from backends.wire.common import MAX_STOPS, Finite, Identifier, ModelName, Seed, StopText, WireModel


class StreamOptions(WireModel):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampling(WireModel):
    """Sampling and form of the answer. ``top_k``, ``min_p``, ``repeat_penalty`` and ``typical_p`` are samplers of
    llama.cpp and vLLM; ``stop`` is always a list, also if the caller gave one text."""

    model: ModelName = "auto"

    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
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
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Identifier | None = None

    @field_validator("stop")
    @classmethod
    def _as_list(cls, value: str | list[str] | None) -> list[str] | None:
        return [value] if isinstance(value, str) else value
