"""Bedrock's Converse: what a chat becomes, and its errors. Bodies are held to botocore's model of the service."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Upstream
from backends.clouds.bedrock import embeddings
from backends.clouds.bedrock.converse import translate
from backends.clouds.bedrock.errors import read_bedrock_error
from backends.clouds.bedrock.stream import ConverseStream
from backends.streams.assemble import ChatAssembler
from backends.translation import reading
from backends.wire.chat import ChatRequest
from catalog.errors import (
    CapabilityMismatch,
    ContextLengthExceeded,
    InvalidRequest,
    ModelUnavailable,
    RoundhouseError,
    UnsupportedParameter,
    UpstreamError,
    UpstreamForbidden,
    UpstreamOverloaded,
    UpstreamQuotaExceeded,
    UpstreamRateLimited,
    UpstreamRejectedKey,
    UpstreamTimeout,
)
from catalog.types import Json
from tests.backends.test_mutated_answers import mutations
from tests.fakes.bedrock import frame, held

NOVA = "us.amazon.nova-pro-v1:0"
SCHEMA: Json = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 1}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def sent(model: str = NOVA, *, headers: Any = None, **fields: Any) -> tuple[Json, tuple[str, ...]]:
    """The body of Converse, held to the model of the service, and the dropped parameters."""
    made = translate(asked(**fields), Upstream("b", "bedrock", "https://b", model, headers=headers or {}))
    held("ConverseStreamRequest", {**made.body, "modelId": "m"})
    return made.body, made.dropped


# ---- citations and pictures


def events_of(*blocks: list[Json], start: Json | None = None) -> list[tuple[str, Json]]:
    """The events of an answer with these blocks of deltas, held to the model of the service."""
    events: list[tuple[str, Json]] = [("messageStart", {"role": "assistant"})]
    for at, deltas in enumerate(blocks):
        if start is not None:
            events.append(("contentBlockStart", {"contentBlockIndex": at, "start": start}))
        events += [("contentBlockDelta", {"contentBlockIndex": at, "delta": delta}) for delta in deltas]
        events.append(("contentBlockStop", {"contentBlockIndex": at}))
    events.append(("messageStop", {"stopReason": "end_turn"}))
    usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
    events.append(("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}))
    for kind, event in events:
        frame(kind, event)
    return events


def message_of(events: list[tuple[str, Json]]) -> Json:
    stream = ConverseStream(Upstream("b", "bedrock", "https://b", NOVA), "id", created=1)
    assembler = ChatAssembler()
    for kind, event in events:
        for chunk in stream.feed(kind, event):
            assembler.add(chunk)
    stream.close()
    found: Json = assembler.result()["choices"][0]["message"]
    return found


def test_citations_annotate_the_characters_of_their_own_block() -> None:
    page: Json = {"title": "Foxes", "sourceContent": [{"text": "A fox is "}, {"text": "fast."}]}
    page["location"] = {"web": {"url": "https://foxes.example", "domain": "foxes.example"}}
    file = {"title": "a pdf", "location": {"documentPage": {"documentIndex": 0, "start": 1, "end": 2}}}
    found = {"title": "Mine", "source": "https://mine.example", "location": {"searchResultLocation": {}}}
    message = message_of(
        events_of(
            [{"text": "Über foxes: "}],
            [{"text": "fast"}, {"text": " 🦊"}, {"citation": page}, {"citation": file}, {"citation": found}],
        )
    )
    web, document, own = message["annotations"]
    place = {"start_index": 12, "end_index": 18}
    assert message["content"][12:18] == "fast 🦊"
    assert web["url_citation"] == {
        **place,
        "title": "Foxes",
        "url": "https://foxes.example",
        "content": "A fox is fast.",
    }
    assert document == {
        "type": "file_citation",
        "file_citation": {"file_id": "", "filename": "a pdf", "index": 18, "content": ""},
    }
    assert own["url_citation"]["url"] == "https://mine.example"


def test_a_picture_that_the_model_draws_comes_whole() -> None:
    deltas: list[Json] = [{"image": {"source": {"bytes": piece}}} for piece in ("iVBO", "Rw==")]
    message = message_of(events_of(deltas, start={"image": {"format": "png"}}))
    assert message["images"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}]


def test_a_file_can_be_cited() -> None:
    pdf = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}}
    body, dropped = sent(
        messages=[{"role": "user", "content": [{**pdf, "citations": {"enabled": True}, "context": "A"}]}]
    )
    document = body["messages"][0]["content"][0]["document"]
    assert (document["citations"], document["context"], dropped) == ({"enabled": True}, "A", ())


# ---- requests


def test_a_conversation_with_tools_becomes_turns_that_alternate() -> None:
    calls = [{"id": "c 1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    kept = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "thinking", "thinking": "unsigned"},
    ]
    body, dropped = sent(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One."},
            {"role": "user", "content": [{"type": "text", "text": " "}, {"type": "text", "text": "Two."}]},
            {"role": "assistant", "content": "Three.", "tool_calls": calls, "thinking_blocks": kept},
            {"role": "tool", "tool_call_id": "c 1", "content": ""},
            {"role": "user", "content": "Four."},
        ],
        tools=[TOOL],
    )
    assert body["system"] == [{"text": "Be brief."}]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    thought, said, use = body["messages"][1]["content"]
    assert thought == {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s"}}}
    assert said == {"text": "Three."}
    assert use["toolUse"]["input"] == {"a": 1}
    result, text = body["messages"][2]["content"]
    assert result["toolResult"]["toolUseId"] == use["toolUse"]["toolUseId"] != "c 1"
    assert text == {"text": "Four."}
    spec = body["toolConfig"]["tools"][0]["toolSpec"]
    assert spec["strict"] is True
    assert dropped == ("tools.function.parameters.minimum",)


def test_media_are_blocks_of_their_kind_and_documents_have_names_of_their_own() -> None:
    pdf = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a_b.pdf"}}
    film = {"type": "file", "file": {"file_data": "data:video/mp4;base64,AAAA"}}
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    image = {"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}}
    body, dropped = sent(messages=[{"role": "user", "content": [image, pdf, pdf, film, sound]}])
    blocks = body["messages"][0]["content"]
    assert [next(iter(block)) for block in blocks] == ["image", "document", "document", "video", "audio"]
    assert [block["document"]["name"] for block in blocks[1:3]] == ["a b pdf", "a b pdf 2"]
    assert dropped == ("messages.image_url.detail",)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}},
        {"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA"}},
        {"type": "file", "file": {"file_id": "f-1"}},
    ],
)
def test_media_that_bedrock_does_not_take_are_refused(part: Json) -> None:
    with pytest.raises(CapabilityMismatch):
        sent(messages=[{"role": "user", "content": [part]}])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "object"}},
                }
            },
            "response_format",
        ),
    ],
)
def test_a_constraint_that_cannot_be_kept_is_refused(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(**fields)
    assert caught.value.param == param


def test_tools_cannot_be_forbidden_after_they_were_used() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    asking: list[Json] = [{"tools": [TOOL], "tool_choice": "none"}, {}]
    for fields in asking:
        with pytest.raises(UnsupportedParameter):
            sent(messages=messages, **fields)


@pytest.mark.parametrize(
    ("model", "fields", "sent_fields", "dropped"),
    [
        ("openai.gpt-oss-120b-1:0", {"reasoning_effort": "medium"}, {"reasoning_effort": "medium"}, ()),
        (
            "openai.gpt-oss-120b-1:0",
            {"reasoning_effort": "none"},
            {"reasoning_effort": "low"},
            ("reasoning_effort",),
        ),
        (
            "us.amazon.nova-2-lite-v1:0",
            {"reasoning_effort": "high"},
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}},
            (),
        ),
        (
            "us.amazon.nova-2-lite-v1:0",
            {"reasoning_effort": "high", "max_tokens": 50},
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "medium"}},
            ("reasoning_effort",),
        ),
        (
            "us.amazon.nova-2-lite-v1:0",
            {"reasoning_effort": "none"},
            {"reasoningConfig": {"type": "disabled"}},
            (),
        ),
        ("meta.llama4-v1:0", {"reasoning_effort": "low", "top_k": 5}, None, ("top_k", "reasoning_effort")),
        (NOVA, {"top_k": 5}, {"inferenceConfig": {"topK": 5}}, ()),
    ],
)
def test_a_models_own_fields_are_sent_in_its_own_way(
    model: str, fields: Json, sent_fields: Json | None, dropped: tuple[str, ...]
) -> None:
    body, told = sent(model, **fields)
    assert body.get("additionalModelRequestFields") == sent_fields
    assert told == dropped


def test_sampling_tiers_caches_and_the_endpoints_guardrail_are_sent() -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    body, dropped = sent(
        temperature=1.5,
        top_p=0.5,
        max_tokens=9,
        stop=["END"],
        seed=7,
        service_tier="priority",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hi", **mark}]}],
        headers={"X-Amzn-Bedrock-GuardrailIdentifier": "g1", "X-Amzn-Bedrock-GuardrailVersion": "3"},
    )
    assert body["inferenceConfig"] == {"maxTokens": 9, "topP": 0.5, "stopSequences": ["END"]}
    assert body["serviceTier"] == {"type": "priority"}
    assert body["guardrailConfig"] == {"guardrailIdentifier": "g1", "guardrailVersion": "3"}
    assert body["messages"][0]["content"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert set(dropped) == {"temperature", "seed"}
    marked = [{"role": "user", "content": "Hi", **mark}]
    assert sent("meta.llama4-v1:0", messages=marked)[1] == ("messages.cache_control",)


def test_results_of_other_providers_tools_are_named() -> None:
    said = {"role": "assistant", "content": "x", "server_tool_calls": [{"extra_content": {"anthropic": {}}}]}
    hello = {"role": "user", "content": "Hi"}
    assert sent(messages=[hello, said, hello])[1] == ("messages.server_tool_calls",)


# ---- errors


def error(status: int, name: str, message: str, **headers: str) -> RoundhouseError:
    upstream = Upstream("b", "bedrock", "https://b", NOVA, api_key="planted-secret-0123456789")
    body = json.dumps({"message": message}).encode()
    return read_bedrock_error(status, {"x-amzn-errortype": f"{name}:http://internal/", **headers}, body, upstream)


@pytest.mark.parametrize(
    ("status", "name", "message", "kind"),
    [
        (429, "ThrottlingException", "Too many requests, please wait before trying again.", UpstreamRateLimited),
        (400, "ServiceQuotaExceededException", "You have exceeded your quota.", UpstreamQuotaExceeded),
        (403, "AccessDeniedException", "You don't have access to the model with this ID.", UpstreamForbidden),
        (
            403,
            "ExpiredTokenException",
            "The security token included in the request is expired",
            UpstreamRejectedKey,
        ),
        (403, "UnrecognizedClientException", "The security token is invalid.", UpstreamRejectedKey),
        (403, "InvalidSignatureException", "The request signature does not match", UpstreamRejectedKey),
        (403, "AccessDeniedException", "Bearer Token has expired", UpstreamRejectedKey),
        (404, "ResourceNotFoundException", "Could not resolve the foundation model", ModelUnavailable),
        (400, "ValidationException", "The provided model identifier is invalid.", ModelUnavailable),
        (
            400,
            "ValidationException",
            "Invocation of model ID x with on-demand throughput isn\u2019t supported. Retry with a profile.",
            ModelUnavailable,
        ),
        (400, "ValidationException", "Input is too long for requested model.", ContextLengthExceeded),
        (
            400,
            "ValidationException",
            "Malformed input request: #: extraneous key [foo] is not permitted, please reformat your input.",
            UnsupportedParameter,
        ),
        (
            400,
            "ValidationException",
            "This model doesn't support the toolConfig.toolChoice.any field. Remove it and try again.",
            UnsupportedParameter,
        ),
        (400, "ValidationException", "This model doesn't support tool use.", CapabilityMismatch),
        (400, "ValidationException", "Something else is wrong.", InvalidRequest),
        (408, "ModelTimeoutException", "It took too long.", UpstreamTimeout),
        (424, "ModelErrorException", "The model failed.", UpstreamError),
        (429, "ModelNotReadyException", "The model is not ready.", UpstreamOverloaded),
        (500, "InternalServerException", "Oops.", UpstreamError),
        (503, "ServiceUnavailableException", "Busy.", UpstreamOverloaded),
    ],
)
def test_each_exception_is_its_typed_error(
    status: int, name: str, message: str, kind: type[RoundhouseError]
) -> None:
    assert type(error(status, name, message)) is kind


def test_an_exception_is_also_named_in_the_body_and_its_scope_is_the_model() -> None:
    upstream = Upstream("b", "bedrock", "https://b", NOVA)
    body = b'{"__type": "com.amazon.coral.availability#ThrottlingException", "message": "Try again in 7s."}'
    limited = read_bedrock_error(400, {}, body, upstream)
    assert isinstance(limited, UpstreamRateLimited)
    assert limited.scope == "model"
    assert limited.retry_after == 7
    refused = error(403, "AccessDeniedException", "You don't have access to the model.")
    assert isinstance(refused, UpstreamForbidden)
    assert refused.scope == "model"
    assert error(408, "ModelTimeoutException", "x").may_bill  # type: ignore[attr-defined]


def test_the_numbers_of_a_prompt_that_is_too_long_are_read() -> None:
    for text in ("prompt is too long: 210000 tokens > 200000 maximum",):
        told = error(400, "ValidationException", f"The model returned the following errors: {text}")
        assert isinstance(told, ContextLengthExceeded)
        assert (told.requested, told.limit) == (210000, 200000)


def test_no_key_is_told_in_an_error() -> None:
    assert "planted" not in str(error(400, "ValidationException", "bad planted-secret-0123456789"))


# ---- answers of a wrong shape

EVENTS: list[tuple[str, Json]] = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "a"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "b"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"redactedContent": "c"}}}),
    ("contentBlockStop", {"contentBlockIndex": 0}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "a"}}),
    ("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t", "name": "f"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": "{}"}}}),
    ("contentBlockStop", {"contentBlockIndex": 2}),
    ("messageStop", {"stopReason": "tool_use"}),
    (
        "metadata",
        {
            "usage": {
                "inputTokens": 1,
                "outputTokens": 2,
                "cacheReadInputTokens": 3,
                "cacheDetails": [{"ttl": "5m", "inputTokens": 1}],
            },
            "serviceTier": {"type": "flex"},
        },
    ),
]


@pytest.mark.parametrize(
    "position", range(len(EVENTS)), ids=[f"{at}-{kind}" for at, (kind, _) in enumerate(EVENTS)]
)
def test_an_event_of_a_wrong_shape_is_an_answer_or_a_typed_error(position: int) -> None:
    for changed in mutations(EVENTS[position][1]):
        events = [*EVENTS[:position], (EVENTS[position][0], changed), *EVENTS[position + 1 :]]
        stream = ConverseStream(Upstream("b", "bedrock", "https://b", NOVA), "id", 0)
        assembler = ChatAssembler()
        try:
            for kind, event in events:
                for chunk in stream.feed(kind, event):
                    assembler.add(chunk)
        except RoundhouseError:
            continue
        assembler.result()


def test_an_embedding_of_a_wrong_shape_is_a_typed_error() -> None:
    for answer in (
        {"embedding": [1.0]},
        {"embeddings": {"float": [[1.0]]}},
        {"embeddings": [{"embedding": [1.0]}]},
    ):
        for changed in mutations(answer):
            try:
                with reading("Bedrock"):
                    rows = embeddings.regular(changed, "5")["embeddings"]
                assert isinstance(rows, list)
            except RoundhouseError:
                continue
