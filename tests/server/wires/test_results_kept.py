"""All that a provider found and made, in any order, is in the answer of every API, as its SDK's types have it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anthropic.types import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from openai.types.responses import Response, ResponseStreamEvent

from backends.anthropic.stream import AnthropicStream
from backends.base import Upstream
from backends.google.stream import GeminiStream
from backends.streams.assemble import ChatAssembler
from backends.wire.responses import ResponsesRequest
from catalog.types import Json
from server.wires.messages import MessageStream
from server.wires.responses import ResponseStream
from tests.fakes.anthropic import CITATION, FOUND, stream_of
from tests.sdk_types import strictly

OURS = frozenset(
    {
        *("server_tool_calls", "images", "content", "server_tool_use", "cache_creation", "inference_geo"),
        *("extra_content", "reasoning_content", "store"),
    }
)
URLS = st.integers(0, 99).map(lambda number: f"https://site{number}.example/page")
TEXTS = st.sampled_from(["A fox.", "Zwei Füchse 🦊 laufen.", "x", " and\nmore "])


def cited(text: str, urls: list[str]) -> Json:
    return {"type": "text", "text": text, "citations": [{**CITATION, "url": url} for url in urls]}


def searched(number: int, urls: list[str]) -> list[Json]:
    name = f"srvtoolu_{number}"
    found = [{**FOUND, "url": url} for url in urls]
    return [
        {"type": "server_tool_use", "id": name, "name": "web_search", "input": {"query": "fox"}},
        {"type": "web_search_tool_result", "tool_use_id": name, "content": found},
    ]


def ran(number: int, text: str) -> list[Json]:
    name = f"srvtoolu_{number}"
    result = {"type": "code_execution_result", "stdout": text, "stderr": "", "return_code": 0, "content": []}
    return [
        {"type": "server_tool_use", "id": name, "name": "code_execution", "input": {"code": "print()"}},
        {"type": "code_execution_tool_result", "tool_use_id": name, "content": result},
    ]


NUMBERS = st.integers(0, 10**6)
STEPS = st.one_of(
    st.builds(lambda text, urls: [cited(text, urls)], TEXTS, st.lists(URLS, max_size=3)),
    st.builds(searched, NUMBERS, st.lists(URLS, max_size=3)),
    st.builds(ran, NUMBERS, st.sampled_from(["42", "Oh."])),
)


def answers(chunks: Iterable[Json]) -> tuple[Json, Json, Json]:
    """The chat, the response and the message of these chunks, which the SDKs' types allow."""
    chat, message = ChatAssembler(), MessageStream(message_id="msg_1")
    request = ResponsesRequest.model_validate({"model": "m", "input": "Hi"})
    response = ResponseStream(request=request, response_id="resp_1", created_at=1)
    events = list(response.start())
    for chunk in chunks:
        chat.add(chunk)
        events += response.feed(chunk)
        list(message.feed(chunk))
    events += response.finish()
    list(message.finish())
    for event in events:
        strictly(ResponseStreamEvent, event, ours=OURS)
    made = chat.result(), response.response(), message.message()
    for kind, answer in zip((ChatCompletion, Response, Message), made, strict=True):
        strictly(kind, answer, ours=OURS)
    return made


def texts_of(response: Json, message: Json) -> tuple[str, str]:
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    blocks = [block["text"] for block in message["content"] if block["type"] == "text"]
    return "".join(part["text"] for part in parts), "".join(blocks)


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(STEPS, min_size=1, max_size=6), last=TEXTS)
def test_of_anthropics_blocks(steps: list[list[Json]], last: str) -> None:
    blocks = [block for step in steps for block in step] + [{"type": "text", "text": last}]
    stream = AnthropicStream(Upstream("a", "anthropic", "http://127.0.0.1:1", "claude-opus-5"), created=1)
    body = {"model": "claude-opus-5", "messages": []}
    chunks = [chunk for event in stream_of(body, blocks, "end_turn") for chunk in stream.feed(event)]
    chat, response, message = answers(chunks)
    content = chat["choices"][0]["message"]
    text = "".join(block.get("text", "") for block in blocks)
    assert [content["content"], *texts_of(response, message)] == [text] * 3
    citations = [(block["text"], one["url"]) for block in blocks for one in block.get("citations") or ()]
    places = [one["url_citation"] for one in content.get("annotations") or ()]
    assert [(text[one["start_index"] : one["end_index"]], one["url"]) for one in places] == citations
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    assert [
        (part["text"][one["start_index"] : one["end_index"]], one["url"])
        for part in parts
        for one in part["annotations"]
    ] == citations
    held = [one["url"] for block in message["content"] for one in block.get("citations") or ()]
    assert held == [url for _, url in citations]
    runs = [block for block in blocks if block["type"] == "server_tool_use"]
    items = [item["id"] for item in response["output"] if item["type"] != "message"]
    assert items == [block["id"] for block in runs]
    assert [one for one in message["content"] if one["type"] != "text"] == [
        block for block in blocks if block["type"] != "text"
    ]


PICTURE: Json = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
CODE: Json = {"executableCode": {"language": "PYTHON", "code": "print(42)"}}
RESULT: Json = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "42"}}
PARTS = st.lists(
    st.one_of(TEXTS.map(lambda text: [{"text": text}]), st.just([PICTURE]), st.just([CODE, RESULT])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=30, deadline=None)
@given(parts=PARTS, urls=st.lists(URLS, min_size=1, max_size=3, unique=True), data=st.data())
def test_of_geminis_parts(parts: list[list[Json]], urls: list[str], data: st.DataObject) -> None:
    flat: list[Any] = [part for step in parts for part in step]
    text = "".join(part.get("text", "") for part in flat)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    segment = {"startIndex": len(text[:start].encode()), "endIndex": len(text[:end].encode())}
    grounding = {
        "webSearchQueries": ["fox"],
        "groundingChunks": [{"web": {"uri": url, "title": "T"}} for url in urls],
        "groundingSupports": [{"segment": segment, "groundingChunkIndices": list(range(len(urls)))}],
    }
    stream = GeminiStream(Upstream("g", "google", "http://127.0.0.1:1", "gemini-3-flash"), created=1)
    candidates = [{"index": 0, "content": {"parts": [part]}} for part in flat]
    ending = {"index": 0, "finishReason": "STOP", "groundingMetadata": grounding}
    chunks = [c for one in (*candidates, ending) for c in stream.feed({"candidates": [one]})]
    chat, response, message = answers([*chunks, *stream.finish()])
    content = chat["choices"][0]["message"]
    assert content["content"] == text
    assert texts_of(response, message)[0] == text
    places = [one["url_citation"] for one in content["annotations"]]
    assert [(one["start_index"], one["end_index"], one["url"]) for one in places] == [
        (start, end, url) for url in urls
    ]
    drawn = sum(part is PICTURE for part in flat)
    ran_code = sum(part is CODE for part in flat)
    assert len(content.get("images") or ()) == drawn
    kinds = [item["type"] for item in response["output"]]
    assert (kinds.count("image_generation_call"), kinds.count("code_interpreter_call")) == (drawn, ran_code)
    assert str(message["content"]).count("data:image/png;base64,AAAA") == drawn
    for answer in (str(response["output"]), str(message["content"])):
        assert all(url in answer for url in urls)
