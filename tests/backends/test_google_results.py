"""Gemini's grounding, pictures, sound, code and counts, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.genai import types
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import ResponseOutputItem

from backends.base import Upstream
from backends.google import GoogleBackend
from backends.google.request import translate
from backends.google.stream import GeminiStream
from backends.http import HttpClient
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest
from catalog.errors import UnsupportedParameter
from catalog.types import Json
from tests.fakes.google import QUERIES, SIGNATURE, SOURCES, FakeGoogle, grounding
from tests.fakes.server import Fault
from tests.sdk_types import strictly

THIRD, SECOND = "gemini-3-flash", "gemini-2.5-flash"
PICTURE: Json = {"mimeType": "image/png", "data": "aVBORw=="}
OURS = frozenset(
    {
        "images",
        "server_tool_calls",
        "server_tool_use",
        "image_tokens",
        "video_tokens",
        "mime_type",
        "extra_content",
    }
)
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def upstream(model: str = THIRD, base_url: str = "http://127.0.0.1:1", **fields: Any) -> Upstream:
    return Upstream(endpoint="g", protocol="google", base_url=base_url, model=model, **fields)


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def sent(model: str = THIRD, there: str = "http://127.0.0.1:1", **fields: Any) -> tuple[Json, tuple[str, ...]]:
    translation = translate(asked(**fields), upstream(model, there))
    return translation.body, translation.dropped


def checked(body: Json) -> Json:
    """The body, by the SDK's types, which forbid unknown fields."""
    types.GenerateContentConfig.model_validate({"tools": body["tools"], "toolConfig": body.get("toolConfig")})
    for content in body["contents"]:
        types.Content.model_validate(content)
    return body


def read(*events: Json, model: str = THIRD, regular: bool = True) -> Json:
    """The whole answer of these events' candidates and counts; ``regular``: Google's own types take them."""
    stream, assembler = GeminiStream(upstream(model), created=1), ChatAssembler()
    for event in events:
        if regular:
            types.GenerateContentResponse.model_validate(event)
        for chunk in stream.feed(event):
            assembler.add(chunk)
    for chunk in stream.finish():
        strictly(ChatCompletionChunk, chunk, ours=OURS | {"annotations"})
        assembler.add(chunk)
    answer = assembler.result()
    strictly(ChatCompletion, answer, ours=OURS)
    return answer


def said(*parts: Json, **candidate: Any) -> Json:
    return {"candidates": [{"index": 0, "content": {"role": "model", "parts": list(parts)}, **candidate}]}


STOP = {"candidates": [{"index": 0, "finishReason": "STOP"}]}


def message_of(*events: Json, **options: Any) -> Json:
    message: Json = read(*events, STOP, **options)["choices"][0]["message"]
    return message


@pytest.fixture
async def fake() -> AsyncIterator[FakeGoogle]:
    async with FakeGoogle() as server:
        yield server


async def ask(fake: FakeGoogle, model: str = THIRD, **fields: Any) -> Json:
    assembler = ChatAssembler()
    async with HttpClient() as http:
        there = upstream(model, fake.base_url, api_key=fake.key)
        async for chunk in GoogleBackend(http, now=lambda: 5.0).chat(there, asked(**fields)):
            assembler.add(chunk)
    return assembler.result()


# ---- the request


def test_a_search_is_googles_own_tool_and_what_google_does_not_take_is_named() -> None:
    body, dropped = sent(web_search_options={})
    assert checked(body)["tools"] == [{"googleSearch": {}}]
    assert dropped == ()
    place = {"type": "approximate", "approximate": {"country": "FR"}}
    options = {"max_uses": 3, "user_location": place, "search_context_size": "low"}
    assert set(sent(web_search_options=options)[1]) == {f"web_search_options.{name}" for name in options}


def test_a_search_beside_functions_is_for_newer_models() -> None:
    body, _ = sent(web_search_options={}, tools=[TOOL], tool_choice="auto")
    assert body["toolConfig"] == {"includeServerSideToolInvocations": True}
    body, _ = sent(web_search_options={}, tools=[TOOL], tool_choice="required")
    assert [list(tool) for tool in checked(body)["tools"]] == [["functionDeclarations"], ["googleSearch"]]
    config = {"functionCallingConfig": {"mode": "ANY"}, "includeServerSideToolInvocations": True}
    assert body["toolConfig"] == config
    with pytest.raises(UnsupportedParameter):
        sent(SECOND, web_search_options={}, tools=[TOOL])


