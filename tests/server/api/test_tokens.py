"""Tokens, chat templates, properties and infill, in the shapes of llama-server and vLLM."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.api.test_chat import events
from tests.server.conftest import Gateway

CHAT = [{"role": "user", "content": "Hi"}]


async def test_a_text_and_a_chat_are_split_in_vllms_shape(gateway: Gateway) -> None:
    text = (await gateway.client.post("/tokenize", json={"prompt": "ab", "return_token_strs": True})).json()
    assert (text["tokens"], text["count"], text["token_strs"]) == ([97, 98], 2, ["a", "b"])
    assert gateway.backend.requests[-1].add_special is True
    chat = (await gateway.client.post("/tokenize", json={"messages": CHAT, "return_token_strs": True})).json()
    assert "".join(chat["token_strs"]) == "<user>Hi"
    assert chat["count"] == len(chat["tokens"]) == 8


async def test_a_text_is_split_and_joined_in_coheres_shape(gateway: Gateway) -> None:
    told = (await gateway.client.post("/v1/tokenize", json={"text": "ab", "model": "parrot"})).json()
    assert (told["tokens"], told["token_strings"]) == ([97, 98], ["a", "b"])
    assert (await gateway.client.post("/v1/detokenize", json={"tokens": [97]})).json()["text"] == "a"


async def test_a_text_is_split_in_llama_servers_shape(gateway: Gateway) -> None:
    plain = (await gateway.client.post("/tokenize", json={"content": "ab"})).json()
    assert (plain["tokens"], plain["token_strs"]) == ([97, 98], None)
    assert gateway.backend.requests[-1].add_special is False
    pieces = (await gateway.client.post("/tokenize", json={"content": "a", "with_pieces": True})).json()
    assert pieces["tokens"] == [{"id": 97, "piece": "a"}]
    joined = (await gateway.client.post("/detokenize", json={"tokens": [97]})).json()
    assert joined["content"] == joined["prompt"] == "a"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "content"),
        ({"content": "a", "prompt": "b"}, "content"),
        ({"prompt": "a", "messages": CHAT}, "content"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard"}]}, "messages[0].role"),
        ({"messages": CHAT, "continue_final_message": True}, "continue_final_message"),
    ],
)
async def test_what_cannot_be_split_is_told_by_its_place(gateway: Gateway, body: Any, param: str) -> None:
    refused = await gateway.client.post("/tokenize", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("body", [{"content": "Hi"}, {"prompt": "Hi"}, {"text": "Hi"}])
async def test_fields_beside_a_text_reach_the_router_and_the_model(gateway: Gateway, body: dict[str, Any]) -> None:
    asked = {"model": "parrot", **body, "wings": 2, "routing": {"local_only": True}}
    assert (await gateway.client.post("/tokenize", json=asked)).status_code == 200
    assert gateway.backend.requests[-1].model_extra["wings"] == 2
    assert gateway.dispatcher.facts[-1].intent.local_only


async def test_a_template_is_applied_without_decoding(gateway: Gateway) -> None:
    body = {"messages": CHAT, "add_generation_prompt": False}
    assert (await gateway.client.post("/apply-template", json=body)).json()["prompt"] == "<user>Hi"
    facts = gateway.dispatcher.facts[-1]
    assert (facts.tokens_only, facts.output_tokens) == (True, 0)


@pytest.mark.parametrize("path", ["/apply-template", "/tokenize"])
async def test_the_beginning_of_the_answer_is_the_operations_own_to_leave_out(gateway: Gateway, path: str) -> None:
    await gateway.client.post(path, json={"messages": CHAT, "add_generation_prompt": False})
    assert gateway.dispatcher.kept[-1] == ("add_generation_prompt",)


async def test_properties_are_told_in_both_shapes(gateway: Gateway) -> None:
    props = (await gateway.client.get("/props?model=parrot")).json()
    assert props["default_generation_settings"]["n_ctx"] == 4096
    info = (await gateway.client.get("/tokenizer_info")).json()
    assert (info["eos_token"], info["chat_template"], info["model_max_length"]) == ("</s>", "{{ x }}", 4096)
    assert (await gateway.client.get("/version")).json()["version"]


async def test_a_gap_is_filled_in_llama_servers_shape(gateway: Gateway) -> None:
    body = {
        "model": "parrot",
        "input_prefix": "def f():\n",
        "input_suffix": "\n",
        "prompt": "    ",
        "input_extra": [{"filename": "a.py", "text": "x = 1"}],
        "n_predict": 9,
        "top_k": 5,
    }
    whole = (await gateway.client.post("/infill", json=body)).json()
    assert (whole["content"], whole["stop"], whole["stop_type"]) == ("Hello there", True, "eos")
    asked = gateway.backend.requests[-1]
    assert (asked.prompt, asked.suffix, asked.max_tokens, asked.top_k) == ("def f():\n    ", "\n", 9, 5)
    assert asked.model_extra == {"input_extra": [{"filename": "a.py", "text": "x = 1"}]}
    told = events((await gateway.client.post("/infill", json={**body, "stream": True})).text)
    assert [(event["content"], event["stop"]) for event in told] == [
        ("Hello", False),
        (" there", False),
        ("", True),
    ]
    assert (told[-1]["tokens_evaluated"], told[-1]["tokens_predicted"]) == (3, 2)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input_prefix": "a"}, "input_suffix"),
        ({"input_prefix": "a", "input_suffix": "b", "n_predict": -2}, "n_predict"),
        ({"input_prefix": "a", "input_suffix": "b", "temperature": 9}, "temperature"),
    ],
)
async def test_a_gap_that_cannot_be_filled_is_told_by_its_place(gateway: Gateway, body: Any, param: str) -> None:
    refused = await gateway.client.post("/infill", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
