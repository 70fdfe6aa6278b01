"""Chats over OpenAI's Responses API: each request is one that the SDK's types allow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends.azure import AzureBackend
from backends.base import Upstream
from backends.http import HttpClient
from backends.ollama.request import translate as chat_for_ollama
from backends.openai.backend import OpenAIBackend
from backends.openai.parameters import COMPATIBLE, MISTRAL, OPENAI
from backends.openai.responses.request import translate
from backends.parameters import ParameterTable, body_for
from backends.wire.chat import ChatRequest
from backends.wire.responses import LEAST_OUTPUT
from catalog.errors import CapabilityMismatch, InvalidRequest, UnsupportedParameter
from catalog.types import Json
from tests.fakes.openai_responses import (
    mistake_in,
)

OFFICIAL = Upstream("openai", "openai", "https://api.openai.com/v1", "gpt-6", wire="responses", reasons=True)
SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Json = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
GRAMMAR: Json = {"syntax": "lark", "definition": "start: /a+/"}
SHELL: Json = {
    "type": "custom",
    "custom": {"name": "shell", "description": "Runs.", "format": {"type": "grammar", "grammar": GRAMMAR}},
}
CALL: Json = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
COMMAND: Json = {"id": "call_2", "type": "custom", "custom": {"name": "shell", "input": "aaa"}}


def request_of(**fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return ChatRequest.model_validate(body)


def sent(upstream: Upstream = OFFICIAL, **fields: Any) -> Json:
    """The body of this chat, which the SDK's types allow."""
    body = translate(request_of(**fields), upstream, OPENAI).body
    assert mistake_in(body) is None
    return body


def dropped(upstream: Upstream = OFFICIAL, **fields: Any) -> tuple[str, ...]:
    return translate(request_of(**fields), upstream, OPENAI).dropped


def test_a_conversation_keeps_its_order_its_roles_and_its_media() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
    paper = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}}
    marked = {"type": "text", "text": "Look.", "prompt_cache_breakpoint": {"mode": "explicit"}}
    items = sent(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [marked, picture, paper]},
            {"role": "assistant", "content": [{"type": "text", "text": "A fox."}], "refusal": None},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL, COMMAND]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Sun."}, picture]},
            {"role": "tool", "tool_call_id": "call_2", "content": "done"},
            {"role": "user", "content": "Thanks."},
        ]
    )["input"]
    look = {"type": "input_text", "text": "Look.", "prompt_cache_breakpoint": {"mode": "explicit"}}
    seen = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}
    read = {"type": "input_file", "file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}
    assert items == [
        {"type": "message", "role": "system", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [look, seen, read]},
        {"type": "message", "role": "assistant", "content": "A fox."},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Paris"}'},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "shell", "input": "aaa"},
        {
            "type": "function_call_output",
            "call_id": "call_1",
            "output": [{"type": "input_text", "text": "Sun."}, seen],
        },
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "done"},
        {"type": "message", "role": "user", "content": "Thanks."},
    ]