def test_domains_that_google_does_not_keep_to_are_refused_and_vertex_excludes_some() -> None:
    for name in ("allowed_domains", "blocked_domains"):
        with pytest.raises(UnsupportedParameter) as refused:
            sent(web_search_options={"filters": {name: ["a.example"]}})
        assert refused.value.param == f"web_search_options.filters.{name}"
    vertex = "https://eu-aiplatform.googleapis.com/v1"
    body, _ = sent(there=vertex, web_search_options={"filters": {"blocked_domains": ["a.example"]}})
    assert checked(body)["tools"] == [{"googleSearch": {"excludeDomains": ["a.example"]}}]
    with pytest.raises(UnsupportedParameter):
        sent(there=vertex, web_search_options={"filters": {"allowed_domains": ["a.example"]}})


# ---- the answer


def test_grounding_annotates_characters_although_google_counts_bytes() -> None:
    text = "Füchse 🦊 sind schnell."
    event = {"candidates": [{"index": 0, "groundingMetadata": grounding(text)}]}
    message = message_of(said({"text": text[:9]}), said({"text": text[9:]}), event)
    places = [one["url_citation"] for one in message["annotations"]]
    assert [text[one["start_index"] : one["end_index"]] for one in places] == ["schnell."] * 2
    assert [(one["url"], one["title"]) for one in places] == [
        (source["web"]["uri"], source["web"]["title"]) for source in SOURCES
    ]


def test_a_segment_whose_bytes_count_within_another_part_is_found_by_its_text() -> None:
    found = grounding("and fast.")
    message = message_of(said({"text": "Foxes are small "}), said({"text": "and fast."}, groundingMetadata=found))
    place = message["annotations"][0]["url_citation"]
    assert message["content"][place["start_index"] : place["end_index"]] == "fast."


def test_grounding_that_comes_in_pieces_is_one_search_with_all_of_its_metadata() -> None:
    whole = grounding("Fast.")
    pieces = [{"candidates": [{"index": 0, "groundingMetadata": {name: whole[name]}}]} for name in whole]
    (item,) = message_of(said({"text": "Fast."}), *pieces, said(groundingMetadata={}))["server_tool_calls"]
    assert item["action"] == {
        "type": "search",
        "query": QUERIES[0],
        "queries": QUERIES,
        "sources": [{"type": "url", "url": source["web"]["uri"]} for source in SOURCES],
    }
    assert item["extra_content"]["google"]["grounding_metadata"] == whole
    strictly(ResponseOutputItem, item, ours=frozenset({"extra_content"}))
    assert "server_tool_calls" not in message_of(said({"text": "Fast."}, groundingMetadata={}))


def test_passages_that_gemini_quotes_are_annotated() -> None:
    for name in ("citationSources", "citations"):
        quoted = {name: [{"startIndex": 0, "endIndex": 2, "uri": "https://q.example", "title": "Q"}]}
        stream = GeminiStream(upstream(), created=1)
        list(stream.feed(said({"text": "Öl."}, citationMetadata=quoted, finishReason="STOP")))
        made = [chunk["choices"][0]["delta"].get("annotations") for chunk in stream.finish() if chunk["choices"]]
        place = {"start_index": 0, "end_index": 1, "title": "Q", "url": "https://q.example"}
        assert made[0] == [{"type": "url_citation", "url_citation": place}]


def test_a_picture_is_one_of_openrouters_images_with_its_signature_and_sound_is_audio() -> None:
    picture = {"inlineData": PICTURE, "thoughtSignature": SIGNATURE}
    sketch = {"inlineData": PICTURE, "thought": True}
    message = message_of(said({"text": "Here:"}, sketch), said(picture))
    (image,) = message["images"]
    assert image["image_url"]["url"] == f"data:image/png;base64,{PICTURE['data']}"
    assert image["extra_content"] == {"google": {"thought_signature": SIGNATURE}}
    sound = {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "AAAA"}}
    audio = message_of(said(sound))["audio"]
    assert (audio["data"], audio["mime_type"]) == ("AAAA", "audio/L16;rate=24000")


