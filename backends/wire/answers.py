"""Answers in OpenAI's shapes (Cohere's and Jina's for rerank and classify), as types for ``/openapi.json``.

Answers are plain dictionaries at run time: they are checked where an upstream's are read, and passed on. A
provider's own fields may stand beside these. Sources: the API references of OpenAI, Anthropic, Cohere and Jina.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from backends.wire.seeing.places import GroundedPlace

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class TokenDetails(TypedDict):
    cached_tokens: NotRequired[int | None]
    cache_write_tokens: NotRequired[int | None]
    audio_tokens: NotRequired[int | None]
    image_tokens: NotRequired[int | None]
    reasoning_tokens: NotRequired[int | None]


class CacheCreation(TypedDict):
    """Tokens written to a cache, by their time to live."""

    ephemeral_5m_input_tokens: NotRequired[int]
    ephemeral_1h_input_tokens: NotRequired[int]


class ServerToolUse(TypedDict):
    """Calls of tools that the provider ran itself, as it charges them."""

    web_search_requests: NotRequired[int]
    web_fetch_requests: NotRequired[int]
    containers: NotRequired[int]


class TokenUsage(TypedDict):
    """Tokens of a request and its answer; ``estimated`` ones stand on chunks before the end alone."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    estimated: NotRequired[bool]
    prompt_tokens_details: NotRequired[TokenDetails | None]
    completion_tokens_details: NotRequired[TokenDetails | None]
    cache_creation: NotRequired[CacheCreation]
    server_tool_use: NotRequired[ServerToolUse]


class CalledFunction(TypedDict):
    """``arguments`` is JSON, as text."""

    name: str
    arguments: str


class CalledTool(TypedDict):
    id: str
    type: Literal["function"]
    function: CalledFunction


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    content: list[TokenLogprob] | None
    refusal: NotRequired[list[TokenLogprob] | None]


class UrlCitation(TypedDict):
    """A page that the characters of the message from ``start_index`` to ``end_index`` rely on.

    ``content`` is the cited text of the page, where the provider gives it.
    """

    start_index: NotRequired[int | None]
    end_index: NotRequired[int | None]
    title: NotRequired[str | None]
    url: str
    content: NotRequired[str | None]


class Annotation(TypedDict):
    type: str
    url_citation: NotRequired[UrlCitation]


class MadeImage(TypedDict):
    """A picture that a chat model made; ``image_url.url`` is mostly a data URL."""

    type: NotRequired[str]
    image_url: dict[str, Any]


class ServerToolCall(TypedDict):
    """A call of a tool that the provider ran itself, as an output item of the Responses API."""

    id: NotRequired[str]
    type: str
    status: NotRequired[str | None]
    action: NotRequired[dict[str, Any]]
    extra_content: NotRequired[dict[str, Any]]


class ChatMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: NotRequired[str | None]
    reasoning_content: NotRequired[str | None]
    annotations: NotRequired[list[Annotation] | None]
    images: NotRequired[list[MadeImage] | None]
    grounding: NotRequired[list[GroundedPlace] | None]
    audio: NotRequired[dict[str, Any] | None]
    server_tool_calls: NotRequired[list[ServerToolCall] | None]
    tool_calls: NotRequired[list[CalledTool]]


class ChatChoice(TypedDict):
    index: int
    message: ChatMessage
    logprobs: NotRequired[ChatLogprobs | None]
    finish_reason: FinishReason


class Container(TypedDict):
    """The place at the provider in which the model ran code; a request that names it goes on there."""

    id: str
    expires_at: NotRequired[str]


