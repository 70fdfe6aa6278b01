"""Reads a request once, into the facts that routing depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import blake2b
from types import MappingProxyType

import orjson

from backends.parameters import is_elsewhere
from backends.wire.audio import ClonedSpeech, SpeechRequest, TranscriptionRequest
from backends.wire.chat import NO_PAID_TOOLS, ChatRequest, Message, PaidTools, TranslatedChat
from backends.wire.classify import ClassifyRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageRequest
from backends.wire.moderation.request import ModeratedImage, ModerationRequest
from backends.wire.rerank import RerankRequest
from backends.wire.tokens import (
    DetokenizeRequest,
    DetokenizeTexts,
    PropertiesRequest,
    TokenizeRequest,
    TokenizeTexts,
)
from catalog.model import Capability
from catalog.names.languages import languages_of
from catalog.prices.rates import tiers_of
from routing.facts import Complexity, Confidence, Facts, Task
from routing.prefix import Prefix
from routing.reading.intent import intent_of, is_auto
from routing.reading.kind import kind_by_structure, kind_of
from routing.reading.media import MediaTokens, media_tokens, picture_tokens
from routing.reading.shape import shape_of
from routing.reading.tokens import Costs, costs_of, estimate_tokens, profile

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_TOOL = 8
_TOKENS_PER_CALL = 8
_TOKENS_PER_EDITED = 10_000
"""Of 6,500 in high fidelity (OpenAI's image guide), at the dearer price of pictures."""
_TOKENS_PER_SEARCH = 4000
"""Tokens of the results that a model reads; the providers count them as input, or charge a fixed block."""
_AUDIO_BYTES_PER_MINUTE = 8000 * 60
"""Bytes of a minute of audio at 64 kbit/s."""
_SEEN = frozenset({Capability.VISION, Capability.VIDEO_INPUT})
_INSTRUCTING = ("system", "developer")
_NOT_PARAMETERS = frozenset(
    {"model", "messages", "prompt", "input", "documents", "query", "labels", "file", "routing"}
)
_MAX_SCHEMA_NODES = 2000
_HOSTED = frozenset({"plugins", "search_parameters", "enable_search", "mcp_servers"})
"""Fields that ask OpenRouter, xAI, Qwen or Anthropic for tools that the provider runs."""


def read_chat(request: ChatRequest, headers: Mapping[str, str] = NO_HEADERS, *, key: str = "") -> Facts:
    """Facts of a chat. Raises InvalidRequest for an unknown routing field or value, as every reader here."""
    features: set[Capability] = set()
    texts: list[str] = []
    others: list[str] = []
    tokens = margin = 0
    last = before = system = ""
    for message in request.messages:
        text, extra = _message(message, features, others)
        tokens += extra.about + _TOKENS_PER_MESSAGE
        margin += extra.margin
        texts.append(text)
        if message.role == "user":
            last, before = text, last
        elif message.role in _INSTRUCTING:
            system = text
    costs = costs_of(request.model)
    last_profile = profile(last, costs)
    tools = request.tools or ()
    schema, labels = _schema(request)
    if tools:
        features.add(Capability.TOOLS)
        tokens += _TOKENS_PER_TOOL * len(tools)
        others += [_written(tool.function) for tool in tools if tool.function]
    if schema:
        features.add(Capability.JSON_SCHEMA)
        others.append(_written(request.response_format))
    if request.web_search_options is not None:
        features.add(Capability.WEB_SEARCH)
    tokens += round(_total(texts, last, last_profile.tokens, costs))
    if others:
        tokens += estimate_tokens("\n".join(others), costs)
    output_tokens = request.output_limit
    shape = shape_of(
        last,
        last_profile,
        tokens=tokens,
        turns=len(request.messages),
        tools=len(tools),
        schema_size=schema,
        labels=labels,
    )
    intent = intent_of(request, headers)
    images = not _SEEN.isdisjoint(features)
    kind = (
        kind_of(last, shape, images=images, output_tokens=output_tokens, system=system, before=before)
        if is_auto(request.model)
        else kind_by_structure(shape, images=images, output_tokens=output_tokens)
    )
    return Facts(
        capability=Capability.CHAT,
        requested=request.model,
        features=frozenset(features),
        task=intent.task or kind.task,
        complexity=kind.complexity,
        confidence=Confidence(1.0 if intent.task else kind.task_confidence, kind.complexity_confidence),
        prompt_tokens=tokens + _TOKENS_PER_SEARCH * (Capability.WEB_SEARCH in features),
        output_tokens=output_tokens,
        choices=request.n or 1,
        parameters=_parameters(request),
        stream=bool(request.stream),
        key=key,
        prompt_digest=_digest(texts),
        hosted=_hosted(request),
        searches=None if request.web_search_options is None else request.web_search_options.max_uses,
        paid=_paid(request),
        media_margin=margin,
        uncounted=_uncounted(request),
        tiers=_tiers(request),
        intent=intent,
        prefix=Prefix(key, request.messages, tools),
    )


def _tiers(request: WireModel) -> tuple[str, ...]:
    more = request.model_extra
    if not more:
        return ()
    return tiers_of(more.get("service_tier"), more.get("speed"), more.get("inference_geo"))


def read_completion(
    request: CompletionRequest, headers: Mapping[str, str] = NO_HEADERS, *, key: str = ""
) -> Facts:
    """Facts of a completion; token ids are counted, the tokens of texts are estimated."""
    prompt = request.prompt
    prompts = 1 if isinstance(prompt, str) or isinstance(prompt[0], int) else len(prompt)
    texts = [prompt] if isinstance(prompt, str) else [item for item in prompt if isinstance(item, str)]
    ids = 0
    if not isinstance(prompt, str):
        ids = sum(1 if isinstance(item, int) else len(item) for item in prompt if not isinstance(item, str))
    facts = _textual(
        Capability.COMPLETION,
        request,
        headers,
        texts,
        key=key,
        other_tokens=ids,
        digest=texts or [repr(prompt)],
        output_tokens=request.max_tokens,
        stream=bool(request.stream),
    )
    return replace(facts, choices=prompts * max(request.n or 1, request.best_of or 1))


def read_embedding(request: EmbeddingRequest, headers: Mapping[str, str] = NO_HEADERS, *, key: str = "") -> Facts:
    """Facts of texts to embed; the tokens are the sum over all texts."""
    items = request.items()
    texts = [item for item in items if isinstance(item, str)]
    ids = sum(len(item) for item in items if not isinstance(item, str))
    return _textual(
        Capability.EMBED, request, headers, texts, key=key, other_tokens=ids, task=Task.EMBED, units=len(items)
    )


def read_rerank(request: RerankRequest, headers: Mapping[str, str] = NO_HEADERS, *, key: str = "") -> Facts:
    """Facts of documents to rank. A cross-encoder reads the query with each document, so it counts each time."""
    texts = [item if isinstance(item, str) else str(item.get("text", "")) for item in request.documents]
    query = estimate_tokens(request.query)
    return _textual(
        Capability.RERANK,
        request,
        headers,
        texts,
        key=key,
        other_tokens=query * len(texts),
        task=Task.RERANK,
        digest=[request.query],
    )


def read_classification(
    request: ClassifyRequest, headers: Mapping[str, str] = NO_HEADERS, *, key: str = ""
) -> Facts:
    """Facts of texts to classify."""
    texts = request.texts()
    return _textual(
        Capability.CLASSIFY,
        request,
        headers,
        texts,
        key=key,
        other_tokens=sum(map(estimate_tokens, request.labels or ())),
        task=Task.CLASSIFY,
        units=len(texts),
        digest=[*(request.labels or ()), *texts],
    )


def read_moderation(
    request: ModerationRequest, headers: Mapping[str, str] = NO_HEADERS, *, key: str = ""
) -> Facts:
    """Facts of content to judge; a picture needs a model that sees."""
    texts = request.texts()
    items = request.input if request.has_images else ()
    images = [picture_tokens(item.image_url.url) for item in items if isinstance(item, ModeratedImage)]
    facts = _textual(
        Capability.MODERATE,
        request,
        headers,
        texts,
        key=key,
        other_tokens=sum(each.about for each in images),
        task=Task.CLASSIFY,
        units=len(texts),
    )
    margin = sum(each.margin for each in images)
    return replace(facts, features=frozenset({Capability.VISION}), media_margin=margin) if images else facts


def read_transcription(
    request: TranscriptionRequest, headers: Mapping[str, str] = NO_HEADERS, *, key: str = ""
) -> Facts:
    """Facts of audio to transcribe; a unit is a minute, guessed from the bytes at 64 kbit/s."""
    return Facts(
        capability=Capability.TRANSLATE if request.translate else Capability.TRANSCRIBE,
        requested=request.model,
        task=Task.TRANSCRIBE,
        units=len(request.file) / _AUDIO_BYTES_PER_MINUTE,
        languages=languages_of((request.language, *request.languages)),
        parameters=_parameters(request),
        stream=request.stream,
        key=key,
        intent=intent_of(request, headers),
    )


def read_speech(request: SpeechRequest, headers: Mapping[str, str] = NO_HEADERS, *, key: str = "") -> Facts:
    """Facts of a text to speak; a unit is a character."""
    return Facts(
        capability=Capability.SPEAK,
        features=frozenset({Capability.CLONE}) if isinstance(request, ClonedSpeech) else frozenset(),
        requested=request.model,
        task=Task.SPEECH,
        units=float(len(request.input)),
        parameters=_parameters(request),
        stream=True,
        key=key,
        prompt_digest=_digest([request.input]),
        intent=intent_of(request, headers),
    )


def read_image(request: ImageRequest, headers: Mapping[str, str] = NO_HEADERS, *, key: str = "") -> Facts:
    """Facts of images to generate or to change; a unit is an image that is made."""
    return Facts(
        capability=Capability.IMAGE,
        features=frozenset({Capability.IMAGE_EDIT} if request.files else ()),
        prompt_tokens=len(request.files) * _TOKENS_PER_EDITED + estimate_tokens(request.prompt),
        requested=request.model,
        task=Task.IMAGE,
        units=float(request.n or 1),
        parameters=_parameters(request),
        stream=bool(request.stream),
        key=key,
        prompt_digest=_digest([request.prompt]),
        intent=intent_of(request, headers),
        picture=(request.size or "", request.quality or ""),
    )


def read_tokens(
    request: TokenizeRequest | DetokenizeRequest | TokenizeTexts | DetokenizeTexts | PropertiesRequest,
    headers: Mapping[str, str] = NO_HEADERS,
    *,
    key: str = "",
) -> Facts:
    """Facts of a text to tokenise, tokens to join or a model to describe: the model decodes nothing."""
    size = len(request.tokens) if isinstance(request, DetokenizeRequest) else 0
    if isinstance(request, TokenizeRequest):
        size = estimate_tokens(request.content)
    elif isinstance(request, TokenizeTexts):
        size = max(map(estimate_tokens, request.texts))
    elif isinstance(request, DetokenizeTexts):
        size = max(map(len, request.lists))
    return Facts(
        capability=Capability.CHAT,
        requested=request.model,
        prompt_tokens=size,
        output_tokens=0,
        key=key,
        tokens_only=True,
        intent=intent_of(request, headers),
    )


def _textual(
    capability: Capability,
    request: WireModel,
    headers: Mapping[str, str],
    texts: list[str],
    *,
    key: str,
    other_tokens: int,
    task: Task | None = None,
    units: float = 1.0,
    digest: list[str] | None = None,
    output_tokens: int | None = None,
    stream: bool = False,
) -> Facts:
    intent = intent_of(request, headers)
    requested = getattr(request, "model", "auto")
    costs = costs_of(requested)
    tokens = other_tokens + _estimate(texts, costs)
    complexity = Complexity.SIMPLE
    if task is None:
        last = texts[-1] if texts else ""
        shape = shape_of(last, profile(last, costs), tokens=tokens, turns=1)
        kind = (
            kind_of(last, shape, images=False, output_tokens=output_tokens)
            if is_auto(requested)
            else kind_by_structure(shape, images=False, output_tokens=None)
        )
        complexity = kind.complexity
        task = intent.task or kind.task
    return Facts(
        capability=capability,
        requested=requested,
        task=task,
        complexity=complexity,
        prompt_tokens=tokens,
        output_tokens=output_tokens,
        units=units,
        parameters=_parameters(request),
        stream=stream,
        key=key,
        prompt_digest=_digest(texts if digest is None else digest),
        intent=intent,
    )


def _message(message: Message, features: set[Capability], others: list[str]) -> tuple[str, MediaTokens]:
    """A message's text, and the estimated tokens of its media; its reasoning and calls are added to ``others``."""
    content = message.content
    extra = margin = 0
    if message.role == "assistant":
        others += [
            f"{call.function.name} {call.function.arguments}" for call in message.tool_calls or () if call.function
        ]
        extra = _TOKENS_PER_CALL * len(message.tool_calls or ())
        reasoning = (message.model_extra or {}).get("reasoning_content")
        if isinstance(reasoning, str):
            others.append(reasoning)
    if content is None:
        return "", MediaTokens(extra)
    if isinstance(content, str):
        return content, MediaTokens(extra)
    texts: list[str] = []
    for part in content:
        if part.text is not None:
            texts.append(part.text)
        elif part.refusal is not None:
            texts.append(part.refusal)
        else:
            found = media_tokens(part, features)
            extra += found.about
            margin += found.margin
    return "\n".join(texts), MediaTokens(extra, margin)


def _written(part: WireModel | None) -> str:
    """The JSON text of a part of the request."""
    return "" if part is None else orjson.dumps(part.model_dump(exclude_unset=True, by_alias=True)).decode()


def _total(texts: Iterable[str], known: str, tokens: float, costs: Costs) -> float:
    """Estimated tokens of all texts; ``known`` is one of them and has ``tokens``."""
    return sum(tokens if text is known else profile(text, costs).tokens for text in texts if text)


def _estimate(texts: list[str], costs: Costs) -> int:
    if len(texts) <= 64:
        return sum(estimate_tokens(text, costs) for text in texts)
    # One pass in C over the joined texts is faster than thousands of short ones.
    return max(len(texts), estimate_tokens("\n".join(texts), costs))


def _schema(request: ChatRequest) -> tuple[int, bool]:
    """Size of the requested JSON schema, and whether its only field is an enum of labels."""
    wanted = request.response_format
    if wanted is None or wanted.type != "json_schema" or wanted.json_schema is None:
        return 0, False
    schema = wanted.json_schema.schema_ or {}
    properties = schema.get("properties")
    fields = list(properties.values()) if isinstance(properties, dict) else [schema]
    labels = len(fields) == 1 and isinstance(fields[0], dict) and "enum" in fields[0]
    return max(1, _size(schema)), labels


def _hosted(request: ChatRequest) -> bool:
    """Whether the provider may run tools of its own."""
    if request.web_search_options is not None:
        return True
    if request.model_extra and not _HOSTED.isdisjoint(request.model_extra):
        return True
    original = request.original if isinstance(request, TranslatedChat) else None
    return original is not None and (original.own_tools or original.refusal is not None)


def _paid(request: ChatRequest) -> PaidTools:
    original = request.original if isinstance(request, TranslatedChat) else None
    return NO_PAID_TOOLS if original is None else original.paid


def _uncounted(request: ChatRequest) -> tuple[str, ...]:
    extra = request.model_extra
    if not extra:
        return ()
    return tuple(sorted(name for name in extra if extra[name] and (name in _HOSTED or is_elsewhere(name))))


def _size(schema: object) -> int:
    """Objects within a schema, counted without recursion up to ``_MAX_SCHEMA_NODES``."""
    stack, nodes = [schema], 0
    while stack and nodes < _MAX_SCHEMA_NODES:
        node = stack.pop()
        if isinstance(node, dict):
            nodes += 1
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node[:_MAX_SCHEMA_NODES])
    return nodes


def _parameters(request: WireModel) -> frozenset[str]:
    return frozenset(request.model_fields_set - _NOT_PARAMETERS)


def _digest(texts: Iterable[str]) -> str:
    digest = blake2b(digest_size=12)
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()
