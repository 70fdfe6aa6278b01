"""The common fields of chat and text completion requests. Source: OpenAI's API reference, llama.cpp's samplers."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, field_validator

from backends.wire.common import (
    MAX_STOPS,
    Finite,
    Identifier,
    ModelName,
    Seed,
    StopText,
    TokenId,
    WireModel,
)
from backends.wire.schema import Schema, check_pattern

OLLAMA_OPTIONS = frozenset(
    {
        *("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "num_keep", "seed"),
        *("num_predict", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "temperature", "repeat_penalty"),
        *("presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline"),
        *("stop", "numa", "low_vram", "use_mlock", "tfs_z"),
    }
)
"""Ollama's ``options``. A caller gives them in ``options`` or beside the other fields, an operator in the options
of the model's row, ``keep_alive`` too; a caller's own value wins."""
MAX_GRAMMAR = 100_000
MAX_CHOICES = 1000


def _checked(pattern: str) -> str:
    check_pattern(pattern)
    return pattern


Regex = Annotated[str, StringConstraints(min_length=1), AfterValidator(_checked)]
Choices = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=10_000)]],
    Field(min_length=1, max_length=MAX_CHOICES),
]
Grammar = Annotated[str, StringConstraints(min_length=1, max_length=MAX_GRAMMAR)]


class StreamOptions(WireModel):
    """``continuous_usage_stats`` is vLLM's: every chunk has the usage so far."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class StructuredOutputs(WireModel):
    """vLLM's field for the form of the answer; one of its members is set."""

    json_: Schema | str | None = Field(default=None, alias="json")
    json_object: bool | None = None
    regex: Regex | None = None
    choice: Choices | None = None
    grammar: Grammar | None = None


class Sampling(WireModel):
    """Sampling and form of the answer. ``top_k``, ``min_p``, ``repeat_penalty`` and ``typical_p`` are samplers of
    llama.cpp and vLLM, and ``repetition_penalty`` is vLLM's name of ``repeat_penalty``; ``structured_outputs`` is
    vLLM's, the ``guided_*`` fields are its older names, ``grammar`` (GBNF or llguidance's Lark) is llama.cpp's.
    ``stop`` is always a list, also if the caller gave one text."""

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
    repetition_penalty: Annotated[Finite, Field(gt=0, le=100)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=16, pattern=r"^[0-9]+$")],
                Annotated[Finite, Field(ge=-100, le=100)],
            ],
            Field(max_length=2048),
        ]
        | None
    ) = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_regex: Regex | None = None
    guided_choice: Choices | None = None
    guided_grammar: Grammar | None = None
    grammar: Grammar | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Identifier | None = None

    @field_validator("stop")
    @classmethod
    def _as_list(cls, value: str | list[str] | None) -> list[str] | None:
        return [value] if isinstance(value, str) else value
