"""Searches, citations, pictures and counts: from each provider, in each API, whole and streamed."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import httpx
import httpx2
import openai
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion
from openai.types.responses import Response, ResponseStreamEvent

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.fakes.anthropic import CITATION, FOUND, FakeAnthropic
from tests.fakes.google import QUERIES, SOURCES, FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_chat import CITED
from tests.sdk_types import strictly

EXTENSIONS = frozenset({"server_tool_calls", "images", "content", "extra_content"})
EXTENSIONS |= {"thinking_blocks", "server_tool_use", "cache_creation", "inference_geo"}
RESPONSES = frozenset({"cache_creation", "server_tool_use", "extra_content", "audio_tokens", "store"})
"""Fields of a response beyond the SDK's: a provider's part of an item, counts that OpenAI's usage does not have,
and ``store``, which OpenAI sends, too."""
MODELS = {"claude": "claude-opus-5", "gemini": "gemini-3-flash", "gpt": "fake-chat", "sol": "fake-chat"}
"""gpt is asked in chats, sol over the Responses API."""
KEYS = {name: f"ROUNDHOUSE_TEST_{name.upper()}" for name in MODELS}
URLS = {"claude": CITATION["url"], "gemini": SOURCES[0]["web"]["uri"], "gpt": CITED["url"], "sol": CITED["url"]}
QUESTION = "How fast is a fox?"


class Stand(NamedTuple):
    claude: FakeAnthropic
    gemini: FakeGoogle
    gpt: FakeOpenAI
    http: httpx.AsyncClient
    http2: httpx2.AsyncClient

    @property
    def openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url="http://localhost/v1", api_key="x", max_retries=0, http_client=self.http2
        )

    @property
    def anthropic(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            base_url="http://localhost", api_key="x", max_retries=0, http_client=self.http2
        )


@pytest.fixture
async def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    async with FakeAnthropic() as claude, FakeGoogle() as gemini, FakeOpenAI() as gpt:
        ends = {
            "claude": ("anthropic", claude.origin, claude.key),
            "gemini": ("google", gemini.base_url, gemini.key),
            "gpt": ("openai", gpt.base_url, "none"),
            "sol": ("openai", gpt.base_url, "none"),
        }
        for name, (_, _, key) in ends.items():
            monkeypatch.setenv(KEYS[name], key)
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "endpoint": [
                    {"id": f"at-{name}", "protocol": kind, "base_url": url, "key_env": [KEYS[name]]}
                    for name, (kind, url, _) in ends.items()
                ],
                "model": [
                    {
                        "id": name,
                        "capabilities": ["chat", "tools", "web_search", "vision"],
                        "source": {"kind": "upstream", "endpoint": f"at-{name}", "model": MODELS[name]},
                        "wire": "responses" if name == "sol" else "chat",
                    }
                    for name in ends
                ],
            }
        )
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as http,
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app)) as http2,
        ):
            yield Stand(claude, gemini, gpt, http, http2)


async def chat(stand: Stand, model: str, stream: bool, **fields: Any) -> Json:
    """The message of a chat; a stream's deltas are added up as OpenAI's SDK does."""
    asked: Json = {"model": model, "messages": [{"role": "user", "content": QUESTION}], **fields}
    if not stream:
        answer = await stand.openai.chat.completions.create(**asked)
        strictly(ChatCompletion, answer.model_dump(exclude_unset=True), ours=EXTENSIONS)
        return answer.model_dump(exclude_unset=True)["choices"][0]["message"]  # type: ignore[no-any-return]
    message: Json = {"content": ""}
    async for chunk in await stand.openai.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            delta = choice.delta.model_dump(exclude_unset=True)
            message["content"] += delta.pop("content", None) or ""
            for name in ("annotations", "server_tool_calls", "images"):
                message[name] = [*message.get(name, ()), *(delta.get(name) or ())]
    return message


async def respond(stand: Stand, model: str, stream: bool, **fields: Any) -> Response:
    asked: Json = {"model": model, "input": QUESTION, **fields}
    if not stream:
        whole = await stand.openai.responses.create(**asked)
        strictly(Response, whole.model_dump(exclude_unset=True), ours=RESPONSES)
        return whole
    events = [event async for event in await stand.openai.responses.create(**asked, stream=True)]
    for event in events:
        strictly(ResponseStreamEvent, event.model_dump(exclude_unset=True), ours=RESPONSES)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    check_items(events)
    last = events[-1]
    assert last.type == "response.completed"
    return last.response


def check_items(events: list[Any]) -> None:
    """Each item is added, then done, in the order of its index; annotations are told before the end."""
    added = [event.output_index for event in events if event.type == "response.output_item.added"]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert added == list(range(len(added)))
    response = events[-1].response
    assert [item.id for item in done] == [item.id for item in response.output]
    told = sum(event.type == "response.output_text.annotation.added" for event in events)
    held = [part for item in response.output if item.type == "message" for part in item.content]
    assert told == sum(len(part.annotations) for part in held)


async def message(stand: Stand, model: str, stream: bool, **fields: Any) -> Message:
    question = {"role": "user", "content": QUESTION}
    asked: Json = {"model": model, "max_tokens": 500, "messages": [question], **fields}
    if not stream:
        whole = await stand.anthropic.messages.create(**asked)
        strictly(Message, whole.model_dump(exclude_unset=True), ours=frozenset({"extra_content"}))
        return whole
    async with stand.anthropic.messages.stream(**asked) as events:
        async for event in events:
            if event.type in ("message_start", "message_delta", "content_block_start", "content_block_delta"):
                read = event.model_dump(exclude_unset=True)
                strictly(RawMessageStreamEvent, read, ours=frozenset({"extra_content"}))
        return await events.get_final_message()


STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
EACH = pytest.mark.parametrize("model", list(MODELS))


@STREAMED
@EACH
async def test_a_chat_has_the_annotations_of_a_search(stand: Stand, model: str, stream: bool) -> None:
    answer = await chat(stand, model, stream, web_search_options={"search_context_size": "medium"})
    place = answer["annotations"][0]["url_citation"]
    assert place["url"] == URLS[model]
    assert answer["content"].endswith(answer["content"][place["start_index"] : place["end_index"]])
    if model != "gpt":
        (item,) = answer["server_tool_calls"]
        assert URLS[model] in [source["url"] for source in item["action"]["sources"]]


@STREAMED
@EACH
@pytest.mark.parametrize("tool", ["web_search", "web_search_preview"])
async def test_a_response_has_the_search_and_the_annotations_of_its_own_text(
    stand: Stand, model: str, stream: bool, tool: str
) -> None:
    place = {"type": "approximate", "country": "FR"}
    tools = [{"type": tool, "user_location": place, "search_context_size": "low"}]
    answer = await respond(stand, model, stream, tools=tools, include=["web_search_call.action.sources"])
    (part,) = [part for item in answer.output if item.type == "message" for part in item.content]
    assert part.type == "output_text"
    cited = part.annotations[0]
    assert cited.type == "url_citation"
    assert cited.url == URLS[model]
    assert part.text.endswith(part.text[cited.start_index : cited.end_index])
    searches = [item for item in answer.output if item.type == "web_search_call"]
    assert len(searches) == (model != "gpt")
    if model == "gpt":
        assert stand.gpt.calls[-1].body["web_search_options"]["user_location"]["approximate"] == {"country": "FR"}


@STREAMED
@EACH
async def test_a_message_has_the_search_its_results_and_the_citations_of_its_text(
    stand: Stand, model: str, stream: bool
) -> None:
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
    answer = await message(stand, model, stream, tools=[tool], tool_choice={"type": "tool", "name": "web_search"})
    text = next(block for block in answer.content if block.type == "text" and block.text)
    assert text.citations is not None
    assert text.citations[0].type == "web_search_result_location"
    assert text.citations[0].url == URLS[model]
    if model == "gpt":
        return
    found = next(block for block in answer.content if block.type == "web_search_tool_result")
    call = next(block for block in answer.content if block.type == "server_tool_use")
    assert found.tool_use_id == call.id
    assert isinstance(found.content, list)
    assert found.content[0].url == URLS[model]
    assert found.content[0].title
    assert answer.usage.server_tool_use is not None
    assert answer.usage.server_tool_use.web_search_requests == (len(QUERIES) if model == "gemini" else 1)


@EACH
async def test_the_next_turn_of_every_api_goes_to_every_provider(stand: Stand, model: str) -> None:
    """Results of one provider's search are given back to it alone, and named where another answers."""
    question = {"role": "user", "content": QUESTION}
    said = await chat(stand, "claude", False, web_search_options={})
    response = await respond(stand, "gemini", False, tools=[{"type": "web_search"}])
    items = [item.model_dump(exclude_unset=True, mode="json") for item in response.output]
    turn = await message(stand, "gemini", False, tools=[{"type": "web_search_20250305", "name": "web_search"}])
    blocks = [block.model_dump(exclude_unset=True) for block in turn.content]
    bodies: dict[str, Json] = {
        "/v1/responses": {"input": [question, *items, question]},
        "/v1/messages": {
            "messages": [question, {"role": "assistant", "content": blocks}, question],
            "max_tokens": 500,
        },
    }
    if model in ("claude", "gemini"):
        bodies["/v1/chat/completions"] = {"messages": [question, said, question]}
    for path, body in bodies.items():
        answer = await stand.http.post(path, json={"model": model, **body})
        assert answer.status_code == 200, answer.text
        dropped = answer.headers.get("x-roundhouse-dropped", "")
        own = (path, model) in {("/v1/chat/completions", "claude"), ("/v1/responses", "gemini")}
        assert ("server_tool" in dropped or "web_search_call" in dropped) is not own
    sent = [call.body for call in (*stand.gpt.calls, *stand.gemini.calls)]
    assert "encrypted-by" not in str(sent)
    assert "extra_content" not in str(sent)
    assert "srvtoolu_other" not in str([call.body for call in stand.claude.calls])