def test_code_that_gemini_ran_is_an_item_with_its_output() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "print(42)"}}
    result = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "42\n"}}
    failed = {"codeExecutionResult": {"outcome": "OUTCOME_FAILED", "output": "Oh."}}
    message = message_of(said(code), said(result), said({"text": "It is 42."}, code), said(failed), said(code))
    runs = message["server_tool_calls"]
    assert [run["status"] for run in runs] == ["completed", "failed", "incomplete"]
    assert runs[0]["code"] == "print(42)"
    assert runs[0]["outputs"] == [{"type": "logs", "logs": "42\n"}]
    assert len({run["id"] for run in runs}) == 3
    for run in runs:
        strictly(ResponseOutputItem, run, ours=frozenset({"extra_content"}))
    assert message["content"] == "It is 42."


def test_a_search_beside_functions_goes_back_with_the_functions_result() -> None:
    call = {"toolCall": {"id": "s1", "toolType": "GOOGLE_SEARCH_WEB", "args": {"queries": ["fox"]}}}
    signed = {**call, "thoughtSignature": SIGNATURE}
    response = {"toolResponse": {"id": "s1", "toolType": "GOOGLE_SEARCH_WEB", "response": {"x": 1}}}
    function = {"functionCall": {"id": "f1", "name": "f", "args": {}}, "thoughtSignature": SIGNATURE}
    message = message_of(said(signed), said(response), said(function))
    (item,) = message["server_tool_calls"]
    assert item["action"]["queries"] == ["fox"]
    result = {"role": "tool", "tool_call_id": "f1", "content": "Fine."}
    messages = [{"role": "user", "content": "Hi"}, message, result]
    body, _ = sent(messages=messages, web_search_options={}, tools=[TOOL])
    assert checked(body)["contents"][1]["parts"] == [signed, response, function]


def test_a_picture_goes_back_with_its_signature() -> None:
    message = message_of(said({"inlineData": PICTURE, "thoughtSignature": SIGNATURE}))
    turns = [{"role": "user", "content": "Draw."}, message, {"role": "user", "content": "Larger."}]
    body, dropped = sent(messages=turns)
    assert body["contents"][1]["parts"][-1] == {"inlineData": PICTURE, "thoughtSignature": SIGNATURE}
    assert dropped == ()


def test_tokens_are_counted_by_kind_and_the_tier_has_openais_name() -> None:
    details = [{"modality": "TEXT", "tokenCount": 3}, {"modality": "AUDIO", "tokenCount": 7}]
    counts = {
        "promptTokenCount": 10,
        "candidatesTokenCount": 1290,
        "promptTokensDetails": details,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
    }
    answer = read({**said({"text": "Hi"}), "usageMetadata": {**counts, "trafficType": "ON_DEMAND_FLEX"}}, STOP)
    assert answer["usage"]["prompt_tokens_details"]["audio_tokens"] == 7
    assert answer["usage"]["completion_tokens_details"]["image_tokens"] == 1290
    assert answer["service_tier"] == "flex"


@pytest.mark.parametrize("details", [[2**31], ["data:,"], [None], [{"modality": [], "tokenCount": 3}], {}, 5])
def test_details_of_tokens_that_are_none_do_not_spoil_a_whole_answer(details: Any) -> None:
    counts = {"promptTokenCount": 10, "candidatesTokenCount": 2, "promptTokensDetails": details}
    answer = read({**said({"text": "Hi"}), "usageMetadata": counts}, STOP, regular=False)
    assert answer["choices"][0]["message"]["content"] == "Hi"
    assert answer["usage"]["prompt_tokens"] == 10


@pytest.mark.parametrize(("model", "searches"), [(THIRD, 2), (SECOND, 1)])
async def test_a_search_is_counted_as_google_charges_it(fake: FakeGoogle, model: str, searches: int) -> None:
    fake.reply = "Ein Fuchs läuft schnell 🦊."
    answer = await ask(fake, model, web_search_options={})
    assert answer["usage"]["server_tool_use"] == {"web_search_requests": searches}
    message = answer["choices"][0]["message"]
    place = message["annotations"][0]["url_citation"]
    assert message["content"][place["start_index"] : place["end_index"]] == "🦊."
    fake.script(Fault(headers={"x-gemini-service-tier": "priority"}))
    plain = await ask(fake, model)
    assert "server_tool_use" not in plain["usage"]
    assert plain["service_tier"] == "priority"
