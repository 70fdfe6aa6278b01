"""Gemini's translation: native parameters, reported ones, ids, signatures and embeddings."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import Chat, Embed, Upstream
from backends.google import GoogleBackend
from backends.google.errors import read_google_error
from backends.google.messages import NO_SIGNATURE
from backends.google.request import translate
from backends.google.stream import GeminiStream
from backends.http import HttpClient
from backends.streams.assemble import ChatAssembler
from backends.streams.sse import SSEReader
from backends.wire.chat import ChatRequest
from backends.wire.embeddings import EmbeddingRequest
from catalog.errors import (
    AnswerInvalid,
    CapabilityMismatch,
    ContextLengthExceeded,
    InvalidRequest,
    RoundhouseError,
    StreamBroken,
    UnsupportedParameter,
    UpstreamError,
    UpstreamForbidden,
    UpstreamProtocolError,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
)
from catalog.types import Json
from tests.fakes.google import SIGNATURE, FakeGoogle, encode

THIRD, SECOND, PRO = "gemini-3-flash", "gemini-2.5-flash", "gemini-2.5-pro"
SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


def upstream(model: str = THIRD, **fields: Any) -> Upstream:
    return Upstream(endpoint="g", protocol="google", base_url="http://127.0.0.1:1", model=model, **fields)


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def sent(model: str = THIRD, **fields: Any) -> tuple[Json, tuple[str, ...]]:
    translation = translate(asked(**fields), upstream(model))
    return translation.body, translation.dropped


def config(model: str = THIRD, **fields: Any) -> Json:
    found: Json = sent(model, **fields)[0]["generationConfig"]
    return found


# ---- the request


def test_settings_have_geminis_names() -> None:
    made = config(
        n=2, max_tokens=9, temperature=1.5, top_p=0.5, top_k=4, seed=7, stop=["a"], presence_penalty=1.0,
        logprobs=True, top_logprobs=3,
    )  # fmt: skip
    assert made == {
        "candidateCount": 2,
        "maxOutputTokens": 9,
        "temperature": 1.5,
        "topP": 0.5,
        "topK": 4,
        "seed": 7,
        "stopSequences": ["a"],
        "presencePenalty": 1.0,
        "responseLogprobs": True,
        "logprobs": 3,
    }


def test_what_gemini_does_not_take_is_reported() -> None:
    unknown: Json = {"seed": 2**40, "frequency_penalty": 2.0, "min_p": 0.1, "logit_bias": {"1": 1.0}, "made_up": 1}
    body, dropped = sent(**unknown, user="u")
    assert "generationConfig" not in body
    assert set(dropped) == {*unknown, "user"}
    assert sent(tools=[TOOL], parallel_tool_calls=False)[1] == ("parallel_tool_calls",)
    with pytest.raises(UnsupportedParameter, match="at most 8"):
        sent(n=9)


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "dropped"),
    [
        (THIRD, "low", {"thinkingLevel": "LOW", "includeThoughts": True}, False),
        (THIRD, "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}, False),
        (THIRD, "xhigh", {"thinkingLevel": "HIGH", "includeThoughts": True}, True),
        (THIRD, "none", {"thinkingLevel": "MINIMAL", "includeThoughts": False}, True),
        ("gemini-3-pro-preview", "medium", {"thinkingLevel": "LOW", "includeThoughts": True}, True),
        (SECOND, "medium", {"thinkingBudget": 8192, "includeThoughts": True}, False),
        (SECOND, "none", {"thinkingBudget": 0}, False),
        (PRO, "none", None, True),
        ("gemini-2.0-flash", "high", None, True),
        ("gemini-2.0-flash", "none", None, False),
    ],
)
def test_effort_is_a_level_or_a_budget(model: str, effort: str, thinking: Json | None, dropped: bool) -> None:
    body, names = sent(model, reasoning_effort=effort)
    assert body.get("generationConfig", {}).get("thinkingConfig") == thinking
    assert names == (("reasoning_effort",) if dropped else ())


def test_tool_choice_is_a_mode() -> None:
    def mode(choice: Any, **function: Any) -> Json | None:
        tool = {"type": "function", "function": {**TOOL["function"], **function}}
        body, _ = sent(tools=[tool], **({"tool_choice": choice} if choice else {}))
        found: Json | None = body.get("toolConfig", {}).get("functionCallingConfig")
        return found

    assert mode(None) is None
    assert mode("auto") == {"mode": "AUTO"}
    assert mode("none") == {"mode": "NONE"}
    assert mode("required") == {"mode": "ANY"}
    assert mode("auto", strict=True) == {"mode": "VALIDATED"}
    named = {"type": "function", "function": {"name": "f"}}
    assert mode(named) == {"mode": "ANY", "allowedFunctionNames": ["f"]}
    with pytest.raises(InvalidRequest, match="no tools"):
        sent(tool_choice="required")


def test_a_schema_goes_natively_and_keywords_that_gemini_ignores_are_reported() -> None:
    schema = {"type": "object", "properties": {"pattern": {"type": "string", "pattern": "a+", "enum": ["a"]}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body, dropped = sent(response_format=wanted)
    assert body["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": schema}
    assert dropped == ("response_format.json_schema.schema.pattern",)
    assert config(response_format={"type": "json_object"}) == {"responseMimeType": "application/json"}
    with pytest.raises(UnsupportedParameter, match="beside tools"):
        sent(SECOND, response_format=wanted, tools=[TOOL])


def test_names_and_values_within_a_schema_are_no_keywords() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"const": {"pattern": 1}, "examples": [{"not": 1}]}},
        "patternProperties": {"^x": {"type": "string"}},
        "dependentRequired": {"a": ["b"]},
        "definitions": {"Home": {"type": "string", "minLength": 1}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    told = {name.removeprefix("response_format.json_schema.schema.") for name in sent(response_format=wanted)[1]}
    assert told == {"const", "examples", "patternProperties", "dependentRequired", "definitions", "minLength"}


def test_media_are_inline_or_by_address() -> None:
    parts: list[Json] = [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png?x=1"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
    ]
    body, _ = sent(messages=[{"role": "user", "content": parts}])
    image, audio, pdf, video = body["contents"][0]["parts"]
    assert image == {"fileData": {"fileUri": "https://example.com/a.png?x=1", "mimeType": "image/png"}}
    assert audio == {"inlineData": {"mimeType": "audio/mp3", "data": "AAAA"}}
    assert pdf["inlineData"]["mimeType"] == "application/pdf"
    assert video["inlineData"]["mimeType"] == "video/mp4"
    dense = {"url": "data:video/mp4;base64,AAAA", "fps": 2.5, "max_frames": 9, "detail": "low"}
    video_part: Json = {"type": "video_url", "video_url": dense}
    body, dropped = sent(messages=[{"role": "user", "content": [video_part]}])
    assert body["contents"][0]["parts"][0]["videoMetadata"] == {"fps": 2.5}
    assert dropped == ("messages.video_url.max_frames", "messages.video_url.detail")
    odd = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "midi"}}
    with pytest.raises(CapabilityMismatch):
        sent(messages=[{"role": "user", "content": [odd]}])


def history(*, extra: Json | None = None, content: Any = "21 degrees", **result: Any) -> list[Json]:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}, **(extra or {})}
    second = {"id": "c2", "type": "function", "function": {"name": "f", "arguments": ""}}
    return [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call, second]},
        {"role": "tool", "tool_call_id": "c1", "content": content, **result},
        {"role": "tool", "tool_call_id": "c2", "content": '{"b": 2}'},
    ]


def test_results_find_their_functions_name_and_share_a_turn() -> None:
    contents = sent(messages=history())[0]["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user"]
    first, second = (part["functionResponse"] for part in contents[2]["parts"])
    assert first == {"id": "c1", "name": "f", "response": {"output": "21 degrees"}}
    assert second == {"id": "c2", "name": "f", "response": {"b": 2}}
    failed = sent(messages=history(is_error=True))[0]["contents"][2]["parts"][0]["functionResponse"]
    assert failed["response"] == {"error": "21 degrees"}
    with pytest.raises(InvalidRequest, match="must answer a tool call"):
        sent(messages=history()[2:])


def test_calls_carry_their_signature_or_the_one_for_calls_of_others() -> None:
    kept = {"extra_content": {"google": {"thought_signature": "abc"}}}
    parts = sent(messages=history(extra=kept))[0]["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == ["abc", None]
    assert [part["functionCall"]["id"] for part in parts] == ["c1", "c2"]
    foreign = sent(messages=history())[0]["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in foreign] == [NO_SIGNATURE, None]
    older = sent(SECOND, messages=history())[0]["contents"][1]["parts"]
    assert older[0] == {"functionCall": {"name": "f", "args": {"a": 1}}}


def test_pictures_as_results_need_a_new_model() -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    body, _ = sent(messages=history(content=picture))
    assert "parts" in body["contents"][2]["parts"][0]["functionResponse"]
    with pytest.raises(CapabilityMismatch):
        sent(SECOND, messages=history(content=picture))


# ---- the stream


def parts(*made: Json, **head: Any) -> Json:
    return {**head, "candidates": [{"content": {"parts": list(made)}}]}


EVENTS: list[Json] = [
    parts({"text": "Hm 🤔", "thought": True}, responseId="r1", modelVersion="gemini-x"),
    parts({"text": "Zürich 🏔"}, {"text": " it is."}),
    parts({"functionCall": {"name": "f", "args": {"ä": [1]}}, "thoughtSignature": "s1"}),
    parts({"functionCall": {"name": "g"}}, {"text": "", "thoughtSignature": "s2"}),
    {
        "candidates": [{"finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "thoughtsTokenCount": 2},
    },
]
BYTES = b"".join(encode(event) for event in EVENTS)


def read(pieces: list[bytes]) -> Json:
    stream, reader, assembler = GeminiStream(upstream(), created=1), SSEReader(), ChatAssembler()
    for piece in pieces:
        for event in reader.feed(piece):
            for chunk in stream.feed(event.json()):
                assembler.add(chunk)
    for chunk in stream.finish():
        assembler.add(chunk)
    return assembler.result()


def test_every_kind_of_part_has_its_place_in_the_message() -> None:
    answer = read([BYTES])
    message = answer["choices"][0]["message"]
    assert answer["model"] == "gemini-x"
    assert message["reasoning_content"] == "Hm 🤔"
    assert message["content"] == "Zürich 🏔 it is."
    first, second = message["tool_calls"]
    assert json.loads(first["function"]["arguments"]) == {"ä": [1]}
    assert first["extra_content"] == {"google": {"thought_signature": "s1"}}
    assert message["extra_content"] == {"google": {"thought_signature": "s2"}}
    assert (first["id"], second["id"]) == ("call_r1_0_0", "call_r1_0_1")
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2


def test_a_stream_cut_between_any_two_bytes_gives_the_same_message() -> None:
    whole = read([BYTES])
    assert all(read([BYTES[:at], BYTES[at:]]) == whole for at in range(len(BYTES)))
    assert read([bytes([byte]) for byte in BYTES]) == whole


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, len(BYTES)), max_size=12).map(sorted))
def test_a_stream_cut_anywhere_gives_the_same_message(cuts: list[int]) -> None:
    edges = [0, *cuts, len(BYTES)]
    assert read([BYTES[a:b] for a, b in pairwise(edges)]) == read([BYTES])


@settings(max_examples=50, deadline=None)
@given(length=st.integers(0, BYTES.index(b'"finishReason"')))
def test_a_stream_that_ends_too_early_is_broken_never_whole(length: int) -> None:
    with pytest.raises(StreamBroken):
        read([BYTES[:length]])


@pytest.mark.parametrize("reason", ["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "SPII"])
def test_a_filtered_answer_is_a_refusal(reason: str) -> None:
    choice = read([encode({"candidates": [{"finishReason": reason}]})])["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    assert reason in choice["message"]["refusal"]


@pytest.mark.parametrize(
    "reason",
    ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "OTHER", "A_REASON_OF_NEXT_YEAR"],
)
def test_a_model_that_failed_is_an_error_of_its_answer_not_an_end(reason: str) -> None:
    with pytest.raises(AnswerInvalid, match=reason):
        read([encode({"candidates": [{"finishReason": reason}]})])


@pytest.mark.parametrize(
    "event", [[], {"candidates": [{"content": {"parts": [{"functionCall": {}}]}}]}, {"candidates": 5}]
)
def test_what_is_not_the_wire_is_said_to_be_so(event: Any) -> None:
    with pytest.raises(UpstreamProtocolError):
        read([encode(event)])


# ---- errors


def error(status: int, message: str, *details: Json, name: str = "INVALID_ARGUMENT") -> RoundhouseError:
    body = {"error": {"code": status, "message": message, "status": name, "details": list(details)}}
    return read_google_error(status, {}, orjson.dumps([body]), upstream(api_key="AIzaSecretSecret"))


def test_errors_are_read_from_googles_details() -> None:
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3.5s"}
    limited = error(429, "Quota exceeded", wait, name="RESOURCE_EXHAUSTED")
    assert isinstance(limited, UpstreamRateLimited)
    assert limited.retry_after == 3.5
    told = error(429, "You exceeded your current quota, please check your plan and billing. Please retry in 7s.")
    assert type(told) is UpstreamRateLimited
    assert told.retry_after == 7.0
    billing = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "BILLING_DISABLED"}
    assert isinstance(error(403, "This API method requires billing.", billing), UpstreamQuotaExceeded)
    assert isinstance(error(429, "Your prepayment credits are depleted."), UpstreamQuotaExceeded)
    assert isinstance(error(429, "Your project has exceeded its monthly spending cap."), UpstreamQuotaExceeded)
    file = error(403, "You do not have permission to access the File abc.", name="PERMISSION_DENIED")
    assert isinstance(file, UpstreamForbidden)
    assert file.scope is None
    leaked = error(403, "Your API key was reported as leaked.", name="PERMISSION_DENIED")
    assert isinstance(leaked, UpstreamRejectedKey)
    key = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    assert isinstance(error(400, "API key not valid: AIzaSecretSecret", key), UpstreamRejectedKey)
    long = error(400, "The input token count exceeds the maximum number of tokens allowed 1048576.")
    assert isinstance(long, ContextLengthExceeded)
    assert (long.limit, long.requested) == (1_048_576, None)
    place = error(400, "User location is not supported", name="FAILED_PRECONDITION")
    assert type(place) is UpstreamError
    assert "AIzaSecretSecret" not in error(400, "bad AIzaSecretSecret").message


@pytest.mark.parametrize("quota", ["GenerateRequestsPerDayPerProjectPerModel-FreeTier", "RequestsPerDay"])
def test_a_days_quota_that_is_used_up_is_quota_and_a_minutes_is_a_rate(quota: str) -> None:
    def told(name: str, *details: Json) -> RoundhouseError:
        kind = "type.googleapis.com/google.rpc.QuotaFailure"
        return error(429, "Quota exceeded.", {"@type": kind, "violations": [{"quotaId": name}]}, *details)

    used_up = told(quota)
    assert isinstance(used_up, UpstreamQuotaExceeded)
    assert used_up.scope == ("model" if "PerModel" in quota else "key")
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "31s"}
    assert isinstance(told(quota, wait), UpstreamQuotaExceeded)
    assert type(told(quota.replace("Day", "Minute"))) is UpstreamRateLimited


# ---- the whole way


@pytest.fixture
async def fake() -> AsyncIterator[FakeGoogle]:
    async with FakeGoogle() as server:
        yield server


async def embed(fake: FakeGoogle, model: str = "gemini-embedding-001", **fields: Any) -> Json:
    there = Upstream(endpoint="g", protocol="google", base_url=fake.base_url, model=model, api_key=fake.key)
    async with HttpClient() as http:
        backend = GoogleBackend(http)
        assert isinstance(backend, Chat)
        assert isinstance(backend, Embed)
        return await backend.embed(there, EmbeddingRequest.model_validate({"model": "m", **fields}))


async def test_embeddings_keep_order_across_batches_and_have_length_one(fake: FakeGoogle) -> None:
    texts = ["x" * (1 + at % 7) for at in range(205)]
    answer = await embed(fake, input=texts, dimensions=4, input_type="query")
    assert len(fake.calls) == 3
    assert fake.calls[0].body["requests"][0]["taskType"] == "RETRIEVAL_QUERY"
    assert [row["index"] for row in answer["data"]] == list(range(205))
    for text, row in zip(texts, answer["data"], strict=True):
        raw = [len(text) + at for at in range(4)]
        length = math.sqrt(sum(value * value for value in raw))
        assert row["embedding"] == pytest.approx([value / length for value in raw], abs=1e-6)
    assert answer["usage"]["estimated"] is True


async def test_embeddings_come_as_base64_when_asked(fake: FakeGoogle) -> None:
    floats = (await embed(fake, input="hello"))["data"][0]["embedding"]
    text = (await embed(fake, input="hello", encoding_format="base64"))["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(text), dtype="<f4").tolist() == floats


async def test_token_ids_are_a_mismatch_and_an_unknown_task_is_reported(fake: FakeGoogle) -> None:
    with pytest.raises(CapabilityMismatch):
        await embed(fake, input=[1, 2, 3])
    async with HttpClient() as http:
        request = EmbeddingRequest.model_validate({"model": "m", "input": "x", "input_type": "query"})
        assert GoogleBackend(http).dropped(request, upstream("gemini-embedding-2")) == ("input_type",)


async def test_a_call_without_an_id_gets_a_stable_one_and_its_signature_comes_back(fake: FakeGoogle) -> None:
    fake.call_ids = False
    there = Upstream(endpoint="g", protocol="google", base_url=fake.base_url, model=THIRD, api_key=fake.key)
    async with HttpClient() as http:
        backend = GoogleBackend(http)

        async def say(messages: list[Json]) -> Json:
            assembler = ChatAssembler()
            async for chunk in backend.chat(there, asked(messages=messages, tools=[TOOL])):
                assembler.add(chunk)
            message: Json = assembler.result()["choices"][0]["message"]
            return message

        hello = {"role": "user", "content": "Hi"}
        called = await say([hello])
        again = await say([hello])
        call_id = called["tool_calls"][0]["id"]
        assert call_id
        assert again["tool_calls"][0]["id"] == call_id
        said = await say([hello, called, {"role": "tool", "tool_call_id": call_id, "content": "Fine."}])
    assert said["content"] == fake.reply
    assert fake.calls[2].body["contents"][1]["parts"][0]["thoughtSignature"] == SIGNATURE


async def test_choices_and_logprobs_keep_apart(fake: FakeGoogle) -> None:
    there = Upstream(endpoint="g", protocol="google", base_url=fake.base_url, model=THIRD, api_key=fake.key)
    assembler = ChatAssembler()
    async with HttpClient() as http:
        async for chunk in GoogleBackend(http).chat(there, asked(n=2, logprobs=True, top_logprobs=2)):
            assembler.add(chunk)
    choices = assembler.result()["choices"]
    assert [choice["message"]["content"] for choice in choices] == [fake.reply] * 2
    tokens = choices[1]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == fake.reply
    assert len(tokens[0]["top_logprobs"]) == 2
