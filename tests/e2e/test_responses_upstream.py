"""OpenAI's own SDK, through a real server, to an upstream of the Responses API: chats, tools, streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.providers import endpoint, model, providers
from tests.e2e.serving import served
from tests.fakes.openai import FakeOpenAI
from tests.fakes.openai_responses import ENCRYPTED, message_item, text_part
from tests.fakes.server import Fault

CAPABILITIES = ["chat", "json_schema", "tools", "reasoning", "web_search"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def upstream() -> FakeOpenAI:
    return FakeOpenAI()


@pytest.fixture(scope="module")
def client(upstream: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder: Path = tmp_path_factory.mktemp("responses")
    with providers(upstream):
        rows = endpoint("far", upstream, wire="responses")
        rows += model("gpt", "fake-chat", at="far", capabilities=CAPABILITIES)
        (folder / "roundhouse.toml").write_text(rows)
        with (
            served(folder, environment={"ROUNDHOUSE_DATA_DIR": str(folder / "data")}) as running,
            openai.OpenAI(base_url=running.v1, api_key="none", max_retries=0) as sdk,
        ):
            yield sdk


@pytest.fixture(autouse=True)
def fresh(upstream: FakeOpenAI) -> None:
    upstream.calls.clear()
    upstream.output, upstream.ending, upstream.between = None, {}, []


def test_a_chat_with_tools_goes_round_and_keeps_its_reasoning(client: openai.OpenAI, upstream: FakeOpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}]
    messages: Any = [{"role": "user", "content": "How is Paris?"}]
    ask: Any = {"model": "gpt", "tools": tools, "reasoning_effort": "low"}
    with client.chat.completions.stream(messages=messages, **ask) as stream:
        first = stream.get_final_completion().choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.tool_calls is not None
    (call,) = first.message.tool_calls
    assert call.function.arguments == '{"city": "Paris"}'
    messages += [
        first.message.model_dump(exclude_none=True, exclude={"parsed": True}),
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny."},
    ]
    for turn in messages[1].get("tool_calls", ()):
        turn["function"].pop("parsed_arguments", None)
    second = client.chat.completions.create(messages=messages, **ask)
    assert second.choices[0].message.content == upstream.reply
    kinds = [item["type"] for item in upstream.calls[1].body["input"]]
    assert kinds == ["message", "reasoning", "function_call", "function_call_output"]
    assert upstream.calls[1].body["input"][1]["encrypted_content"] == ENCRYPTED


def test_a_response_passes_through_whole_and_streamed(client: openai.OpenAI, upstream: FakeOpenAI) -> None:
    upstream.output = [message_item([text_part(("A", " fox."))])]
    ask: Any = {
        "model": "gpt",
        "input": "Hi",
        "tools": [{"type": "web_search"}],
        "include": ["web_search_call.action.sources"],
    }
    whole = client.responses.create(**ask)
    assert (whole.output_text, whole.model) == ("A fox.", "gpt")
    assert whole.id != "resp_fake", "the provider's id is of an account that all keys share"
    with client.responses.stream(**ask) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == "A fox."
    kept_here = {"store": False, "include": [*ask["include"], "reasoning.encrypted_content"]}
    sent = {**ask, **kept_here, "model": "fake-chat", "stream": True}
    assert [call.body for call in upstream.calls] == [sent] * 2


def test_parsed_answers_have_their_form(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}
    assert (
        client.responses.create(model="gpt", input="Which?", text={"format": form}).output_text
        == '{"city": "Paris"}'
    )


def test_a_stream_that_breaks_raises_in_the_sdk(client: openai.OpenAI, upstream: FakeOpenAI) -> None:
    upstream.script(Fault(die_after=8))
    with (
        pytest.raises(openai.APIError),
        client.chat.completions.stream(model="gpt", messages=[{"role": "user", "content": "Hi"}]) as stream,
    ):
        stream.get_final_completion()
    upstream.script(Fault(die_after=8))
    kinds = [event.type for event in client.responses.create(model="gpt", input="Hi", stream=True)]
    assert kinds[-1] == "response.failed"


def test_an_unknown_field_of_a_chat_is_named_and_not_made_one_of_a_response(
    client: openai.OpenAI, upstream: FakeOpenAI
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="gpt", messages=[{"role": "user", "content": "Hi"}], extra_body={"brand_new": 1}
    )
    assert raw.headers["x-roundhouse-dropped"] == "brand_new"
    assert "brand_new" not in upstream.calls[-1].body