class ChatCompletion(TypedDict):
    """A whole answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: NotRequired[TokenUsage | None]
    system_fingerprint: NotRequired[str | None]
    container: NotRequired[Container]
    service_tier: NotRequired[str | None]


class FunctionDelta(TypedDict):
    name: NotRequired[str | None]
    arguments: NotRequired[str | None]


class ToolCallDelta(TypedDict):
    index: int
    id: NotRequired[str | None]
    type: NotRequired[Literal["function"] | None]
    function: NotRequired[FunctionDelta]


class ChatDelta(TypedDict):
    role: NotRequired[str | None]
    content: NotRequired[str | None]
    refusal: NotRequired[str | None]
    reasoning_content: NotRequired[str | None]
    annotations: NotRequired[list[Annotation] | None]
    images: NotRequired[list[MadeImage] | None]
    grounding: NotRequired[list[GroundedPlace] | None]
    audio: NotRequired[dict[str, Any] | None]
    server_tool_calls: NotRequired[list[ServerToolCall] | None]
    tool_calls: NotRequired[list[ToolCallDelta] | None]


class ChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: NotRequired[ChatLogprobs | None]
    finish_reason: NotRequired[FinishReason | None]


class ChatCompletionChunk(TypedDict):
    """One event of a streamed answer to a chat; the stream ends with ``[DONE]``."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[TokenUsage | None]
    system_fingerprint: NotRequired[str | None]
    container: NotRequired[Container]
    service_tier: NotRequired[str | None]
    store: NotRequired[Literal[False]]


class CompletionLogprobs(TypedDict):
    tokens: NotRequired[list[str] | None]
    token_logprobs: NotRequired[list[float | None] | None]
    top_logprobs: NotRequired[list[dict[str, float] | None] | None]
    text_offset: NotRequired[list[int] | None]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: NotRequired[CompletionLogprobs | None]
    finish_reason: FinishReason | None


class Completion(TypedDict):
    """An answer to a completion: the whole, or one event of a stream that ends with ``[DONE]``."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[TokenUsage | None]


class InputUsage(TypedDict):
    prompt_tokens: NotRequired[int]
    total_tokens: int


class Embedding(TypedDict):
    """``embedding`` is a list of numbers, or base64 of little-endian 32-bit floats."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(TypedDict):
    """One embedding per input, in the inputs' order."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: InputUsage


class RerankDocument(TypedDict):
    text: str


class RankedDocument(TypedDict):
    """``index`` is the document's position in the request; ``relevance_score`` is in [0, 1]."""

    index: int
    relevance_score: float
    document: NotRequired[RerankDocument]


class RerankList(TypedDict):
    """The documents, best first. ``scoring`` names the scores' source, ``truncated`` the cut documents."""

    id: str
    object: Literal["list"]
    model: NotRequired[str]
    results: list[RankedDocument]
    scoring: NotRequired[str]
    truncated: NotRequired[list[int]]
    usage: NotRequired[InputUsage]
    meta: dict[str, Any]


class LabelScore(TypedDict):
    label: str
    score: float


class Classification(TypedDict):
    """The likeliest label of one text, and every label's score; the scores sum to 1."""

    object: Literal["classification"]
    index: int
    prediction: str
    score: float
    predictions: list[LabelScore]


class ClassificationList(TypedDict):
    """One classification per input. ``scoring`` names the source of the scores: similarity or likelihood."""

    object: Literal["list"]
    model: NotRequired[str]
    data: list[Classification]
    scoring: str
    truncated: NotRequired[list[int]]
    usage: NotRequired[InputUsage]


class TranscribedWord(TypedDict):
    word: str
    start: float
    end: float


class TranscribedSegment(TypedDict):
    """``start`` and ``end`` are seconds."""

    text: str
    start: float
    end: float
    id: NotRequired[int | str]
    speaker: NotRequired[str]


class Transcription(TypedDict):
    """A transcript in the forms json, verbose_json and diarized_json; ``duration`` is seconds.

    ``language_probability`` is that of a language that was detected, of a translation that of ``source_language``.
    """

    text: str
    task: NotRequired[str]
    language: NotRequired[str | None]
    source_language: NotRequired[str | None]
    language_probability: NotRequired[float]
    duration: NotRequired[float | None]
    segments: NotRequired[list[TranscribedSegment]]
    words: NotRequired[list[TranscribedWord]]
    usage: NotRequired[dict[str, Any] | None]


