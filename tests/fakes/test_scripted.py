"""The scripted fake plays a capable model for a stock SDK, and refuses what a strict provider does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.fakes.scripted import Scripted

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASKED = 'What is the weather? Call weather {"city": "Oslo"} and then Call weather {"city": "Rome"}'


@pytest.fixture
async def fake() -> AsyncIterator[Scripted]:
    async with Scripted() as server:
        yield server


@pytest.fixture
async def client(fake: Scripted) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=fake.base_url, api_key="sk-fake", max_retries=0) as sdk:
        yield sdk


async def ask(client: AsyncOpenAI, messages: list[Any], **fields: Any) -> Any:
    answer = await client.chat.completions.create(model="fake-chat", messages=messages, tools=[WEATHER], **fields)
    return answer.choices[0].message


async def test_it_makes_one_call_a_turn_and_then_quotes_the_last_output(client: AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": ASKED}]
    called, ids = [], set()
    while (said := await ask(client, messages)).tool_calls:
        (call,) = said.tool_calls
        called.append(json.loads(call.function.arguments)["city"])
        ids.add(call.id)
        output = {"role": "tool", "tool_call_id": call.id, "content": f"sunny in {called[-1]}"}
        messages += [said.model_dump(exclude_none=True, exclude={"annotations"}), output]
    assert called == ["Oslo", "Rome"]
    assert len(ids) == 2
    assert said.content == "The tool said: sunny in Rome"


async def test_it_says_the_text_of_the_script(client: AsyncOpenAI) -> None:
    said = await ask(client, [{"role": "user", "content": r'Say "two\nlines", please.'}])
    assert said.content == "two\nlines"


async def test_it_calls_by_itself_the_tools_whose_arguments_it_has(fake: Scripted, client: AsyncOpenAI) -> None:
    fake.arguments = {"weather": {"city": "Lima"}}
    said = await ask(client, [{"role": "user", "content": "What is the weather?"}])
    assert json.loads(said.tool_calls[0].function.arguments) == {"city": "Lima"}


async def test_it_calls_a_tool_only_when_told_or_demanded(client: AsyncOpenAI) -> None:
    question = [{"role": "user", "content": "What is the weather?"}]
    assert (await ask(client, question)).tool_calls is None
    assert (await ask(client, question, tool_choice="required")).tool_calls
    told = [{"role": "user", "content": ASKED}]
    assert (await ask(client, told, tool_choice="none")).tool_calls is None


CALLED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "tool", "tool_call_id": "c1", "content": "sunny"}], "must be a response"),
        ([{"role": "assistant", "tool_calls": [CALLED]}], "no response messages: c1"),
        (
            [{"role": "assistant", "tool_calls": [CALLED]}, {"role": "user", "content": "Hi"}],
            "no response messages",
        ),
        ([{"role": "user", "content": "Hi", "thinking": "?"}], "Unknown parameter: 'messages.thinking'"),
        ([{"role": "user", "content": 'Call weather {"town": "Oslo"}'}], "do not fit 'weather'"),
        ([{"role": "user", "content": 'Call news {"of": "Oslo"}'}], "calls 'news'"),
    ],
)
async def test_what_a_strict_provider_refuses_is_refused_and_kept(
    fake: Scripted, client: AsyncOpenAI, messages: list[Any], reason: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=reason):
        await ask(client, messages)
    assert reason in fake.refusals[0]


async def test_a_strict_template_takes_a_system_message_at_the_beginning_only(
    fake: Scripted, client: AsyncOpenAI
) -> None:
    system, user = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}
    assert await ask(client, [system, user, system])
    fake.system_first = True
    assert await ask(client, [system, user])
    with pytest.raises(openai.BadRequestError, match="at the beginning"):
        await ask(client, [system, user, system])