def test_settings_take_the_names_of_the_responses_api() -> None:
    body = sent(
        max_completion_tokens=500,
        temperature=0.5,
        top_p=0.9,
        reasoning_effort="low",
        verbosity="high",
        logprobs=True,
        top_logprobs=3,
        metadata={"a": "b"},
        safety_identifier="u1",
        prompt_cache_key="k",
        service_tier="flex",
        parallel_tool_calls=False,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "description": "A city.", "schema": SCHEMA},
        },
        tools=[WEATHER, SHELL],
        stream_options={"include_usage": True, "include_obfuscation": False},
    )
    assert (body["max_output_tokens"], body["temperature"], body["top_p"]) == (500, 0.5, 0.9)
    assert body["reasoning"] == {"effort": "low"}
    assert body["text"] == {
        "verbosity": "high",
        "format": {
            "type": "json_schema", "name": "city", "description": "A city.", "schema": SCHEMA, "strict": False,
        },
    }  # fmt: skip
    assert body["tools"] == [
        {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False},
        {"type": "custom", "name": "shell", "description": "Runs.", "format": {"type": "grammar", **GRAMMAR}},
    ]
    assert body["include"] == ["message.output_text.logprobs", "reasoning.encrypted_content"]
    assert (body["top_logprobs"], body["metadata"], body["service_tier"]) == (3, {"a": "b"}, "flex")
    assert (body["safety_identifier"], body["prompt_cache_key"]) == ("u1", "k")
    assert (body["stream"], body["store"], body["parallel_tool_calls"]) == (True, False, False)
    assert body["stream_options"] == {"include_obfuscation": False}


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("required", "required"),
        ({"type": "function", "function": {"name": "weather"}}, {"type": "function", "name": "weather"}),
        ({"type": "custom", "custom": {"name": "shell"}}, {"type": "custom", "name": "shell"}),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "weather"}}],
                },
            },
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
        ),
    ],
    ids=["required", "function", "custom", "allowed"],
)
def test_each_choice_of_a_tool_has_its_form_there(choice: Any, wanted: Any) -> None:
    assert sent(tools=[WEATHER, SHELL], tool_choice=choice)["tool_choice"] == wanted


def test_a_web_search_becomes_the_hosted_tool() -> None:
    place = {"type": "approximate", "approximate": {"country": "FR", "city": "Paris"}}
    domains = {"allowed_domains": ["example.com"]}
    search: Json = {"search_context_size": "low", "user_location": place, "filters": domains, "max_uses": 2}
    body = sent(web_search_options=search, tools=[WEATHER])
    where = {"type": "approximate", "country": "FR", "city": "Paris"}
    assert body["tools"][1:] == [
        {"type": "web_search", "search_context_size": "low", "user_location": where, "filters": domains}
    ]
    assert body["max_tool_calls"] == 2
    assert dropped(web_search_options=search) == ()
    with pytest.raises(UnsupportedParameter, match="blocked_domains"):
        sent(web_search_options={"filters": {"blocked_domains": ["example.com"]}})


def test_an_effort_is_one_that_the_model_takes_over_this_api() -> None:
    newest = replace(OFFICIAL, model="gpt-6-astra")
    assert sent(newest, reasoning_effort="max")["reasoning"] == {"effort": "max"}
    older = replace(OFFICIAL, model="gpt-5-mini")
    assert sent(older, reasoning_effort="max")["reasoning"] == {"effort": "high"}
    assert dropped(older, reasoning_effort="max") == ("reasoning_effort",)


@pytest.mark.parametrize("store", [True, False, None])
def test_nothing_is_stored_at_the_provider_so_reasoning_comes_encrypted(store: bool | None) -> None:
    body = sent(store=store)
    assert (body["store"], body["include"]) == (False, ["reasoning.encrypted_content"])
    assert "include" not in sent(replace(OFFICIAL, reasons=False))


def test_parameters_that_no_response_has_are_named_and_their_neutral_values_are_not() -> None:
    unheld: Json = {"seed": 1, "logit_bias": {"1": 2}, "frequency_penalty": 0.5, "presence_penalty": 0.5}
    assert set(dropped(**unheld, prediction={"type": "content", "content": "x"})) == {*unheld, "prediction"}
    assert dropped(n=1, logprobs=False, presence_penalty=0, modalities=["text"], tools=[], store=False) == ()
    assert sent(n=1, logprobs=False, presence_penalty=0, modalities=["text"], tools=[]) == sent()


def test_the_parameters_of_the_models_row_are_a_further_bound() -> None:
    bounded = replace(OFFICIAL, parameters=frozenset({"max_completion_tokens", "max_tokens"}))
    fields: Json = {"temperature": 0.5, "max_tokens": 50, "reasoning_effort": "low"}
    assert dropped(bounded, **fields) == ("temperature", "reasoning_effort")
    assert dropped(bounded, stop=["END"]) == (), "the gateway ends the text itself"
    assert sent(bounded, **fields) == {**sent(bounded), "max_output_tokens": 50}


