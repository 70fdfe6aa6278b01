"""Answers of a wrong shape: each is an upstream_protocol_error, never a crash, and nothing of it passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from backends.anthropic.backend import AnthropicBackend
from backends.base import Upstream
from backends.elevenlabs.backend import ElevenLabsBackend
from backends.google.backend import GoogleBackend
from backends.http import HttpClient
from backends.openai.backend import OpenAIBackend
from backends.streams.shapes import regular_delta
from backends.translation import reading
from backends.wire.audio import SpeechRequest, TranscriptionRequest
from backends.wire.chat import ChatRequest
from backends.wire.classify import ClassifyRequest
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageRequest
from backends.wire.rerank import RerankRequest
from catalog.errors import StreamBroken, UpstreamError, UpstreamProtocolError
from tests.backends.answers import assemble_chat, assemble_completion
from tests.fakes.liar import FakeLiar

CHAT = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
SHORT = CHAT.model_copy(update={"max_tokens": 5})
TEXT = CompletionRequest.model_validate({"model": "m", "prompt": "Hi"})
SHORT_TEXT = TEXT.model_copy(update={"max_tokens": 5})
EMBED = EmbeddingRequest.model_validate({"model": "m", "input": ["a", "b"]})
RERANK = RerankRequest.model_validate({"model": "m", "query": "q", "documents": ["a", "b"]})
CLASSIFY = ClassifyRequest.model_validate({"model": "m", "input": "a", "labels": ["x", "y"]})
HEARD = TranscriptionRequest(model="m", file=b"RIFF", filename="a.wav")
IMAGE = ImageRequest.model_validate({"model": "m", "prompt": "a"})


@pytest.fixture
async def liar() -> AsyncIterator[FakeLiar]:
    async with FakeLiar() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


def at(liar: FakeLiar, protocol: str = "openai") -> Upstream:
    return Upstream("liar", protocol, liar.base_url, "m")


def of(*values: Any) -> tuple[Any, ...]:
    return values


NO_LIST: tuple[Any, ...] = (5, "abc", True, {"a": 1})
NO_OBJECT: tuple[Any, ...] = (5, "abc", True, [1], [])
NO_TEXT: tuple[Any, ...] = (5, True, {"a": 1})

GOOD: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
CHUNKS: list[Any] = [
    *({"choices": wrong} for wrong in of(*NO_LIST, [5], ["a"], [None], [[]], [True])),
    *({"choices": [{"index": wrong, "delta": {}}]} for wrong in of("0", -1, 1.5, [0], {}, True)),
    *({"choices": [{"index": 0, "delta": wrong}]} for wrong in NO_OBJECT),
    *({"choices": [{"index": 0, "delta": {"content": wrong}}]} for wrong in NO_TEXT),
    *({"choices": [{"index": 0, "delta": {"content": wrong}}]} for wrong in of([5], [{"text": 5}])),
    *({"choices": [{"index": 0, "delta": {"content": wrong}}]} for wrong in of([{"type": "file"}], [[]], [None])),
    *({"choices": [{"index": 0, "delta": {"role": wrong}}]} for wrong in NO_TEXT),
    *({"choices": [{"index": 0, "delta": {"refusal": wrong}}]} for wrong in of(*NO_TEXT, [])),
    *({"choices": [{"index": 0, "delta": {"reasoning_content": wrong}}]} for wrong in of(*NO_TEXT, ["a"])),
    *({"choices": [{"index": 0, "delta": {"tool_calls": wrong}}]} for wrong in of(*NO_LIST, [5], ["a"], [None])),
    *(
        {"choices": [{"index": 0, "delta": {name: wrong}}]}
        for name in ("annotations", "images", "server_tool_calls", "thinking_blocks")
        for wrong in of(*NO_LIST, [5], ["a"], [None], [[]])
    ),
    *(
        {"choices": [{"index": 0, "delta": {"annotations": [{"url_citation": wrong}]}}]}
        for wrong in of(*NO_OBJECT, {"url": 5})
    ),
    *(
        {"choices": [{"index": 0, "delta": {"images": [{"image_url": wrong}]}}]}
        for wrong in of(*NO_OBJECT, None, {"url": 5})
    ),
    *(
        {"choices": [{"index": 0, "delta": {"server_tool_calls": [{"type": "web_search_call", **wrong}]}}]}
        for wrong in of({"type": 5}, {"action": 5}, {"action": {"sources": [5]}}, {"outputs": {"a": 1}})
    ),
    *({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": wrong}]}}]} for wrong in of("0", -1, [], {})),
    *({"choices": [{"index": 0, "delta": {"tool_calls": [{"id": wrong}]}}]} for wrong in of(5, [], {})),
    *({"choices": [{"index": 0, "delta": {"tool_calls": [{"function": wrong}]}}]} for wrong in NO_OBJECT),
    *(
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {name: wrong}}]}}]}
        for name in ("name", "arguments")
        for wrong in of(5, True, [])
    ),
    *({"choices": [{"index": 0, "delta": {"function_call": wrong}}]} for wrong in NO_OBJECT),
    *({"choices": [{"index": 0, "delta": {}, "finish_reason": wrong}]} for wrong in of(5, True, [], {})),
    *({"choices": [{"index": 0, "delta": {}, "logprobs": wrong}]} for wrong in NO_OBJECT),
    *({"choices": [{"index": 0, "delta": {}, "logprobs": {"content": wrong}}]} for wrong in of(5, "a", {})),
    *({"choices": [GOOD["choices"][0], wrong]} for wrong in of(5, [], None, "a")),
    5, "abc", True, [], [1],
]  # fmt: skip
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def test_there_are_ninety_shapes() -> None:
    assert len(CHUNKS) >= 90


@pytest.mark.parametrize("chunk", CHUNKS, ids=repr)
async def test_a_chunk_of_a_wrong_shape_is_a_protocol_error(liar: FakeLiar, http: HttpClient, chunk: Any) -> None:
    backend = OpenAIBackend(http)
    for before, passed in (((), 0), ((GOOD,), 1)):
        liar.streams(*before, chunk, END)
        answer = backend.chat(at(liar), CHAT)
        for _ in range(passed):
            await anext(answer)
        with pytest.raises(UpstreamProtocolError):
            await anext(answer)


@pytest.mark.parametrize("chunk", CHUNKS, ids=repr)
async def test_a_plain_answer_of_a_wrong_shape_is_a_protocol_error(
    liar: FakeLiar, http: HttpClient, chunk: Any
) -> None:
    document = chunk
    if isinstance(chunk, dict):
        choices = chunk["choices"]
        if isinstance(choices, list):
            choices = [
                {("message" if name == "delta" else name): value for name, value in choice.items()}
                if isinstance(choice, dict)
                else choice
                for choice in choices
            ]
        document = {"id": "a", "object": "chat.completion", "choices": choices}
    if document in NUMBERED:
        return  # a plain answer's calls are numbered by their order, whatever it says itself
    liar.says(document)
    with pytest.raises(UpstreamProtocolError):
        await assemble_chat(OpenAIBackend(http).chat(at(liar), SHORT))


@pytest.mark.parametrize(
    "call",
    [
        {"id": "a"},
        {"id": "a", "function": {"arguments": "{}"}},
        {"id": "a", "type": "function", "function": {"name": "", "arguments": "{}"}},
        {"id": "a", "type": "custom", "custom": {"input": "x"}},
    ],
    ids=repr,
)
async def test_a_tool_call_that_ends_without_a_name_is_a_protocol_error(
    liar: FakeLiar, http: HttpClient, call: dict[str, Any]
) -> None:
    named = {"index": 0, "id": "n", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for calls in ([call], [named, call]):
        numbered = [{**each, "index": at} for at, each in enumerate(calls)]
        liar.streams({"choices": [{"index": 0, "delta": {"tool_calls": numbered}}]}, END)
        with pytest.raises(UpstreamProtocolError):
            await assemble_chat(OpenAIBackend(http).chat(at(liar), CHAT))
        liar.says({"choices": [{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]})
        with pytest.raises(UpstreamProtocolError):
            await assemble_chat(OpenAIBackend(http).chat(at(liar), SHORT))


async def test_the_name_of_a_tool_call_may_come_after_its_id(liar: FakeLiar, http: HttpClient) -> None:
    parts = [
        {"index": 0, "id": "a", "type": "function"},
        {"index": 0, "function": {"name": "f", "arguments": "{}"}},
    ]
    liar.streams(*({"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]} for part in parts), END)
    answer = await assemble_chat(OpenAIBackend(http).chat(at(liar), CHAT))
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": "{}"}


NUMBERED = [
    {
        "id": "a",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"tool_calls": [{"index": wrong}]}}],
    }
    for wrong in of("0", -1, [], {})
]


@pytest.mark.parametrize(
    "document",
    [
        *({"choices": wrong} for wrong in of(*NO_LIST, [5], ["a"], [None], [], None)),
        *({"choices": [{"text": wrong, "finish_reason": "stop"}]} for wrong in of(*NO_TEXT, [])),
        *({"choices": [{"text": "a", "finish_reason": wrong}]} for wrong in of(5, [])),
        *({"choices": [{"text": "a", "finish_reason": "stop", "logprobs": wrong}]} for wrong in NO_OBJECT),
        {"choices": [{"text": "a", "finish_reason": "stop", "logprobs": {"tokens": 5}}]},
        {"message": "no choices"}, 5, [], "abc",
    ],
    ids=repr,
)  # fmt: skip
async def test_a_completion_of_a_wrong_shape_is_an_error(liar: FakeLiar, http: HttpClient, document: Any) -> None:
    backend = OpenAIBackend(http)
    liar.says(document)
    with pytest.raises(UpstreamProtocolError):
        await assemble_completion(backend.complete(at(liar), SHORT_TEXT))
    liar.streams(document)
    with pytest.raises((UpstreamProtocolError, StreamBroken)):
        await assemble_completion(backend.complete(at(liar), TEXT))


ONE = {"index": 0, "embedding": [1.0, 0.5]}
VECTORS = [ONE, {"index": 1, "embedding": [0.0, 1]}]


@pytest.mark.parametrize(
    "document",
    [
        *({"data": wrong} for wrong in of(*NO_LIST, None, [], [5, 5], [[], []], VECTORS[:1], [*VECTORS, ONE])),
        *({"data": [ONE, {"index": wrong, "embedding": [0.0, 1]}]} for wrong in of(0, 2, -1, "1", 1.0, True, [])),
        *({"data": [ONE, {"index": 1, "embedding": wrong}]} for wrong in of(5, None, {}, [], ["a", "b"], [[], 2])),
        *({"data": [ONE, {"index": 1, "embedding": wrong}]} for wrong in of("", "!!", "AAA=", [1.0], [True, 1])),
        {"data": [ONE, {"index": 1, "embedding": [1.0, None]}]},
        {}, 5, [], "abc",
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("form", ["float", "base64"])
async def test_embeddings_of_a_wrong_shape_are_a_protocol_error(
    liar: FakeLiar, http: HttpClient, document: Any, form: str
) -> None:
    liar.says(document)
    with pytest.raises(UpstreamProtocolError):
        await OpenAIBackend(http).embed(at(liar), EMBED.model_copy(update={"encoding_format": form}))


RANKS: list[Any] = [
    *NO_LIST, None, [5], ["a"], [[]], [{}], [{"index": 0}], [{"index": 5, "score": 1}],
    [{"index": 0, "score": "high"}], [{"index": 0, "score": 1}, {"index": 0, "score": 0.5}],
    [{"index": 1e400, "score": 1}], [{"index": "x", "score": 1}], [{"index": 0, "score": None}],
]  # fmt: skip


@pytest.mark.parametrize("rows", RANKS, ids=repr)
async def test_ranks_of_a_wrong_shape_are_a_protocol_error(liar: FakeLiar, http: HttpClient, rows: Any) -> None:
    liar.says({"results": rows})
    with pytest.raises(UpstreamProtocolError):
        await OpenAIBackend(http).rerank(at(liar), RERANK)


CLASSES: list[Any] = [
    *NO_LIST, None, [5], ["a"], [{}], [{"predictions": 5}], [{"predictions": [5]}],
    [{"predictions": [{"label": [], "score": 1}]}], [{"predictions": [{"label": "x", "score": 1}]}],
    [{"predictions": [{"label": "x", "score": 9}, {"label": "y", "score": 1}]}],
]  # fmt: skip


@pytest.mark.parametrize("rows", CLASSES, ids=repr)
async def test_classes_of_a_wrong_shape_are_a_protocol_error(liar: FakeLiar, http: HttpClient, rows: Any) -> None:
    liar.says({"data": rows})
    with pytest.raises(UpstreamProtocolError):
        await OpenAIBackend(http).classify(at(liar), CLASSIFY)


@pytest.mark.parametrize(
    "document",
    [
        5, [], "abc", {}, {"text": 5}, {"text": None}, {"text": "a", "segments": 5},
        {"text": "a", "segments": [5]},
        {"text": "a", "segments": [{"text": 5}]}, {"text": "a", "segments": [{"text": "a", "start": "b"}]},
        {"text": "a", "segments": [{"text": "a", "start": -1, "end": 1}]}, {"text": "a", "words": {"a": 1}},
        {"text": "a", "words": [{"word": "a", "end": []}]}, {"text": "a", "language": 5},
    ],
    ids=repr,
)  # fmt: skip
async def test_a_transcript_of_a_wrong_shape_is_a_protocol_error(
    liar: FakeLiar, http: HttpClient, document: Any
) -> None:
    backend = OpenAIBackend(http)
    liar.says(document)
    with pytest.raises(UpstreamProtocolError):
        _ = [item async for item in backend.transcribe(at(liar), HEARD)]
    if isinstance(document, dict):
        liar.streams({"type": "transcript.text.done", **document})
        with pytest.raises(UpstreamProtocolError):
            _ = [item async for item in backend.transcribe(at(liar), HEARD)]


@pytest.mark.parametrize(
    "wrong", [5, [], {"type": 5}, {"type": None}, {"type": "transcript.text.delta", "delta": 5}]
)
async def test_an_event_of_a_wrong_shape_is_a_protocol_error(liar: FakeLiar, http: HttpClient, wrong: Any) -> None:
    liar.streams(wrong, {"type": "transcript.text.done", "text": "a"})
    with pytest.raises(UpstreamProtocolError):
        _ = [item async for item in OpenAIBackend(http).transcribe(at(liar), HEARD)]


@pytest.mark.parametrize(
    "images", [*NO_LIST, None, [], [5], ["a"], [{}], [{"b64_json": 5}], [{"url": []}]], ids=repr
)
async def test_pictures_of_a_wrong_shape_are_a_protocol_error(
    liar: FakeLiar, http: HttpClient, images: Any
) -> None:
    liar.says({"data": images})
    with pytest.raises(UpstreamProtocolError):
        _ = [item async for item in OpenAIBackend(http).draw(at(liar), IMAGE)]


@pytest.mark.parametrize(
    "kind", ["application/json", "text/html", "text/plain; charset=utf-8", "text/event-stream"]
)
async def test_text_is_not_passed_on_as_audio(liar: FakeLiar, http: HttpClient, kind: str) -> None:
    liar.says({"oops": 1}, kind=kind)
    said = SpeechRequest.model_validate({"model": "m", "input": "a", "voice": "a" * 20})
    for backend in (OpenAIBackend(http), ElevenLabsBackend(http)):
        with pytest.raises(UpstreamProtocolError):
            _ = [item async for item in backend.speak(at(liar), said)]


# ---- what is irregular, but says what it means


@pytest.mark.parametrize("usage", [5, "abc", [], True, {"prompt_tokens": "abc"}, [1]], ids=repr)
async def test_bad_usage_alone_spoils_no_answer(liar: FakeLiar, http: HttpClient, usage: Any) -> None:
    backend = OpenAIBackend(http)
    liar.streams(GOOD, {**END, "usage": usage})
    assert (await assemble_chat(backend.chat(at(liar), CHAT)))["choices"][0]["message"]["content"] == "a"
    message = {"role": "assistant", "content": "a"}
    liar.says({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})
    assert (await assemble_chat(backend.chat(at(liar), SHORT)))["choices"][0]["message"]["content"] == "a"


PARTS = ["Hello", {"type": "text", "text": " wor"}, {"type": "output_text", "text": "ld"}]
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize("name", ["delta", "message"])
async def test_content_in_parts_is_joined(liar: FakeLiar, http: HttpClient, name: str) -> None:
    liar.streams({"choices": [{name: {"content": [THINKING, *PARTS]}, "finish_reason": "stop"}]})
    (chunk,) = [chunk async for chunk in OpenAIBackend(http).chat(at(liar), CHAT)]
    assert chunk["choices"][0]["delta"] == {"content": "Hello world", "reasoning_content": "hm"}
    liar.says({"choices": [{"message": {"content": [THINKING, *PARTS]}, "finish_reason": "stop"}]})
    answer = await assemble_chat(OpenAIBackend(http).chat(at(liar), SHORT))
    assert answer["choices"][0]["message"]["content"] == "Hello world"


async def test_tool_calls_without_positions_and_with_arguments_as_objects_are_made_regular(
    liar: FakeLiar, http: HttpClient
) -> None:
    first = {"id": "a", "type": "function", "function": {"name": "one", "arguments": ""}}
    more = {"function": {"arguments": '{"x": 1}'}}
    second = {"id": "b", "index": None, "type": "function", "function": {"name": "two", "arguments": {"y": [2]}}}
    liar.streams(
        {"choices": [{"delta": {"tool_calls": [first]}}]},
        {"choices": [{"delta": {"tool_calls": [more]}}]},
        {"choices": [{"delta": {"tool_calls": [second]}, "finish_reason": "tool_calls"}]},
    )
    answer = await assemble_chat(OpenAIBackend(http).chat(at(liar), CHAT))
    calls = [call["function"] for call in answer["choices"][0]["message"]["tool_calls"]]
    assert calls == [{"name": "one", "arguments": '{"x": 1}'}, {"name": "two", "arguments": '{"y":[2]}'}]


async def test_an_error_object_of_vllm_within_a_stream_is_its_error(liar: FakeLiar, http: HttpClient) -> None:
    liar.streams({"object": "error", "message": "out of memory", "type": "InternalServerError", "code": 500})
    with pytest.raises(UpstreamError, match="out of memory"):
        await assemble_chat(OpenAIBackend(http).chat(at(liar), CHAT))


# ---- providers of other wires

START = {"type": "message_start", "message": {"id": "a", "usage": {"input_tokens": 3}}}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
STOP = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}


def said(text: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


@pytest.mark.parametrize(
    "events",
    [
        [5], ["a"], [{}], [{"type": "message_start"}], [{"type": "message_start", "message": 5}], [said("a")],
        [START, BLOCK, said(5)], [START, BLOCK, said([5])], [START, said("a")], [START, {**BLOCK, "index": []}],
        [START, {**BLOCK, "content_block": 5}], [START, {"type": "message_delta", "delta": 5}],
        [START, {**BLOCK, "content_block": {"type": "tool_use", "id": 5, "name": "x"}}],
        [START, {"type": "message_delta", "delta": {"stop_reason": []}}],
    ],
    ids=repr,
)  # fmt: skip
async def test_anthropic_events_of_a_wrong_shape_are_a_protocol_error(
    liar: FakeLiar, http: HttpClient, events: list[Any]
) -> None:
    liar.streams(*events, STOP)
    with pytest.raises(UpstreamProtocolError):
        await assemble_chat(AnthropicBackend(http).chat(at(liar, "anthropic"), CHAT))


@pytest.mark.parametrize("usage", [5, "abc", [1], {"input_tokens": "a"}, {"output_tokens": []}], ids=repr)
async def test_bad_usage_of_anthropic_spoils_no_answer(liar: FakeLiar, http: HttpClient, usage: Any) -> None:
    liar.streams(START, BLOCK, said("a"), {**STOP, "usage": usage})
    answer = await assemble_chat(AnthropicBackend(http).chat(at(liar, "anthropic"), CHAT))
    assert answer["choices"][0]["message"]["content"] == "a"


def candidate(**fields: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP", **fields}]}


@pytest.mark.parametrize(
    "payload",
    [
        5, "a", [], {"candidates": 5}, {"candidates": [5]}, candidate(content=5), candidate(content={"parts": 5}),
        candidate(content={"parts": [5]}), candidate(content={"parts": [{"text": 5}]}), candidate(index=[]),
        candidate(content={"parts": [{"functionCall": 5}]}),
        candidate(content={"parts": [{"functionCall": {"name": 5}}]}),
        candidate(finishReason=[]), candidate(logprobsResult=5), {"promptFeedback": 5},
    ],
    ids=repr,
)  # fmt: skip
async def test_gemini_answers_of_a_wrong_shape_are_a_protocol_error(
    liar: FakeLiar, http: HttpClient, payload: Any
) -> None:
    liar.streams(payload)
    with pytest.raises(UpstreamProtocolError):
        await assemble_chat(GoogleBackend(http).chat(at(liar, "google"), CHAT))


@pytest.mark.parametrize("usage", [5, "abc", [1], {"promptTokenCount": "a"}, {"thoughtsTokenCount": []}], ids=repr)
async def test_bad_usage_of_gemini_spoils_no_answer(liar: FakeLiar, http: HttpClient, usage: Any) -> None:
    liar.streams({**candidate(), "usageMetadata": usage})
    answer = await assemble_chat(GoogleBackend(http).chat(at(liar, "google"), CHAT))
    assert answer["choices"][0]["message"]["content"] == "a"
    liar.says({"embeddings": [{"values": [1.0]}, {"values": [2.0]}], "usageMetadata": usage})
    assert len((await GoogleBackend(http).embed(at(liar, "google"), EMBED))["data"]) == 2


def test_reasoning_by_vllms_and_openrouters_name_is_read_by_ours_too() -> None:
    delta: dict[str, str] = {"reasoning": "hm"}
    regular_delta(delta)
    assert delta == {"reasoning": "hm", "reasoning_content": "hm"}
    both: dict[str, str] = {"reasoning": "hm", "reasoning_content": "ha"}
    regular_delta(both)
    assert both["reasoning_content"] == "ha", "a server that sends both has its own say"


@pytest.mark.parametrize("part", [{}, 5, None, [], "x"])
def test_an_error_about_a_shape_speaks_no_python(part: Any) -> None:
    with pytest.raises(UpstreamProtocolError) as wrong, reading("The API"):
        _ = part["call_id"]["x"]
    for word in ("KeyError", "TypeError", "object is not", "NoneType", "indices"):
        assert word not in wrong.value.message
    assert "wrong shape" in wrong.value.message