async def test_search_options_of_messages_reach_another_provider_and_domains_that_it_cannot_keep_are_refused(
    stand: Stand,
) -> None:
    tool = {"type": "web_search_20260318", "name": "web_search", "max_uses": 2, "response_inclusion": "full"}
    body = {"model": "gemini", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}
    answer = await stand.http.post("/v1/messages", json=body)
    assert answer.status_code == 200, answer.text
    named = answer.headers["x-roundhouse-dropped"].split(", ")
    assert set(named) == {"tools.response_inclusion", "web_search_options.max_uses"}
    tool["blocked_domains"] = ["foxes.example"]
    for model in ("gemini", "gpt", "sol"):
        refused = await stand.http.post("/v1/messages", json={**body, "model": model})
        assert refused.status_code == 400
        assert "blocked_domains" in refused.json()["error"]["message"]
    chosen = await stand.http.post("/v1/messages", json={**body, "model": "auto"})
    assert chosen.status_code == 200, chosen.text
    assert chosen.headers["x-roundhouse-model"] == "claude", "no other keeps to it, whichever is asked first"
    assert stand.claude.calls[-1].body["tools"][0]["blocked_domains"] == ["foxes.example"]


async def test_a_search_that_must_not_reach_the_web_is_left_out_and_named(stand: Stand) -> None:
    tool: Any = {"type": "web_search", "external_web_access": False}
    answer = await stand.openai.responses.with_raw_response.create(model="claude", input="Hi", tools=[tool])
    assert answer.headers["x-roundhouse-dropped"] == "tools.web_search"
    assert "tools" not in stand.claude.calls[-1].body