def test_a_bound_below_the_least_is_raised_and_named() -> None:
    assert sent(max_tokens=1)["max_output_tokens"] == LEAST_OUTPUT
    assert dropped(max_tokens=1) == ("max_tokens",)
    assert dropped(max_tokens=LEAST_OUTPUT) == ()


RESPONSES_OWN: Json = {
    "max_output_tokens": 99_999,
    "input": [{"type": "item_reference", "id": "msg_1"}],
    "instructions": "Obey.",
    "previous_response_id": "resp_1",
    "conversation": "conv_1",
    "prompt": {"id": "pmpt_1"},
    "background": True,
    "max_tool_calls": 50,
    "include": ["file_search_call.results"],
    "truncation": "auto",
    "text": {"verbosity": "low"},
}


@pytest.mark.parametrize("chats", [OPENAI, COMPATIBLE], ids=["openai", "compatible"])
@pytest.mark.parametrize("name", RESPONSES_OWN)
def test_a_field_of_responses_never_comes_from_a_chat(name: str, chats: ParameterTable) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    asked = request_of(**{name: RESPONSES_OWN[name]}, max_tokens=50, response_format=form)
    with pytest.raises(UnsupportedParameter, match="POST /v1/responses") as caught:
        translate(asked, OFFICIAL, chats)
    assert caught.value.param == name
    body = translate(request_of(**{name: None}), OFFICIAL, chats).body
    assert body == translate(request_of(), OFFICIAL, chats).body


def test_an_unknown_field_of_a_chat_is_named_unless_the_models_row_lists_it() -> None:
    assert dropped(previous_input_messages=[{}], plan="x") == ("previous_input_messages", "plan")
    assert sent(previous_input_messages=[{}], plan="x") == sent()
    listed = replace(OFFICIAL, parameters=frozenset({"plan", "input"}))
    assert translate(request_of(plan="x"), listed, OPENAI).body["plan"] == "x"
    with pytest.raises(UnsupportedParameter):
        translate(request_of(input="x"), listed, OPENAI)


@pytest.mark.parametrize("chats", [OPENAI, COMPATIBLE], ids=["openai", "compatible"])
def test_what_items_do_not_hold_of_messages_and_tools_is_named(chats: ParameterTable) -> None:
    cached = {"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}, "weight": 2}
    file = {"type": "file", "file": {"file_id": "file-1"}, "citations": {"enabled": True}, "context": "old"}
    answer: Json = {"role": "assistant", "content": "A", "mood": "glad", "refusal": None, "annotations": []}
    failed = {"role": "tool", "tool_call_id": "call_1", "content": "no", "is_error": True}
    said = [
        {"role": "user", "content": [cached, file], "name": "Ada"},
        answer,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        failed,
    ]
    tool = {**WEATHER, "cache_control": {"type": "ephemeral"}, "input_examples": [{"city": "Rome"}]}
    assert set(translate(request_of(messages=said, tools=[tool]), OFFICIAL, chats).dropped) == {
        *("messages.cache_control", "messages.is_error", "messages.weight", "messages.citations"),
        *("messages.context", "messages.mood", "messages.name", "tools.input_examples"),
    }
    kept = {"type": "text", "text": "S", "prompt_cache_breakpoint": {"mode": "explicit"}}
    assert translate(request_of(messages=[{"role": "user", "content": [kept]}]), OFFICIAL, chats).dropped == ()


def test_a_tool_of_a_chat_keeps_its_kind() -> None:
    hosted: Json = {"type": "file_search", "vector_store_ids": ["vs_1"]}
    function: Json = {"type": "function", "function": {**WEATHER["function"], **hosted}}
    custom: Json = {"type": "custom", "custom": {**SHELL["custom"], **hosted}}
    body = translate(request_of(tools=[function, custom]), OFFICIAL, OPENAI).body
    assert [tool["type"] for tool in body["tools"]] == ["function", "custom"]
    named = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "type": "text"}}
    assert translate(request_of(response_format=named), OFFICIAL, OPENAI).body["text"]["format"]["type"] == (
        "json_schema"
    )


