"""POST /v1/chat/completions: the request. Source: OpenAI's API reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, StringConstraints, ValidationInfo, field_validator

from backends.wire.common import CallId, Effort, Identifier, Metadata, SchemaName, Text, WireModel
from backends.wire.sampling import Sampling
from backends.wire.schema import Schema

MAX_MESSAGES = 16_384
MAX_PARTS = 1024
MAX_TOOLS = 256
ToolName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class ContentPart(WireModel):
    """One part of a message: text, image_url, video_url, input_audio, file or refusal.

    The backend checks its content.
    """

    type: Identifier
    text: Text | None = Field(default=None, validate_default=True)
    image_url: dict[str, Any] | None = Field(default=None, validate_default=True)
    video_url: dict[str, Any] | None = Field(default=None, validate_default=True)
    input_audio: dict[str, Any] | None = Field(default=None, validate_default=True)
    file: dict[str, Any] | None = Field(default=None, validate_default=True)
    refusal: Text | None = None

    @field_validator("text", "image_url", "video_url", "input_audio", "file")
    @classmethod
    def _present(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.data.get("type") == info.field_name:
            raise ValueError(f"a part of type '{info.field_name}' needs its {info.field_name}")
        return value

    @field_validator("image_url", "video_url", "input_audio", "file")
    @classmethod
    def _of_its_type(cls, value: Any, info: ValidationInfo) -> Any:
        """Readers look at the type or at the fields; with both alike, they see the same media."""
        if value is not None and info.data.get("type", info.field_name) != info.field_name:
            raise ValueError(f"a part with {info.field_name} must be of the type '{info.field_name}'")
        return value


class FunctionCall(WireModel):
    name: ToolName
    arguments: Text


class ToolCall(WireModel):
    id: CallId
    type: Literal["function", "custom"] = "function"
    function: FunctionCall | None = None


class Message(WireModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | Annotated[list[ContentPart], Field(max_length=MAX_PARTS)] | None = None
    name: Identifier | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: CallId | None = None


class FunctionDefinition(WireModel):
    name: ToolName
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(WireModel):
    type: Literal["function", "custom"] = "function"
    function: FunctionDefinition | None = Field(default=None, validate_default=True)

    @field_validator("function")
    @classmethod
    def _present(cls, value: FunctionDefinition | None, info: ValidationInfo) -> FunctionDefinition | None:
        if value is None and info.data.get("type") == "function":
            raise ValueError("a tool of type 'function' needs its function, with a name")
        return value


class NamedFunction(WireModel):
    name: ToolName


class NamedToolChoice(WireModel):
    type: Identifier = "function"
    function: NamedFunction | None = None


class JsonSchema(WireModel):
    name: SchemaName
    description: Text | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(WireModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(default=None, validate_default=True)

    @field_validator("json_schema")
    @classmethod
    def _present(cls, value: JsonSchema | None, info: ValidationInfo) -> JsonSchema | None:
        if value is None and info.data.get("type") == "json_schema":
            raise ValueError("the type 'json_schema' needs a json_schema, with a name and a schema")
        return value


Domains = Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=253)]], Field(max_length=256)]


class ApproximatePlace(WireModel):
    """``country`` is a code of ISO 3166-1 with two letters, ``timezone`` a name of IANA's database."""

    city: Identifier | None = None
    country: Identifier | None = None
    region: Identifier | None = None
    timezone: Identifier | None = None


class UserLocation(WireModel):
    type: Literal["approximate"]
    approximate: ApproximatePlace


class SearchFilters(WireModel):
    allowed_domains: Domains | None = None
    blocked_domains: Domains | None = None


class WebSearchOptions(WireModel):
    """Lets the model search the web before it answers.

    ``filters`` (from the Responses API) and ``max_uses`` (from Anthropic's) go beyond OpenAI's chats.
    """

    search_context_size: Literal["low", "medium", "high"] | None = None
    user_location: UserLocation | None = None
    filters: SearchFilters | None = None
    max_uses: Annotated[int, Field(ge=1, le=10_000)] | None = None


