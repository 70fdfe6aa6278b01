"""Requests of Ollama's API. Source: Ollama's API reference, ``api/types.go`` and the types of its SDKs.

A model is named by ``model``, in older clients by ``name``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from backends.wire.chat import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, ToolName
from backends.wire.common import CallId, Finite, Identifier, ModelName, Text, WireModel
from backends.wire.embeddings import MAX_INPUTS

KeepAlive = Annotated[Finite, Field(ge=-1e12, le=1e12)] | Annotated[str, Field(max_length=64)]
"""How long a model stays loaded: seconds, or a duration as Go writes it (``5m``); for ever if negative."""
Images = Annotated[list[Text], Field(max_length=MAX_PARTS)]
Options = Annotated[dict[Identifier, Any], Field(max_length=128)]
Think = bool | Literal["low", "medium", "high", "max"]


class NamesModel(WireModel):
    """A body that names a model, as Ollama demands: none is chosen unasked, so ``auto`` has to be said."""

    model: ModelName
    name: ModelName | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("name") is not None and data.get("model") in (None, ""):
            return {**data, "model": data["name"]}
        return data


class GivenFunction(WireModel):
    """``arguments`` is an object; some clients send its JSON text."""

    name: ToolName
    arguments: dict[str, Any] | Text | None = None
    index: int | None = None


class GivenCall(WireModel):
    id: CallId | None = None
    function: GivenFunction


class GivenMessage(WireModel):
    """``images`` are base64. A tool's result names its call by ``tool_call_id``, or the tool by ``tool_name``."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | None = None
    thinking: Text | None = None
    images: Images | None = None
    tool_calls: Annotated[list[GivenCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_name: Identifier | None = None
    tool_call_id: CallId | None = None
    name: Identifier | None = None


class OllamaAnswerRequest(NamesModel):
    """The fields that chats and completions share. An answer streams unless ``stream`` is false."""

    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: KeepAlive | None = None
    think: Think | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def streams(self) -> bool:
        return self.stream is not False


class OllamaChatRequest(OllamaAnswerRequest):
    """POST /api/chat. Without messages it loads the model, or unloads it with a ``keep_alive`` of 0."""

    messages: Annotated[list[GivenMessage], Field(max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None


class OllamaGenerateRequest(OllamaAnswerRequest):
    """POST /api/generate. Without a prompt it loads the model, or unloads it with a ``keep_alive`` of 0.

    ``context`` is that of an earlier answer, which this one continues. With ``raw`` the prompt goes to the model
    as it is, without its chat template.
    """

    prompt: Text | None = None
    suffix: Text | None = None
    system: Text | None = None
    template: Text | None = None
    context: Annotated[list[Annotated[int, Field(ge=0, lt=2**53)]], Field(max_length=1_000_000)] | None = None
    raw: bool | None = None
    images: Images | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to answer."""
        return not (self.prompt or self.suffix or self.images)


class OllamaEmbedRequest(NamesModel):
    """POST /api/embed. A text that is too long is cut, unless ``truncate`` is false."""

    input: Text | Annotated[list[Text], Field(max_length=MAX_INPUTS)] | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=0, le=65536)] | None = None
    options: Options | None = None
    keep_alive: KeepAlive | None = None


class OllamaEmbeddingsRequest(NamesModel):
    """POST /api/embeddings: one text."""

    prompt: Text | None = None
    options: Options | None = None
    keep_alive: KeepAlive | None = None


class OllamaModelRequest(NamesModel):
    """POST /api/show and DELETE /api/delete."""


class OllamaPullRequest(NamesModel):
    """POST /api/pull: a model of the catalogue, or ``hf.co/OWNER/REPOSITORY[:QUANTISATION]``.

    ``insecure`` means nothing here: connections to the hub are verified.
    """

    stream: bool | None = None
    insecure: bool | None = None
