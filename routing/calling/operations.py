"""Operations: the methods of backends that a job can ask for, one constant per method.

An operation also creates the observer of its answers, so that a new capability is one constant here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from backends.base import (
    Chat,
    Classify,
    Complete,
    Converse,
    Count,
    Describe,
    Discard,
    Draw,
    EditImages,
    Embed,
    EmbedContents,
    Film,
    Moderate,
    Rerank,
    Speak,
    Template,
    Tokenize,
    Transcribe,
    Upstream,
)
from backends.grounding.asking import locate
from backends.grounding.places import grounded
from backends.wire.audio import RealtimeTurn
from backends.wire.chat import ChatRequest
from backends.wire.rerank import PairedRerank
from backends.wire.tokens import DetokenizeRequest, DetokenizeTexts, TokenizeRequest, TokenizeTexts
from backends.wire.video.events import VideoItem
from catalog.errors import UpstreamProtocolError
from catalog.types import Json
from routing.calling.watching.observers import (
    AnswerObserver,
    AudioObserver,
    ChunkObserver,
    ImageObserver,
    ObjectObserver,
    RealtimeObserver,
    TranscriptObserver,
    VideoObserver,
)
from routing.calling.watching.usage import most_prompt_tokens
from routing.facts import Facts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One method of a backend.

    ``protocol`` is the capability protocol of :mod:`backends.base` that the backend must have. ``call`` takes the
    backend, the upstream and the request, and yields the items of the answer. ``observer`` creates the observer
    of one attempt from the request's facts and the model's id.
    """

    protocol: type
    call: Callable[[Any, Upstream, Any], AsyncIterator[T]]
    observer: Callable[[Facts, str], AnswerObserver]


async def once(answer: Awaitable[T]) -> AsyncIterator[T]:
    """Yield the one object of an answer that does not come in pieces."""
    yield await answer


async def _chat_tokens(backend: LocalTokens, upstream: Upstream, body: ChatRequest) -> Json:
    """The tokens of a chat's prompt as the model reads them, each with its text."""
    prompt = (await backend.apply_template(upstream, body))["prompt"]
    return await backend.tokenize(upstream, TokenizeRequest(content=prompt, add_special=True, with_pieces=True))


async def _texts_tokens(backend: Tokenize, upstream: Upstream, body: TokenizeTexts) -> Json:
    """``texts`` has the pieces of each text, ``around`` the ids that the model puts around a text."""
    around = await _around(backend, upstream)
    pieces = [
        await backend.tokenize(
            upstream, TokenizeRequest(content=text, add_special=body.add_special, with_pieces=True)
        )
        for text in body.texts
    ]
    return {"texts": [answer["tokens"] for answer in pieces], "around": around}


async def _tokens_texts(backend: Tokenize, upstream: Upstream, body: DetokenizeTexts) -> Json:
    """``texts`` has the text of each list of tokens."""
    special = await _special(backend, upstream, body.lists) if body.skip else frozenset()
    lists = [[token for token in tokens if token not in special] for tokens in body.lists]
    texts = [await backend.detokenize(upstream, DetokenizeRequest(tokens=tokens)) for tokens in lists]
    return {"texts": [answer["content"] for answer in texts]}


async def _special(backend: Tokenize, upstream: Upstream, lists: Sequence[Sequence[int]]) -> frozenset[int]:
    """The special tokens of lists: those around a text, and those that a text has only as marks.

    Each token is asked about only where a text of theirs splits otherwise without marks.
    """
    found = set(await _around(backend, upstream))
    for tokens in lists:
        text = (await backend.detokenize(upstream, DetokenizeRequest(tokens=list(tokens))))["content"]
        if not await _has_marks(backend, upstream, text):
            continue
        for token in set(tokens) - found:
            piece = (await backend.detokenize(upstream, DetokenizeRequest(tokens=[token])))["content"]
            if await _has_marks(backend, upstream, piece):
                found.add(token)
    return frozenset(found)


async def _has_marks(backend: Tokenize, upstream: Upstream, text: str) -> bool:
    split = [
        (await backend.tokenize(upstream, TokenizeRequest(content=text, parse_special=marks)))["tokens"]
        for marks in (True, False)
    ]
    return bool(split[0] != split[1])


async def _around(backend: Tokenize, upstream: Upstream) -> list[int]:
    """The ids of the tokens that the model puts around a text."""
    ids: list[int] = (await backend.tokenize(upstream, TokenizeRequest(content="", add_special=True)))["tokens"]
    return ids


class LocalTokens(Template, Tokenize, Protocol):
    """A backend that knows the chat template and the tokenizer of its models."""


async def _scored(backend: Rerank, upstream: Upstream, body: PairedRerank) -> Json:
    """The scores of pairs, in their order. Raises UpstreamProtocolError for a pair without one."""
    scores: dict[int, float] = {}
    answer: Json = {}
    tokens = 0
    for request, places in body.reranks():
        answer = await backend.rerank(upstream, request)
        scores |= {places[one["index"]]: one["relevance_score"] for one in answer["results"]}
        tokens += (answer.get("usage") or {}).get("total_tokens") or 0
    if len(scores) < len(body.documents):
        raise UpstreamProtocolError(f"The endpoint '{upstream.endpoint}' did not score every document.")
    answer["scores"] = [scores[place] for place in sorted(scores)]
    if answer.get("usage"):
        answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return answer


