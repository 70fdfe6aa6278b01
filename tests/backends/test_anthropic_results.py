"""Anthropic's own search, its results, citations and counts, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.message_create_params import MessageCreateParamsBase
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import ResponseOutputItem

from backends.anthropic import AnthropicBackend
from backends.anthropic.request import translate
from backends.anthropic.stream import MAX_PAUSES, AnthropicStream
from backends.base import Upstream
from backends.http import HttpClient
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.model import Price
from catalog.types import Json
from routing.accounts.costs import cost_of
from routing.calling.watching.usage import token_usage
from tests.fakes.anthropic import (
    CITATION,
    FOUND,
    QUERY,
    SEARCHED,
    SIGNATURE,
    FakeAnthropic,
    message_of,
    stream_of,
    usage_of,
)
from tests.sdk_types import bodies, strictly

MODEL = "claude-opus-5"
OURS = frozenset({"content", "server_tool_calls", "cache_creation", "server_tool_use", "inference_geo"})
check_body = bodies(MessageCreateParamsBase)
PLACE = {"type": "approximate", "approximate": {"city": "Paris", "country": "FR"}}


def upstream(base_url: str = "http://127.0.0.1:1", **fields: Any) -> Upstream:
    return Upstream(endpoint="a", protocol="anthropic", base_url=base_url, model=MODEL, **fields)


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def sent(**options: Any) -> tuple[Json, tuple[str, ...]]:
    translation = translate(asked(web_search_options=options), upstream())
    return translation.body, translation.dropped


def sent_plain(**fields: Any) -> tuple[Json, tuple[str, ...]]:
    translation = translate(asked(**fields), upstream())
    return translation.body, translation.dropped


def read(blocks: list[Json], stop: str = "end_turn") -> Json:
    """The whole answer of a stream of these blocks."""
    stream, assembler = AnthropicStream(upstream(), created=1), ChatAssembler()
    for event in stream_of({"model": MODEL, "messages": []}, blocks, stop):
        strictly(RawMessageStreamEvent, event) if event["type"] != "ping" else None
        for chunk in stream.feed(event):
            strictly(ChatCompletionChunk, chunk, ours=OURS | {"annotations"})
            assembler.add(chunk)
    stream.close()
    answer = assembler.result()
    strictly(ChatCompletion, answer, ours=OURS)
    return answer


@pytest.fixture
async def fake() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


async def ask(fake: FakeAnthropic, **fields: Any) -> Json:
    assembler = ChatAssembler()
    async with HttpClient() as http:
        backend = AnthropicBackend(http, now=lambda: 5.0)
        async for chunk in backend.chat(upstream(fake.origin, api_key=fake.key), asked(**fields)):
            assembler.add(chunk)
    return assembler.result()


# ---- the request


def test_a_search_is_anthropics_own_tool_with_its_place_its_domains_and_its_bound() -> None:
    body, dropped = sent(user_location=PLACE, filters={"allowed_domains": ["a.example"]}, max_uses=3)
    place = {"type": "approximate", "city": "Paris", "country": "FR"}
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    assert body["tools"] == [{**tool, "allowed_domains": ["a.example"], "user_location": place}]
    assert dropped == ()
    check_body(body)
    assert sent(search_context_size="high")[1] == ("web_search_options.search_context_size",)
    assert sent(search_context_size="medium")[1] == ()


def test_a_search_that_anthropic_refuses_is_refused_with_the_name_of_the_field() -> None:
    with pytest.raises(UnsupportedParameter) as both:
        sent(filters={"allowed_domains": ["a.example"], "blocked_domains": ["b.example"]})
    assert both.value.param == "web_search_options.filters"
    taken = {"type": "function", "function": {"name": "web_search"}}
    with pytest.raises(UnsupportedParameter) as named:
        translate(asked(web_search_options={}, tools=[taken]), upstream())
    assert named.value.param == "tools"


def test_a_row_that_lists_its_parameters_searches_too() -> None:
    narrow = upstream(parameters=frozenset({"max_tokens"}))
    translation = translate(asked(web_search_options={}), narrow)
    assert translation.body["tools"][0]["name"] == "web_search"
    assert translation.dropped == ()


# ---- the answer


def test_the_fakes_answer_with_a_search_is_the_true_wire() -> None:
    blocks = [*SEARCHED, {"type": "text", "text": "Fast.", "citations": [CITATION]}]
    strictly(Message, message_of({"model": MODEL, "messages": []}, blocks, "end_turn"))


def test_citations_annotate_the_characters_of_their_own_block() -> None:
    other = {**CITATION, "url": "https://other.example", "title": None}
    blocks: list[Json] = [
        {"type": "text", "text": "Über foxes: "},
        {"type": "text", "text": "fast 🦊", "citations": [CITATION, other]},
        {"type": "text", "text": "."},
    ]
    message = read(blocks)["choices"][0]["message"]
    assert message["content"] == "Über foxes: fast 🦊."
    places = [one["url_citation"] for one in message["annotations"]]
    assert [message["content"][one["start_index"] : one["end_index"]] for one in places] == ["fast 🦊"] * 2
    assert [(one["url"], one["title"]) for one in places] == [
        (FOUND["url"], "Foxes"),
        ("https://other.example", ""),
    ]
    assert places[0]["content"] == CITATION["cited_text"]


def test_a_citation_of_a_document_is_kept_as_one_of_a_file() -> None:
    citation = {
        "type": "char_location", "cited_text": "plain", "document_index": 0, "document_title": "T",
        "start_char_index": 0, "end_char_index": 5, "file_id": "file_1",
    }  # fmt: skip
    stream = AnthropicStream(upstream(), created=1)
    blocks = [{"type": "text", "text": "So.", "citations": [citation]}]
    chunks = [c for e in stream_of({"model": MODEL, "messages": []}, blocks, "end_turn") for c in stream.feed(e)]
    made = [c["choices"][0]["delta"]["annotations"] for c in chunks if c["choices"] and "annotations" in
            c["choices"][0]["delta"]]  # fmt: skip
    file = {"file_id": "file_1", "filename": "T", "index": 3, "content": "plain"}
    assert made == [[{"type": "file_citation", "file_citation": file}]]


@pytest.mark.parametrize(
    ("call", "result", "item"),
    [
        (
            {"name": "web_search", "input": {"query": QUERY}},
            {"type": "web_search_tool_result", "content": [FOUND]},
            {
                "type": "web_search_call",
                "status": "completed",
                "action": {
                    "type": "search",
                    "query": QUERY,
                    "queries": [QUERY],
                    "sources": [{"type": "url", "url": FOUND["url"]}],
                },
            },
        ),
        (
            {"name": "web_search", "input": {"query": QUERY}},
            {
                "type": "web_search_tool_result",
                "content": {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"},
            },
            {
                "type": "web_search_call",
                "status": "failed",
                "action": {"type": "search", "query": QUERY, "queries": [QUERY], "sources": []},
            },
        ),
        (
            {"name": "code_execution", "input": {"code": "print(6 * 7)"}},
            {
                "type": "code_execution_tool_result",
                "content": {
                    "type": "code_execution_result",
                    "stdout": "42\n",
                    "stderr": "",
                    "return_code": 0,
                    "content": [],
                },
            },
            {
                "type": "code_interpreter_call",
                "status": "completed",
                "code": "print(6 * 7)",
                "container_id": "",
                "outputs": [{"type": "logs", "logs": "42\n"}],
            },
        ),
        (
            {"name": "bash_code_execution", "input": {"command": "ls"}},
            {
                "type": "bash_code_execution_tool_result",
                "content": {"type": "bash_code_execution_tool_result_error", "error_code": "unavailable"},
            },
            {
                "type": "code_interpreter_call",
                "status": "failed",
                "code": "ls",
                "container_id": "",
                "outputs": [{"type": "logs", "logs": "unavailable"}],
            },
        ),
    ],
)
def test_a_call_of_anthropics_own_tool_is_an_item_with_its_result(call: Json, result: Json, item: Json) -> None:
    call = {"type": "server_tool_use", "id": "srvtoolu_1", **call}
    result = {"tool_use_id": "srvtoolu_1", **result}
    message = read([call, result, {"type": "text", "text": "Done."}])["choices"][0]["message"]
    (made,) = message["server_tool_calls"]
    assert made == {"id": "srvtoolu_1", **item, "extra_content": {"anthropic": [call, result]}}
    strictly(ResponseOutputItem, made, ours=frozenset({"extra_content"}))
    assert message["content"] == "Done."


@pytest.mark.parametrize(
    ("kind", "name", "part"),
    [
        ("mcp_tool_use", "ask", "mcp"),
        ("server_tool_use", "code_execution", "code_execution"),
        ("server_tool_use", "bash_code_execution", "code_execution"),
    ],
)
def test_calls_that_anthropics_usage_does_not_count_are_an_unknown_part_of_the_cost(
    kind: str, name: str, part: str
) -> None:
    call = {"type": kind, "id": "srvtoolu_1", "name": name, "server_name": "oracle", "input": {}}
    stream, assembler = AnthropicStream(upstream(), created=1), ChatAssembler()
    blocks: list[Json] = [call, {"type": "text", "text": "Done."}]
    for event in stream_of({"model": MODEL, "messages": []}, blocks, "end_turn"):
        for chunk in stream.feed(event):
            assembler.add(chunk)
    used = token_usage(assembler.result()["usage"])
    assert used is not None
    assert part in cost_of(Price(input=1, output=1, cache_write=1), used).unknown_parts


def test_a_call_without_a_result_is_incomplete_and_not_lost() -> None:
    message = read([SEARCHED[0], {"type": "text", "text": "Wait."}], "pause_turn")["choices"][0]["message"]
    (made,) = message["server_tool_calls"]
    assert made["status"] == "incomplete"
    strictly(ResponseOutputItem, made, ours=frozenset({"extra_content"}))


CONTAINER: Json = {"id": "container_1", "expires_at": "2026-12-01T00:00:00Z", "skills": None}
RUN: list[Json] = [
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "code_execution", "input": {"code": "1"}},
    {
        "type": "code_execution_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": {"type": "code_execution_result", "stdout": "", "stderr": "", "return_code": 0, "content": []},
    },
]


def in_container(events: Any, *, told_first: bool) -> Any:
    """The events of an answer whose code ran in the container."""
    for event in events:
        if event["type"] == "message_start" and told_first:
            event["message"]["container"] = CONTAINER
        if event["type"] == "message_delta":
            event["delta"]["container"] = CONTAINER
        yield event


@pytest.mark.parametrize("told_first", [False, True])
def test_the_container_of_an_answer_is_told_with_its_end_and_counted_once(told_first: bool) -> None:
    events = stream_of({"model": MODEL, "messages": []}, [*RUN, {"type": "text", "text": "Ran."}], "end_turn")
    stream, assembler = AnthropicStream(upstream(), created=1), ChatAssembler()
    for event in in_container(events, told_first=told_first):
        for chunk in stream.feed(event):
            assembler.add(chunk)
    answer = assembler.result()
    assert answer["container"] == CONTAINER
    assert answer["usage"]["server_tool_use"] == {"containers": 1}
    (item,) = answer["choices"][0]["message"]["server_tool_calls"]
    assert item["container_id"] == ("container_1" if told_first else "")
    strictly(ChatCompletion, answer, ours=OURS | {"container", "containers"})


def test_a_paused_answer_goes_on_in_its_container_which_counts_once() -> None:
    stream = AnthropicStream(upstream(), created=1, resumes=True)
    body = {"model": MODEL, "messages": []}
    chunks: list[Json] = []
    for stop in ("pause_turn", "end_turn"):
        for event in in_container(stream_of(body, RUN, stop), told_first=False):
            chunks += stream.feed(event)
        if stream.paused:
            body = stream.resume(body)
            assert body["container"] == "container_1"
    assert chunks[-1]["usage"]["server_tool_use"] == {"containers": 1}


def test_a_request_can_name_its_container() -> None:
    body, dropped = sent_plain(container="container_1")
    assert (body["container"], dropped) == ("container_1", ())
    check_body(body)


def test_a_file_can_be_cited() -> None:
    file = {"type": "file", "file": {"file_data": "data:text/plain;base64,SGk=", "filename": "a.txt"}}
    asking = {**file, "citations": {"enabled": True}, "context": "A note."}
    body, dropped = sent_plain(messages=[{"role": "user", "content": [asking, {"type": "text", "text": "So?"}]}])
    document = body["messages"][0]["content"][0]
    assert (document["citations"], document["context"], dropped) == ({"enabled": True}, "A note.", ())
    check_body(body)
    wrongs: list[Json] = [{"citations": True}, {"citations": {}}, {"context": 3}]
    for wrong in wrongs:
        with pytest.raises(InvalidRequest):
            sent_plain(messages=[{"role": "user", "content": [{**file, **wrong}]}])


async def test_a_search_comes_back_cited_and_counted_and_goes_on_in_the_next_turn(fake: FakeAnthropic) -> None:
    question = {"role": "user", "content": "How fast is a fox?"}
    first = await ask(fake, messages=[question], web_search_options={})
    message = first["choices"][0]["message"]
    (place,) = [one["url_citation"] for one in message["annotations"]]
    assert message["content"][place["start_index"] : place["end_index"]] == fake.reply
    assert first["usage"]["server_tool_use"] == {"web_search_requests": 1, "web_fetch_requests": 0}
    assert first["service_tier"] == "default"
    await ask(fake, messages=[question, message, question], web_search_options={})
    body = fake.calls[1].body
    assert body["messages"][1]["content"] == [*SEARCHED, {"type": "text", "text": fake.reply}]
    check_body(body)


async def test_what_is_written_to_a_cache_is_counted_by_its_time_to_live(fake: FakeAnthropic) -> None:
    marks: list[Json] = [{"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}]
    parts = [{"type": "text", "text": "Hi", "cache_control": mark} for mark in marks]
    answer = await ask(fake, messages=[{"role": "user", "content": parts}])
    written = {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 5}
    assert answer["usage"]["cache_creation"] == written
    assert answer["usage"]["prompt_tokens_details"]["cache_write_tokens"] == 10
    assert answer["usage"]["inference_geo"] == "global"


async def test_an_answer_that_anthropic_pauses_goes_on_in_the_same_stream(fake: FakeAnthropic) -> None:
    thought: Json = {"type": "thinking", "thinking": "I look.", "signature": SIGNATURE}
    first: list[Json] = [thought, {"type": "text", "text": "I search. ", "citations": [CITATION]}, SEARCHED[0]]
    fake.turns = [
        (first, "pause_turn"),
        ([SEARCHED[1], {"type": "text", "text": "Fast.", "citations": [CITATION]}], "end_turn"),
    ]
    answer = await ask(fake, web_search_options={})
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    message = choice["message"]
    assert message["content"] == "I search. Fast."
    places = [one["url_citation"] for one in message["annotations"]]
    cited = [message["content"][one["start_index"] : one["end_index"]] for one in places]
    assert cited == ["I search. ", "Fast."]
    (item,) = message["server_tool_calls"]
    assert item["extra_content"]["anthropic"] == SEARCHED
    asked_first, asked_next = [call.body for call in fake.calls]
    assert asked_next == {
        **asked_first,
        "messages": [*asked_first["messages"], {"role": "assistant", "content": first}],
    }
    check_body(asked_next)
    told = [usage_of(call.body, blocks) for call, (blocks, _) in zip(fake.calls, fake.told, strict=True)]
    assert answer["usage"]["prompt_tokens"] == sum(one["input_tokens"] for one in told)
    assert answer["usage"]["completion_tokens"] == sum(one["output_tokens"] for one in told)
    assert answer["usage"]["server_tool_use"]["web_search_requests"] == 1


async def test_an_answer_that_is_paused_again_and_again_ends_as_cut_off(fake: FakeAnthropic) -> None:
    fake.blocks = ([{"type": "text", "text": "Wait. "}], "pause_turn")
    answer = await ask(fake, web_search_options={})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert len(fake.calls) == 1 + MAX_PAUSES
