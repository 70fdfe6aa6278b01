"""POST /v1/messages: the request. Source: Anthropic's API reference and SDK types.

Content blocks and tools are of many kinds, some of them Anthropic's own services; :mod:`server.wires.messages`
checks them while translating.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from backends.wire.chat import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS
from backends.wire.common import MAX_STOPS, Finite, ModelName, StopText, Text, WireModel

Blocks = Annotated[list[dict[str, Any]], Field(max_length=MAX_PARTS)]


class OutputConfig(WireModel):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: dict[str, Any] | None = None


class InputMessage(WireModel):
    """A turn. A system message may set the effort of a user's turn with ``output_config``, and have no content."""

    role: Literal["user", "assistant", "system"]
    content: Text | Blocks = ""
    output_config: OutputConfig | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        config = self.output_config if self.role == "system" else None
        if "content" in self.model_fields_set or (config is not None and config.model_fields_set):
            return self
        missing = InitErrorDetails(type="missing", loc=("content",), input={})
        raise ValidationError.from_exception_data("InputMessage", [missing])


class MessagesRequest(WireModel):
    """A request for a message. ``max_tokens`` is required, as in Anthropic's API; 0 fills its cache."""

    model: ModelName = "auto"
    max_tokens: Annotated[int, Field(ge=0, le=10_000_000)]
    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Text | Blocks | None = None

    stop_sequences: Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=1)] | None = None
    top_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None

    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: OutputConfig | None = None

    stream: bool | None = None
    metadata: dict[str, Any] | None = None


class CountTokensRequest(WireModel):
    """POST /v1/messages/count_tokens: the fields of a request that its prompt tokens depend on."""

    model: ModelName = "auto"
    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Text | Blocks | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
