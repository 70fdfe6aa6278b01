"""Agents at the door of Messages: the tool runner of Anthropic's SDK, and what Claude Code sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import httpx2
import orjson
import pytest
from anthropic import beta_async_tool

from backends.streams.chunks import ChunkWriter
from backends.wire.messages import MessagesRequest
from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from server.wires.messages import stream_of
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.scripted import Scripted
from tests.fakes.server import Fault

KEY_ENV = "ROUNDHOUSE_TEST_ANTHROPIC_KEY"


class Stand(NamedTuple):
    """A gateway before a scripted model, ``capable``, and before Anthropic, ``claude``."""

    capable: Scripted
    claude: FakeAnthropic
    http: httpx2.AsyncClient

    @property
    def sdk(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            base_url="http://localhost", api_key="x", max_retries=0, http_client=self.http
        )


@pytest.fixture
async def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    async with Scripted() as capable, FakeAnthropic() as claude:
        monkeypatch.setenv(KEY_ENV, claude.key)
        ends = {
            "capable": ("openai", capable.base_url, "fake-chat", []),
            "claude": ("anthropic", claude.origin, "claude-x", [KEY_ENV]),
        }
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "endpoint": [
                    {"id": name, "protocol": kind, "base_url": url, "key_env": keys}
                    for name, (kind, url, _, keys) in ends.items()
                ],
                "model": [
                    {
                        "id": f"{name}/m",
                        "aliases": [name],
                        "capabilities": ["chat", "tools"],
                        "limits": {"max_output_tokens": 1000},
                        "source": {"kind": "upstream", "endpoint": name, "model": model},
                    }
                    for name, (_, _, model, _) in ends.items()
                ],
            }
        )
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as http,
        ):
            yield Stand(capable, claude, http)


@beta_async_tool
async def weather(city: str) -> str:
    """Tells the weather of a city."""
    return f"It rains in {city}."


ASKED: Any = {
    "model": "capable",
    "max_tokens": 500,
    "tools": [weather],
    "messages": [{"role": "user", "content": 'Call weather {"city": "Oslo"} and Call weather {"city": "Rome"}'}],
}


@pytest.mark.parametrize("stream", [False, True])
async def test_the_tool_runner_of_the_sdk_finishes_its_loop_without_threads(stand: Stand, stream: bool) -> None:
    if stream:
        runner: Any = stand.sdk.beta.messages.tool_runner(**ASKED, stream=True)
        messages = [await turn.get_final_message() async for turn in runner]
    else:
        runner = stand.sdk.beta.messages.tool_runner(**ASKED)
        messages = [message async for message in runner]
    assert [message.stop_reason for message in messages] == ["tool_use", "tool_use", "end_turn"]
    assert messages[-1].content[0].text == "The tool said: It rains in Rome."
    assert not stand.capable.refusals


async def test_a_conversation_kept_at_anthropic_is_refused_in_the_way_that_sdks_go_on_after(stand: Stand) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        await stand.sdk.beta.messages.create(
            model="capable", max_tokens=9, messages=ASKED["messages"], thread={"type": "create"}
        )
    body: Any = refused.value.body
    assert body["error"]["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["model"]}


@pytest.mark.parametrize("stream", [False, True])
async def test_the_tool_runner_compacts_its_conversation_with_any_model(stand: Stand, stream: bool) -> None:
    summary = 'Reply with a summary: Say "It rains in Rome."'
    compaction: Any = {"type": "summarize", "instructions": summary}
    runner: Any = stand.sdk.beta.messages.tool_runner(**ASKED, stream=stream)
    messages = []
    async for turn in runner:
        messages.append(await turn.get_final_message() if stream else turn)
        if len(messages) == 1:
            runner.compact_before_next_turn(compaction)
    assert [message.stop_reason for message in messages][:2] == ["tool_use", "compaction"]
    (block,) = messages[1].content
    assert (block.type, block.content) == ("compaction", "It rains in Rome.")
    after = stand.capable.calls[2].body["messages"]
    assert "It rains in Rome." in str(after[0]["content"]), "the summary stands in the conversation's place"
    assert not stand.capable.refusals


async def test_agents_may_allow_a_longer_answer_than_the_model_gives(stand: Stand) -> None:
    hello = [{"role": "user", "content": "Hi"}]
    body: Json = {"model": "capable", "max_tokens": 64_000, "messages": hello}
    answer = await stand.http.post("/v1/messages", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-roundhouse-dropped"] == "max_tokens"
    assert stand.capable.calls[-1].body["max_completion_tokens"] == 1000
    strict = await stand.http.post("/v1/messages", json={**body, "routing": {"strict": True}})
    assert strict.status_code == 400
    chat = await stand.http.post("/v1/chat/completions", json=body)
    assert chat.status_code == 400, "a caller of OpenAI's API is told, as OpenAI does"
    assert len(stand.capable.calls) == 1


async def test_a_summary_that_was_cut_off_is_none(stand: Stand) -> None:
    stand.capable.reply = "one two three four"
    asked: Any = {"model": "capable", "messages": [{"role": "user", "content": "Hi"}]}
    cut = await stand.sdk.beta.messages.create(**asked, max_tokens=2, compaction={"type": "summarize"})
    assert cut.stop_reason == "max_tokens"
    assert [block.model_dump()["content"] for block in cut.content] == [None]


async def test_anthropics_own_word_about_a_thread_reaches_the_sdk(stand: Stand) -> None:
    stand.claude.script(Fault(status=404, message="No such thread.", code="thread_not_found"))
    with pytest.raises(anthropic.APIStatusError) as refused:
        await stand.sdk.beta.messages.create(
            model="claude",
            max_tokens=9,
            messages=ASKED["messages"],
            thread={"type": "continue", "previous_message_id": "msg_1"},
        )
    body: Any = refused.value.body
    assert body["error"]["details"]["error_code"] == "thread_not_found"
    assert "No such thread." in body["error"]["message"]


# ---- Claude Code


RECORDED: list[Json] = orjson.loads((Path(__file__).parents[2] / "data" / "claude_code.json").read_bytes())
"""Requests of one session of Claude Code 2.1.332, texts cut short: a search of its tools, a web search by a
request of its own, a subagent, a command."""
CALLED = {"first turn": "ToolSearch", "tool found": "WebSearch", "web search": None, "last turn": None}


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["name"])
async def test_what_claude_code_sends_is_answered_by_a_server_that_refuses_unknown_fields(
    stand: Stand, recorded: Json
) -> None:
    async with stand.http.stream(
        "POST", recorded["path"], json=recorded["body"], headers=recorded["headers"]
    ) as answer:
        events = [orjson.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]
    assert answer.status_code == 200, stand.capable.refusals
    assert not stand.capable.refusals
    called = [event["content_block"].get("name") for event in events if event["type"] == "content_block_start"]
    assert called == [CALLED[recorded["name"]]]
    assert events[-1]["type"] == "message_stop"
    named = set(answer.headers.get("x-roundhouse-dropped", "").split(", "))
    assert named <= {"max_tokens", "context_management", "messages.cache_control", "tools.web_search_20250305"}


async def test_a_tool_that_claude_code_has_not_searched_is_hidden_from_the_model(stand: Stand) -> None:
    offered = []
    for recorded in RECORDED[:2]:
        await stand.http.post(recorded["path"], json={**recorded["body"], "stream": False})
        offered.append({tool["function"]["name"] for tool in stand.capable.calls[-1].body["tools"]})
    assert offered[1] - offered[0] == {"WebSearch"}
    assert "DeferredToolPlaceholder" not in offered[1]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ask", "mcp__oracle__ask"),
        ("oracle.ask", "mcp__oracle__ask"),
        ("functions.Read", "Read"),
        ("list", "list"),
    ],
)
def test_a_bare_name_is_that_of_the_one_tool_that_ends_with_it(name: str, meant: str) -> None:
    named = ("mcp__oracle__ask", "mcp__a__list", "mcp__b__list", "Read")
    request = MessagesRequest.model_validate(
        {
            "model": "m",
            "max_tokens": 5,
            "messages": [{"role": "user", "content": "Hi"}],
            "tools": [{"name": each, "input_schema": {"type": "object"}} for each in named],
        }
    )
    stream = stream_of(request, trace="1", prompt_tokens=1)
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    end = writer.delta({}, finish_reason="tool_calls")
    for chunk in (writer.tool_start(0, "c", name), writer.tool_arguments(0, "{}"), end):
        list(stream.feed(chunk))
    list(stream.finish())
    assert [block["name"] for block in stream.message()["content"]] == [meant]