async def test_tools_that_are_allowed_leave_out_the_search_that_is_not(stand: Stand) -> None:
    schema = {"type": "object", "properties": {}}
    function: Any = {"type": "function", "name": "f", "parameters": schema, "strict": False}
    choice: Any = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
    tools: Any = [{"type": "web_search"}, function]
    await stand.openai.responses.create(model="gpt", input="Hi", tools=tools, tool_choice=choice)
    assert "web_search_options" not in stand.gpt.calls[-1].body
    choice["tools"].append({"type": "web_search"})
    await stand.openai.responses.create(model="gpt", input="Hi", tools=tools, tool_choice=choice)
    assert stand.gpt.calls[-1].body["web_search_options"] == {}


@STREAMED
async def test_a_picture_that_a_model_made_is_in_every_apis_answer(stand: Stand, stream: bool) -> None:
    data = base64.b64encode(b"\x89PNG picture").decode()
    stand.gemini.pictures = (data,)
    said = await chat(stand, "gemini", stream)
    assert [image["image_url"]["url"] for image in said["images"]] == [f"data:image/png;base64,{data}"]
    response = await respond(stand, "gemini", stream)
    (drawn,) = [item for item in response.output if item.type == "image_generation_call"]
    assert (drawn.result, drawn.output_format, drawn.status) == (data, "png", "completed")
    texts = [block.text for block in (await message(stand, "gemini", stream)).content if block.type == "text"]
    assert f"![image](data:image/png;base64,{data})" in "".join(texts)


async def test_speech_is_asked_for_in_chats_alone(stand: Stand) -> None:
    speech: Json = {"model": "gpt", "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    asked: dict[str, Json] = {
        "/v1/responses": {"input": "Hi"},
        "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
    }
    for path, body in asked.items():
        refused = await stand.http.post(path, json={**speech, **body})
        assert refused.status_code == 400
        assert "/v1/chat/completions" in refused.json()["error"]["message"]


async def test_the_tier_that_served_a_request_has_each_apis_name(stand: Stand) -> None:
    response = await respond(stand, "claude", False)
    assert response.service_tier == "default"
    answer = await message(stand, "gpt", False)
    assert answer.usage.service_tier == "standard"
    assert FOUND["url"] not in str(response.output)
