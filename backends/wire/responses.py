"""POST /v1/responses: the request. Source: OpenAI's API reference and SDK types.

Items of ``input`` and tools are of many kinds, some of them OpenAI's own services; :mod:`server.wires.responses`
checks them while translating.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from backends.wire.chat import MAX_MESSAGES, MAX_TOOLS
from backends.wire.common import Effort, Finite, Identifier, Metadata, ModelName, SchemaName, Text, WireModel
from backends.wire.schema import Schema

LEAST_OUTPUT = 16
"""The smallest ``max_output_tokens`` that OpenAI takes."""
OWN_ID = "rh"
"""Ids of items begin with it, after their kind, where the gateway wrote them and no provider knows them."""

INCLUDES = frozenset(
    {
        *("code_interpreter_call.outputs", "computer_call_output.output.image_url", "file_search_call.results"),
        *("message.input_image.image_url", "message.output_text.logprobs", "reasoning.encrypted_content"),
        *("web_search_call.action.sources", "web_search_call.results"),
    }
)
"""OpenAI's names for parts of items that are shown only on request."""


class Reasoning(WireModel):
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class TextFormat(WireModel):
    type: Literal["text", "json_object", "json_schema"]
    name: SchemaName | None = None
    description: Text | None = None
    schema_: Schema | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(WireModel):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponsesRequest(WireModel):
    """A request for a model response.

    ``input`` holds what ``previous_response_id`` and ``conversation``, which are stored here, do not.
    """

    model: ModelName = "auto"
    input: Text | Annotated[list[dict[str, Any]], Field(max_length=MAX_MESSAGES)] | None = None
    instructions: Text | None = None

    max_output_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=1, le=10_000)] | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: Annotated[list[Identifier], Field(max_length=32)] | None = None

    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    store: bool | None = None
    previous_response_id: Identifier | None = None
    conversation: Identifier | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None

    user: Identifier | None = None
    metadata: Metadata | None = None
