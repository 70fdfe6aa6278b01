"""Searches, citations and pictures of servers of OpenAI's two APIs, in a chat's shape."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from backends.base import Upstream
from backends.openai.parameters import OPENAI
from backends.openai.responses.request import translate
from backends.openai.responses.stream import ResponseReader
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest
from catalog.errors import UnsupportedParameter
from catalog.types import Json
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
    assert answer["usage"]["server_tool_use"] == {"web_search_requests": 1}
    strictly(ChatCompletion, answer, ours=frozenset({"server_tool_calls", "images", "server_tool_use"}))
    plain = ResponseReader(THERE, created=1)
    assert added_up(plain.whole(response_document(BODY, items, {})), plain) == answer


def test_a_search_is_the_hosted_tool_which_keeps_to_allowed_domains() -> None:
    place = {"type": "approximate", "approximate": {"country": "FR"}}
    domains = {"allowed_domains": ["a.example"]}
    made = translate(asked(filters=domains, user_location=place, max_uses=2), THERE, OPENAI)
    assert mistake_in(made.body) is None
    there = {"type": "approximate", "country": "FR"}
    assert made.body["tools"] == [{"type": "web_search", "filters": domains, "user_location": there}]
    assert made.dropped == ("web_search_options.max_uses",)
    with pytest.raises(UnsupportedParameter) as refused:
        translate(asked(filters={"blocked_domains": ["b.example"]}), THERE, OPENAI)
    assert refused.value.param == "web_search_options.filters.blocked_domains"
