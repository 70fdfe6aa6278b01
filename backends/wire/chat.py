"""POST /v1/chat/completions: the request. Source: OpenAI's API reference, and llama.cpp's extra samplers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from backends.wire.common import Finite, Identifier, ModelName, Seed, StopText, Text, WireModel
from backends.wire.schema import Schema

MAX_MESSAGES = 4096
MAX_PARTS = 1024
MAX_TOOLS = 256
ToolName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class ContentPart(WireModel):
    """One part of a message: text, image_url, input_audio, file or refusal; checked where it is used."""

    type: Identifier
    text: Text | None = None
    image_url: dict[str, Any] | None = None
    input_audio: dict[str, Any] | None = None
    file: dict[str, Any] | None = None
    refusal: Text | None = None


class FunctionCall(WireModel):
    name: ToolName
    arguments: Text


class ToolCall(WireModel):
    id: Identifier
    type: Literal["function", "custom"] = "function"
    function: FunctionCall | None = None


class Message(WireModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | Annotated[list[ContentPart], Field(max_length=MAX_PARTS)] | None = None
    name: Identifier | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Identifier | None = None


class FunctionDefinition(WireModel):
    name: ToolName
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(WireModel):
    type: Literal["function", "custom"] = "function"
    function: FunctionDefinition | None = None


class NamedFunction(WireModel):
    name: ToolName


class NamedToolChoice(WireModel):
    type: Identifier = "function"
    function: NamedFunction | None = None


class JsonSchema(WireModel):
    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    description: Text | None = None
    schema_: Schema | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(WireModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(WireModel):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(WireModel):
    """A chat. ``top_k``, ``min_p``, ``repeat_penalty`` and ``typical_p`` are llama.cpp's and vLLM's samplers."""

    model: ModelName
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]

    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
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
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None

    user: Identifier | None = None
    metadata: Annotated[dict[Identifier, Text], Field(max_length=64)] | None = None

    @field_validator("stop")
    @classmethod
    def _as_list(cls, value: str | list[str] | None) -> list[str] | None:
        return [value] if isinstance(value, str) else value

    @property
    def output_limit(self) -> int | None:
        """The caller's bound on tokens of the answer, whichever of the two names it used."""
        return self.max_completion_tokens or self.max_tokens