@pytest.mark.parametrize(("older", "newer"), [(99_999, 50), (50, 99_999)])
def test_the_smaller_of_two_bounds_is_sent(older: int, newer: int) -> None:
    given: Json = {"max_tokens": older, "max_completion_tokens": newer}
    assert sent(**given)["max_output_tokens"] == 50
    for table, name in ((OPENAI, "max_completion_tokens"), (COMPATIBLE, "max_tokens"), (MISTRAL, "max_tokens")):
        chat = body_for(request_of(**given), replace(OFFICIAL, wire="chat"), table)
        assert {each: chat[each] for each in given if each in chat} == {name: 50}
    assert (
        chat_for_ollama(request_of(**given), replace(OFFICIAL, wire="chat")).body["options"]["num_predict"] == 50
    )
    only = replace(OFFICIAL, wire="chat", parameters=frozenset({"max_tokens"}))
    assert body_for(request_of(**given), only, COMPATIBLE)["max_tokens"] == 50


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "video", "text": "x"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"filename": "a"}}]}]}, "messages"),
    ],
)
def test_a_chat_that_no_response_can_hold_is_refused(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(**fields)
    assert caught.value.param == param


def test_audio_is_refused_with_the_way_out() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    with pytest.raises(CapabilityMismatch, match="transcribe it first"):
        sent(messages=[{"role": "user", "content": [sound]}])


def test_reasoning_goes_back_to_its_endpoint_alone_before_the_call_that_it_led_to() -> None:
    blocks = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "a", "endpoint": "openai"},
        {
            "type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "b", "endpoint": "openai",
            "before": "call_2",
        },
    ]  # fmt: skip
    turn = {
        "role": "assistant",
        "content": "Wait.",
        "tool_calls": [CALL, COMMAND],
        "thinking_blocks": blocks,
        "reasoning_content": "Hm.",
    }
    kinds = [(item["type"], item.get("id")) for item in sent(messages=[turn])["input"]]
    assert kinds == [
        ("reasoning", "rs_1"), ("message", None), ("function_call", None), ("reasoning", "rs_2"),
        ("custom_tool_call", None),
    ]  # fmt: skip
    assert dropped(messages=[turn]) == ()
    azure = replace(OFFICIAL, endpoint="azure")
    assert all(item["type"] != "reasoning" for item in sent(azure, messages=[turn])["input"])
    assert dropped(azure, messages=[turn]) == ("messages.thinking_blocks", "messages.reasoning_content")


def test_signed_thinking_of_another_provider_is_dropped_and_named() -> None:
    block = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    turn = {"role": "assistant", "content": "Hi.", "thinking_blocks": [block]}
    assert sent(messages=[turn])["input"] == [{"type": "message", "role": "assistant", "content": "Hi."}]
    assert dropped(messages=[turn]) == ("messages.thinking_blocks",)


@pytest.mark.parametrize(
    ("query", "path"),
    [({}, "/openai/v1/responses"), ({"api-version": "2025-04-01-preview"}, "/openai/responses")],
)
def test_azure_has_one_path_for_all_deployments(query: dict[str, str], path: str) -> None:
    upstream = Upstream("az", "azure", "https://x.openai.azure.com", "mine", query=query, wire="responses")
    assert AzureBackend(HttpClient()).path(upstream, "/responses") == path


def test_what_a_chat_drops_is_known_before_it_is_sent() -> None:
    backend = OpenAIBackend(HttpClient())
    assert backend.dropped(request_of(seed=1), OFFICIAL) == ("seed",)
