"""Answers of Ollama's API, as types for ``/openapi.json``. Durations are nanoseconds, sizes bytes."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict


class OllamaToken(TypedDict):
    token: str
    logprob: float
    bytes: NotRequired[list[int]]


class OllamaLogprob(OllamaToken):
    top_logprobs: NotRequired[list[OllamaToken]]


class OllamaFunction(TypedDict):
    index: int
    name: str
    arguments: dict[str, Any]


class OllamaToolCall(TypedDict):
    id: str
    function: OllamaFunction


class OllamaMessage(TypedDict):
    role: str
    content: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[OllamaToolCall]]


class OllamaLine(TypedDict):
    """Members of the lines of all answers; the last one is ``done``, with the counts and durations."""

    model: str
    created_at: str
    done: bool
    done_reason: NotRequired[str]
    total_duration: NotRequired[int]
    load_duration: NotRequired[int]
    prompt_eval_count: NotRequired[int]
    prompt_eval_duration: NotRequired[int]
    eval_count: NotRequired[int]
    eval_duration: NotRequired[int]
    logprobs: NotRequired[list[OllamaLogprob]]


class OllamaChatLine(OllamaLine):
    message: OllamaMessage


class OllamaGenerateLine(OllamaLine):
    """``context`` continues the conversation in a later request."""

    response: str
    thinking: NotRequired[str]
    context: NotRequired[list[int]]


class OllamaEmbeddings(TypedDict):
    """``truncated`` has the positions of texts that were cut."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int
    truncated: NotRequired[list[int]]


class OllamaEmbedding(TypedDict):
    embedding: list[float]


class OllamaDetails(TypedDict):
    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str


class OllamaListed(TypedDict):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails
    capabilities: list[str]


class OllamaTags(TypedDict):
    models: list[OllamaListed]


class OllamaLoaded(TypedDict):
    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str
    size_vram: int
    context_length: int


class OllamaRunning(TypedDict):
    models: list[OllamaLoaded]


class OllamaShown(TypedDict):
    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
    license: NotRequired[str]


class OllamaVersion(TypedDict):
    """``version`` is the one of Ollama whose API this is; clients ask for a lowest one."""

    version: str
    roundhouse: str


class PullLine(TypedDict):
    """``completed`` and ``total`` count the bytes of the file with this ``digest``."""

    status: str
    digest: NotRequired[str]
    total: NotRequired[int]
    completed: NotRequired[int]