class TranscriptEvent(TypedDict):
    """One event of a streamed transcript: text as it is recognised, then the whole.

    ``progress`` has the ``seconds`` of the audio that were heard, and ``of`` how many, where the file tells;
    ``segment`` the times, text and words of the delta.
    """

    type: Literal["transcript.text.delta", "transcript.text.segment", "transcript.text.done"]
    delta: NotRequired[str]
    progress: NotRequired[dict[str, float | None]]
    segment: NotRequired[dict[str, Any]]
    text: NotRequired[str]
    language: NotRequired[str | None]
    source_language: NotRequired[str | None]
    language_probability: NotRequired[float]
    duration: NotRequired[float | None]
    usage: NotRequired[dict[str, Any] | None]


class SpokenCharacter(TypedDict):
    character: str
    start: float
    end: float


class SpeechEvent(TypedDict):
    """One event of streamed speech; ``audio`` is base64, times are seconds of the whole.

    The first has the ``request_id`` that ElevenLabs takes among ``previous_request_ids`` of what follows.
    """

    type: Literal["speech.audio.delta", "speech.audio.done"]
    audio: NotRequired[str]
    request_id: NotRequired[str]
    words: NotRequired[list[TranscribedWord]]
    characters: NotRequired[list[SpokenCharacter]]
    usage: NotRequired[dict[str, int]]


class ResponseUsage(TypedDict):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: NotRequired[TokenDetails | None]
    output_tokens_details: NotRequired[TokenDetails | None]
    cache_creation: NotRequired[CacheCreation]
    server_tool_use: NotRequired[ServerToolUse]


class ResponseItem(TypedDict):
    """One item of a response's output: a message, a call, reasoning, or a call of the provider's own tool."""

    id: NotRequired[str]
    type: str
    status: NotRequired[str | None]
    role: NotRequired[str]
    content: NotRequired[list[dict[str, Any]] | None]
    summary: NotRequired[list[dict[str, Any]]]
    call_id: NotRequired[str]
    name: NotRequired[str]
    namespace: NotRequired[str]
    arguments: NotRequired[str | dict[str, Any]]
    input: NotRequired[str]
    action: NotRequired[dict[str, Any]]
    operation: NotRequired[dict[str, Any]]
    result: NotRequired[str | None]


class OpenAIResponse(TypedDict):
    """An answer of the Responses API."""

    id: str
    object: Literal["response"]
    created_at: float
    status: str
    model: str
    output: list[ResponseItem]
    usage: NotRequired[ResponseUsage | None]
    service_tier: NotRequired[str | None]
    error: NotRequired[dict[str, Any] | None]
    incomplete_details: NotRequired[dict[str, Any] | None]


class ResponseEvent(TypedDict):
    """One event of a streamed response; its fields beside these depend on ``type``."""

    type: str
    sequence_number: int
    response: NotRequired[OpenAIResponse]
    item: NotRequired[ResponseItem]
    delta: NotRequired[str]


class MessageBlock(TypedDict):
    """One content block: text with citations, thinking, a tool call, or a result of the provider's own tools."""

    type: str
    text: NotRequired[str]
    thinking: NotRequired[str]
    signature: NotRequired[str]
    id: NotRequired[str]
    name: NotRequired[str]
    input: NotRequired[dict[str, Any]]
    citations: NotRequired[list[dict[str, Any]] | None]
    tool_use_id: NotRequired[str]


class MessageUsage(TypedDict):
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: NotRequired[int | None]
    cache_creation_input_tokens: NotRequired[int | None]
    output_tokens_details: NotRequired[dict[str, int] | None]
    cache_creation: NotRequired[CacheCreation | None]
    server_tool_use: NotRequired[ServerToolUse | None]
    service_tier: NotRequired[str | None]


class AnthropicMessage(TypedDict):
    """An answer of the Messages API."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[MessageBlock]
    stop_reason: str | None
    stop_sequence: NotRequired[str | None]
    usage: MessageUsage


class MessageEvent(TypedDict):
    """One named event of a streamed message; its fields beside these depend on ``type``."""

    type: str
    index: NotRequired[int]
    message: NotRequired[AnthropicMessage]
    content_block: NotRequired[MessageBlock]
    delta: NotRequired[dict[str, Any]]
    usage: NotRequired[dict[str, Any]]


class TokenCount(TypedDict):
    input_tokens: int