async def _turn(body: RealtimeTurn) -> AsyncIterator[Json]:
    async for event in body.events:
        yield event


def _chunks(facts: Facts, model: str) -> AnswerObserver:
    return ChunkObserver(model, most_prompt_tokens(facts))


def _object(facts: Facts, model: str) -> AnswerObserver:
    return ObjectObserver(model, most_prompt=most_prompt_tokens(facts))


CHAT: Operation[Json] = Operation(Chat, lambda backend, upstream, body: backend.chat(upstream, body), _chunks)
CHAT_WITH_PICTURES: Operation[Json] = Operation(
    Chat, lambda backend, upstream, body: grounded(backend.chat(upstream, body), upstream, body), _chunks
)
"""A chat whose answer may name places in pictures."""
GROUND: Operation[Json] = Operation(
    Chat, lambda backend, upstream, body: once(locate(backend, upstream, body)), _object
)
COMPLETE: Operation[Json] = Operation(
    Complete, lambda backend, upstream, body: backend.complete(upstream, body), _chunks
)
EMBED: Operation[Json] = Operation(
    Embed, lambda backend, upstream, body: once(backend.embed(upstream, body)), _object
)
EMBED_CONTENTS: Operation[Json] = Operation(
    EmbedContents, lambda backend, upstream, body: once(backend.embed_contents(upstream, body)), _object
)
RERANK: Operation[Json] = Operation(
    Rerank,
    lambda backend, upstream, body: once(backend.rerank(upstream, body)),
    lambda facts, model: ObjectObserver(model, units=1.0, most_prompt=most_prompt_tokens(facts)),
)
SCORE: Operation[Json] = Operation(
    Rerank,
    lambda backend, upstream, body: once(_scored(backend, upstream, body)),
    lambda facts, model: ObjectObserver(model, units=facts.units, most_prompt=most_prompt_tokens(facts)),
)
CLASSIFY: Operation[Json] = Operation(
    Classify, lambda backend, upstream, body: once(backend.classify(upstream, body)), _object
)
MODERATE: Operation[Json] = Operation(
    Moderate, lambda backend, upstream, body: once(backend.moderate(upstream, body)), _object
)
TRANSCRIBE: Operation[Json] = Operation(
    Transcribe,
    lambda backend, upstream, body: backend.transcribe(upstream, body),
    lambda facts, _model: TranscriptObserver(facts.units),
)
SPEAK: Operation[bytes] = Operation(
    Speak,
    lambda backend, upstream, body: backend.speak(upstream, body),
    lambda facts, _model: AudioObserver(facts.units),
)
CONVERSE: Operation[Json] = Operation(
    Converse,
    lambda backend, upstream, body: backend.converse(upstream, body),
    lambda _facts, _model: RealtimeObserver(),
)
TURN: Operation[Json] = Operation(
    Converse,
    lambda _backend, _upstream, body: _turn(body),
    lambda _facts, _model: RealtimeObserver(),
)
"""One response of an open session: the connection is there, and this counts what passes over it."""
DRAW: Operation[Json] = Operation(
    Draw,
    lambda backend, upstream, body: backend.draw(upstream, body),
    lambda facts, _model: ImageObserver(facts.units),
)
FILM: Operation[VideoItem] = Operation(
    Film,
    lambda backend, upstream, body: backend.film(upstream, body),
    lambda facts, _model: VideoObserver(facts.units, facts.tiers),
)
DISCARD: Operation[Json] = Operation(
    Discard, lambda backend, upstream, body: once(backend.discard(upstream, body)), _object
)
EDIT: Operation[Json] = Operation(
    EditImages,
    lambda backend, upstream, body: backend.edit(upstream, body),
    lambda facts, _model: ImageObserver(facts.units),
)
COUNT: Operation[Json] = Operation(
    Count, lambda backend, upstream, body: once(backend.count(upstream, body)), _object
)
TOKENIZE: Operation[Json] = Operation(
    Tokenize, lambda backend, upstream, body: once(backend.tokenize(upstream, body)), _object
)
DETOKENIZE: Operation[Json] = Operation(
    Tokenize, lambda backend, upstream, body: once(backend.detokenize(upstream, body)), _object
)
TOKENIZE_TEXTS: Operation[Json] = Operation(
    Tokenize, lambda backend, upstream, body: once(_texts_tokens(backend, upstream, body)), _object
)
DETOKENIZE_TEXTS: Operation[Json] = Operation(
    Tokenize, lambda backend, upstream, body: once(_tokens_texts(backend, upstream, body)), _object
)
TEMPLATE: Operation[Json] = Operation(
    Template, lambda backend, upstream, body: once(backend.apply_template(upstream, body)), _object
)
CHAT_TOKENS: Operation[Json] = Operation(
    Template, lambda backend, upstream, body: once(_chat_tokens(backend, upstream, body)), _object
)
DESCRIBE: Operation[Json] = Operation(
    Describe, lambda backend, upstream, _body: once(backend.properties(upstream)), _object
)
