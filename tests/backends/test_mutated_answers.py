"""Every part of a good answer is replaced by another value: an answer or a typed error, never a crash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import orjson
import pytest

from backends.anthropic.backend import AnthropicBackend
from backends.anthropic.errors import read_anthropic_error
from backends.anthropic.errors import read_stream_error as read_anthropic_event
from backends.base import Upstream
from backends.elevenlabs.backend import ElevenLabsBackend
from backends.elevenlabs.errors import read_elevenlabs_error
from backends.google.backend import GoogleBackend
from backends.google.errors import read_google_error
from backends.google.errors import read_stream_error as read_google_event
from backends.http import HttpClient
from backends.http.errors import read_error, stream_error
from backends.ollama import OllamaBackend
from backends.openai.backend import OpenAIBackend
from backends.streams.native import NativeChunk
from backends.wire.audio import SpeechRequest
from backends.wire.chat import Original, TranslatedChat
from backends.wire.messages import MessagesRequest
from catalog.errors import RoundhouseError
from catalog.model import Endpoint
from server.wires.messages.native import NativeMessage
from tests.backends.answers import assemble_chat
from tests.backends.test_wrong_shapes import BLOCK, CHAT, EMBED, HEARD, START, at, http, liar, said
from tests.fakes.liar import FakeLiar

__all__ = ["http", "liar"]
WRONG: tuple[Any, ...] = (None, 5, 1e300, "x", [], {}, [5], [None], {"a": 1})


def mutations(value: Any) -> Iterator[Any]:
    """Copies of a document, in each of which one part is another, or missing."""
    yield from (wrong for wrong in WRONG if wrong != value)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {other: given for other, given in value.items() if other != name}
            yield from ({**value, name: changed} for changed in mutations(inner))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield value[:position] + value[position + 1 :]
            yield from ([*value[:position], changed, *value[position + 1 :]] for changed in mutations(inner))


def block(index: int, **content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: int, **part: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": part}


ANTHROPIC: list[Any] = [
    START, BLOCK, said("a"),
    block(1, type="tool_use", id="t", name="f", input={}),
    delta(1, type="input_json_delta", partial_json="{}"),
    block(2, type="thinking", thinking="a", signature="b"),
    delta(2, type="thinking_delta", thinking="c"),
    delta(2, type="signature_delta", signature="d"),
    block(3, type="redacted_thinking", data="e"),
    *({"type": "content_block_stop", "index": index} for index in range(4)),
    {
        "type": "message_delta",
        "delta": {"stop_reason": "refusal", "stop_sequence": "x", "stop_details": {"explanation": "no"}},
        "usage": {"output_tokens": 2, "output_tokens_details": {"thinking_tokens": 1}},
    },
]  # fmt: skip
PARTS = [
    {"text": "a", "thought": True, "thoughtSignature": "s"},
    {"text": "b", "thoughtSignature": "s"},
    {"functionCall": {"id": "i", "name": "f", "args": {"a": 1}}},
]
TOKEN = {"token": "b", "logProbability": -0.5}
GEMINI: list[Any] = [
    {
        "responseId": "r",
        "modelVersion": "m",
        "promptFeedback": {"safetyRatings": []},
        "candidates": [
            {
                "index": 0,
                "content": {"parts": PARTS},
                "logprobsResult": {"chosenCandidates": [TOKEN], "topCandidates": [{"candidates": [TOKEN]}]},
                "finishReason": "STOP",
                "finishMessage": "m",
            }
        ],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "cachedContentTokenCount": 1},
    }
]
SCRIBE = {
    "language_code": "en",
    "text": "a b",
    "audio_duration_secs": 1.5,
    "words": [{"text": "a", "type": "word", "start": 0, "end": 1, "speaker_id": "s", "logprob": -0.1}],
}
VOICES = {"voices": [{"voice_id": "a", "name": "b"}], "has_more": True, "next_page_token": "x"}
VECTORS = {"embeddings": [{"values": [1.0]}, {"values": [2.0]}], "usageMetadata": {"promptTokenCount": 1}}
TAGS = {
    "models": [
        {
            "name": "a",
            "size": 5,
            "capabilities": ["completion"],
            "details": {"family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4"},
        }
    ],
    "model_info": {"general.architecture": "x", "x.context_length": 5},
}
MODELS = {"data": [{"id": "a", "max_model_len": 5, "architecture": {"input_modalities": ["text"]}}]}
QUOTA = {"@type": "x", "reason": "API_KEY_INVALID", "retryDelay": "3s"}
ERRORS: list[Any] = [
    {"error": {"message": "no", "type": "x", "param": "model", "code": "x", "innererror": {"a": 1}}},
    {"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED", "details": [QUOTA]}},
    {"type": "error", "error": {"type": "overloaded_error", "message": "no"}},
    {"detail": {"status": "quota_exceeded", "message": "no"}},
    {"detail": [{"loc": ["body", "a"], "msg": "no", "type": "x"}]},
    [{"error": {"message": "no"}}],
    {"object": "error", "message": "no", "code": 400},
]


async def survives(call: Callable[[], Awaitable[Any]], document: Any) -> None:
    try:
        await call()
    except RoundhouseError:
        pass
    except Exception as crash:
        raise AssertionError(f"{crash!r} for {document!r}") from crash


def scripts(events: list[Any]) -> Iterator[list[Any]]:
    for position, event in enumerate(events):
        for changed in mutations(event):
            yield [*events[:position], changed, *events[position + 1 :]]


@pytest.mark.parametrize(
    ("backend", "script"), [(AnthropicBackend, ANTHROPIC), (GoogleBackend, GEMINI)], ids=["anthropic", "google"]
)
async def test_a_stream(liar: FakeLiar, http: HttpClient, backend: Any, script: list[Any]) -> None:
    made = backend(http)
    for changed in scripts(script):
        liar.streams(*changed)
        await survives(lambda: assemble_chat(made.chat(at(liar), CHAT)), changed)


async def test_a_stream_in_the_callers_own_language(liar: FakeLiar, http: HttpClient) -> None:
    asked = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    original = Original("messages", MessagesRequest.model_validate(asked))
    chat = TranslatedChat.of({"model": "m", "messages": asked["messages"]}, (), frozenset(), original)
    backend = AnthropicBackend(http)

    async def passed_on() -> None:
        message = NativeMessage()
        async for chunk in backend.chat(at(liar), chat):
            if isinstance(chunk, NativeChunk):
                list(message.feed(chunk.event, {"model": "m"}))
        list(message.finish())

    liar.streams(*ANTHROPIC)
    await passed_on()
    for changed in scripts(ANTHROPIC):
        liar.streams(*changed)
        await survives(passed_on, changed)


async def test_an_answer_in_one_piece(liar: FakeLiar, http: HttpClient) -> None:
    home = Endpoint(id="liar", base_url=liar.base_url, protocol="openai")
    spoken = SpeechRequest(model="m", input="a", voice="b")

    async def hear() -> None:
        async for _ in ElevenLabsBackend(http).transcribe(at(liar), HEARD):
            pass

    async def speak() -> None:
        async for _ in ElevenLabsBackend(http).speak(at(liar), spoken):
            pass

    for good, call in (
        (SCRIBE, hear),
        (VOICES, speak),
        (VECTORS, lambda: GoogleBackend(http).embed(at(liar), EMBED)),
        ({"input_tokens": 5}, lambda: AnthropicBackend(http).count(at(liar), CHAT)),
        (TAGS, lambda: OllamaBackend(http).list_models(at(liar), home)),
        (MODELS, lambda: OpenAIBackend(http).list_models(at(liar), home)),
    ):
        for changed in mutations(good):
            liar.says(changed)
            await survives(call, changed)


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("reader", [read_error, read_anthropic_error, read_google_error, read_elevenlabs_error])
def test_an_error(reader: Any, status: int) -> None:
    upstream = Upstream("e", "p", "http://x", "m")
    for changed in (changed for document in ERRORS for changed in mutations(document)):
        assert isinstance(reader(status, {}, orjson.dumps(changed), upstream), RoundhouseError), changed


@pytest.mark.parametrize("reader", [stream_error, read_anthropic_event, read_google_event])
def test_an_error_within_a_stream(reader: Any) -> None:
    upstream = Upstream("e", "p", "http://x", "m")
    for changed in (changed for document in ERRORS for changed in mutations(document)):
        if isinstance(changed, dict):
            assert isinstance(reader(changed, upstream), RoundhouseError), changed