class ChatRequest(Sampling):
    """A request for a chat completion."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]

    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    web_search_options: WebSearchOptions | None = None

    store: bool | None = None
    metadata: Metadata | None = None

    @property
    def output_limit(self) -> int | None:
        """The caller's bound on tokens of the answer: the smaller, if both of its names are set."""
        if self.max_completion_tokens is None or self.max_tokens is None:
            return self.max_completion_tokens or self.max_tokens
        return min(self.max_completion_tokens, self.max_tokens)


@dataclass(frozen=True, slots=True)
class PaidTools:
    """The tools of a request that its provider runs for money beside the tokens.

    ``searches`` is the caller's bound on web searches, None if it sets none. ``containers`` may run code.
    ``others`` names tools and fields whose cost cannot be told beforehand.
    """

    searches: int | None = 0
    containers: int = 0
    others: tuple[str, ...] = ()


NO_PAID_TOOLS = PaidTools()


@dataclass(frozen=True, slots=True)
class Original:
    """The request that a chat was translated from, for providers of the same language (:mod:`backends.native`).

    ``wire`` names the language ("messages", "responses"); ``headers`` and ``query`` are those of the caller that
    belong to it.
    ``refusal``, the message and parameter of an error, says why no provider of another language can answer it.
    ``own_tools``: the answer of such a provider may call tools that the chat lacks, or has by another name.
    ``paid``: what such a provider may run for money. ``withheld``: an id in the request that must not go to one.
    """

    wire: str
    request: WireModel
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    refusal: tuple[str, str | None] | None = None
    own_tools: bool = False
    paid: PaidTools = NO_PAID_TOOLS
    withheld: str | None = None


class TranslatedChat(ChatRequest):
    """A chat translated from a request of another API.

    ``left_out`` names the fields of that request that no chat has. ``foreign`` names those that are kept for
    providers of the other API alone, and marks within messages and tools may be kept for them, too. ``makers``
    has the id of the model whose reasoning a message holds, by the message's position.
    """

    _left_out: tuple[str, ...] = PrivateAttr(default=())
    _foreign: frozenset[str] = PrivateAttr(default=frozenset())
    _original: Original | None = PrivateAttr(default=None)
    _makers: Mapping[int, str] = PrivateAttr(default_factory=dict)

    @property
    def left_out(self) -> tuple[str, ...]:
        return self._left_out

    @property
    def foreign(self) -> frozenset[str]:
        return self._foreign

    @property
    def makers(self) -> Mapping[int, str]:
        return self._makers

    @property
    def original(self) -> Original | None:
        return self._original

    def with_original(self, original: Original) -> TranslatedChat:
        """A copy whose providers of the other language get this request."""
        copy = self.model_copy()
        copy._original = original
        return copy

    def followed_by(
        self, messages: Sequence[Message], makers: Mapping[int, str], changes: Mapping[str, Any]
    ) -> TranslatedChat:
        """A copy with more messages and other fields, which no longer stands for the original request.

        ``makers`` are those of the new messages, by their positions among them.
        """
        copy = self.model_copy(update={**changes, "messages": [*self.messages, *messages]})
        before = len(self.messages)
        copy._makers = {**self._makers, **{before + at: model for at, model in makers.items()}}
        copy._original = None
        return copy

    def without_original(self) -> TranslatedChat:
        """A copy that no longer stands for the original request."""
        copy = self.model_copy()
        copy._original = None
        return copy

    @classmethod
    def of(
        cls,
        body: dict[str, Any],
        left_out: tuple[str, ...],
        foreign: frozenset[str],
        original: Original | None = None,
        makers: Mapping[int, str] | None = None,
    ) -> TranslatedChat:
        """Validate a body. Raises pydantic's ValidationError."""
        chat = cls.model_validate(body)
        chat._left_out, chat._foreign, chat._original = left_out, foreign, original
        chat._makers = makers or {}
        return chat
