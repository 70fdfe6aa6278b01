"""Searches, citations and pictures of servers of OpenAI's two APIs, in a chat's shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import ResponseOutputItem

from backends.base import Upstream
from backends.openai.backend import StreamWatch
from backends.openai.parameters import OPENAI, table_at
from backends.openai.responses.request import translate
from backends.openai.responses.stream import ResponseReader
from backends.openai.sources import with_annotations
from backends.parameters import body_for, dropped_names
from backends.streams.assemble import ChatAssembler, chat_chunks
from backends.wire.chat import ChatRequest, WebSearchOptions
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.model import Price
from catalog.types import Json
from routing.accounts.costs import cost_of
from routing.calling.watching.usage import token_usage
from tests.fakes.openai_responses import (
    SEARCHED,
    message_item,
    mistake_in,
    response_document,
    response_events,
    text_part,
)
from tests.sdk_types import strictly

THERE = Upstream("openai", "openai", "https://api.openai.com/v1", "gpt-6", wire="responses")
BODY: Json = {"model": "m", "input": "Hi"}
OURS = frozenset({"server_tool_calls", "images", "server_tool_use", "thinking_blocks"})


def asked(**options: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "Hi"}]
    return ChatRequest.model_validate({"messages": messages, "web_search_options": options})


def added_up(events: Any, reader: ResponseReader) -> Json:
    assembler = ChatAssembler()
    for event in events:
        for chunk in reader.feed(event):
            assembler.add(chunk)
    return assembler.result()


def test_annotations_of_a_later_message_count_the_characters_of_the_whole_chat() -> None:
    place = {"type": "url_citation", "start_index": 0, "end_index": 4, "title": "T", "url": "https://t.example"}
    items = [
        message_item([text_part(("I look.",))], "msg_1"),
        SEARCHED,
        message_item([text_part(("Fast", " foxes."), annotations=(place,))], "msg_2"),
        {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": "AAAA"},
    ]
    answer = added_up(response_events(BODY, items, {}), ResponseReader(THERE, created=1))
    message = answer["choices"][0]["message"]
    cited = message["annotations"][0]["url_citation"]
    assert message["content"][cited["start_index"] : cited["end_index"]] == "Fast"
    assert message["server_tool_calls"] == [SEARCHED]
    assert message["images"][0]["image_url"]["url"] == "data:image/png;base64,AAAA"
    assert answer["usage"]["server_tool_use"] == {"web_search_requests": 1, "image_generation_requests": 1}
    strictly(ChatCompletion, answer, ours=OURS)
    plain = ResponseReader(THERE, created=1)
    assert added_up(plain.whole(response_document(BODY, items, {})), plain) == answer


def test_a_search_is_the_hosted_tool_which_keeps_to_allowed_domains() -> None:
    place = {"type": "approximate", "approximate": {"country": "FR"}}
    domains = {"allowed_domains": ["a.example"]}
    made = translate(asked(filters=domains, user_location=place, max_uses=2), THERE, OPENAI)
    assert mistake_in(made.body) is None
    there = {"type": "approximate", "country": "FR"}
    assert made.body["tools"] == [{"type": "web_search", "filters": domains, "user_location": there}]
    assert made.body["max_tool_calls"] == 2
    assert made.body["include"] == ["web_search_call.action.sources"]
    assert made.dropped == ()
    with pytest.raises(UnsupportedParameter) as refused:
        translate(asked(filters={"blocked_domains": ["b.example"]}), THERE, OPENAI)
    assert refused.value.param == "web_search_options.filters.blocked_domains"


async def perplexitys(*pieces: str, **beside: Any) -> AsyncGenerator[Json]:
    for at, piece in enumerate(pieces):
        end = "stop" if at == len(pieces) - 1 else None
        yield {"id": "1", "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": end}], **beside}


@pytest.mark.parametrize(
    ("beside", "titles"),
    [
        ({"citations": ["https://a.example", "https://b.example"]}, ["", ""]),
        (
            {"search_results": [{"url": "https://a.example", "title": "A"}, {"url": "https://b.example"}]},
            ["A", ""],
        ),
    ],
)
async def test_marks_of_perplexitys_sources_are_annotations_of_the_text(beside: Json, titles: list[str]) -> None:
    assembler = ChatAssembler()
    async for chunk in with_annotations(perplexitys("Füchse sind", " schnell [1][", "2] [9].", **beside)):
        assembler.add(chunk)
    answer = assembler.result()
    message = answer["choices"][0]["message"]
    places = [one["url_citation"] for one in message["annotations"]]
    assert [message["content"][one["start_index"] : one["end_index"]] for one in places] == ["[1]", "[2]"]
    assert [one["title"] for one in places] == titles
    (item,) = message["server_tool_calls"]
    strictly(ResponseOutputItem, item)
    assert [source["url"] for source in item["action"]["sources"]] == ["https://a.example", "https://b.example"]
    assert answer.keys() >= beside.keys(), "what the server sent stays"


PERPLEXITY = Upstream("p", "openai", "https://api.perplexity.ai", "sonar-pro")


def test_a_search_keeps_to_domains_and_a_place_in_perplexitys_form() -> None:
    place = {"city": "Paris", "country": "FR", "timezone": "Europe/Paris"}
    where = {"type": "approximate", "approximate": place}
    request = asked(
        filters={"blocked_domains": ["b.example"]}, user_location=where, search_context_size="high", max_uses=2
    )
    table = table_at(PERPLEXITY.base_url)
    body = body_for(request, PERPLEXITY, table)
    assert body["search_domain_filter"] == ["-b.example"]
    options = {"search_context_size": "high", "user_location": {"city": "Paris", "country": "FR"}}
    assert body["web_search_options"] == options
    lacking = {"web_search_options.max_uses", "web_search_options.user_location.approximate.timezone"}
    assert set(dropped_names(request, PERPLEXITY, table)) == lacking
    assert body_for(asked(filters={"allowed_domains": ["a.example"]}), PERPLEXITY, table)[
        "search_domain_filter"
    ] == ["a.example"]


@pytest.mark.parametrize(
    "filters",
    [
        {"allowed_domains": ["a.example"], "blocked_domains": ["b.example"]},
        {"allowed_domains": [f"{at}.example" for at in range(21)]},
    ],
)
def test_domains_that_perplexity_cannot_keep_to_are_refused(filters: Json) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        body_for(asked(filters=filters), PERPLEXITY, table_at(PERPLEXITY.base_url))
    assert refused.value.param == "web_search_options.filters"


def test_perplexitys_own_options_pass_but_not_beside_openais_of_the_same_meaning() -> None:
    table = table_at(PERPLEXITY.base_url)
    own = {"search_domain_filter": ["a.example"], "search_mode": "academic", "search_recency_filter": "week"}
    request = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 5, **own}
    )
    body = body_for(request, PERPLEXITY, table)
    assert {name: body[name] for name in own} == own
    assert body["max_tokens"] == 5
    assert "max_completion_tokens" not in body
    both = request.model_copy(
        update={
            "web_search_options": WebSearchOptions.model_validate({"filters": {"blocked_domains": ["b.example"]}})
        }
    )
    with pytest.raises(InvalidRequest, match="send one of them"):
        body_for(both, PERPLEXITY, table)


async def test_lists_that_are_not_sources_change_nothing() -> None:
    for beside in ({}, {"citations": None}, {"citations": [1, {}]}, {"search_results": "x"}):
        made = [chunk async for chunk in with_annotations(perplexitys("[1]", **beside))]
        assert made[-1]["choices"][0]["delta"] == {"content": "[1]"}
    assert table_at("https://api.perplexity.ai").sources
    assert not table_at("https://api.openai.com/v1").sources


async def test_annotations_and_images_of_openrouter_pass_whole_and_streamed() -> None:
    place = {"url": "https://a.example", "title": "A", "content": "Said there.", "start_index": 0, "end_index": 4}
    message = {
        "role": "assistant",
        "content": "Fast.",
        "annotations": [{"type": "url_citation", "url_citation": place}],
        "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
    }
    document = {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    assembler, watch = ChatAssembler(), StreamWatch(THERE, chat=True)
    for chunk in chat_chunks(document):
        assert watch.see(chunk)
        assembler.add(chunk)
    held = assembler.result()["choices"][0]["message"]
    assert {name: held[name] for name in message} == message


@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_that_calls_tools_ends_with_tool_calls_whatever_its_server_says(streamed: bool) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    held: list[Json] = [{"tool_calls": [call]}, {"content": "Hi"}, {"tool_calls": [call]}]
    reasons = ["stop", "stop", "length"]
    choices = [
        {"index": at, "message": message, "finish_reason": reason}
        for at, (message, reason) in enumerate(zip(held, reasons, strict=True))
    ]
    chunks: list[Json] = list(chat_chunks({"id": "1", "choices": choices}))
    if streamed:
        chunks = [
            {"id": "1", "choices": [{"index": at, "delta": delta, "finish_reason": None}]}
            for at, delta in enumerate(held)
        ]
        chunks += [
            {"id": "1", "choices": [{"index": at, "delta": {}, "finish_reason": reason}]}
            for at, reason in enumerate(reasons)
        ]
    assembler, watch = ChatAssembler(), StreamWatch(THERE, chat=True)
    for chunk in chunks:
        assert watch.see(chunk)
        assembler.add(chunk)
    ends = [choice["finish_reason"] for choice in assembler.result()["choices"]]
    assert ends == ["tool_calls", "stop", "length"]


def test_calls_of_openais_remote_tools_are_an_unknown_part_of_the_cost() -> None:
    call = {
        "id": "mcp_1",
        "type": "mcp_call",
        "server_label": "s",
        "name": "ask",
        "arguments": "{}",
        "output": "No.",
    }
    items = [call, message_item([text_part(("Done.",))], "msg_1")]
    answer = added_up(response_events(BODY, items, {}), ResponseReader(THERE, created=1))
    used = token_usage(answer["usage"])
    assert used is not None
    assert cost_of(Price(input=1, output=1, cache_write=1), used).unknown_parts == ("mcp",)
