"""What becomes of each parameter, by provider."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends.azure import AzureBackend
from backends.base import Upstream
from backends.http import HttpClient
from backends.parameters import FORBIDDEN, prepare, table_for
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from backends.wire.images import ImageRequest
from catalog.errors import InvalidRequest, UnsupportedParameter


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def upstream(protocol: str, base_url: str = "http://127.0.0.1:1/v1", **fields: Any) -> Upstream:
    return Upstream("e", protocol, base_url, "there", **fields)


OPENAI = upstream("openai", "https://api.openai.com/v1")
COMPATIBLE = upstream("openai")
WORKER = upstream("worker")


def test_openai_gets_the_new_name_of_max_tokens_for_chats_only() -> None:
    assert prepare(chat(max_tokens=5), OPENAI).body["max_completion_tokens"] == 5
    assert "max_tokens" not in prepare(chat(max_tokens=5), OPENAI).body
    legacy = CompletionRequest.model_validate({"model": "m", "prompt": "a", "max_tokens": 5})
    assert prepare(legacy, OPENAI).body["max_tokens"] == 5


def test_llama_samplers_are_dropped_for_openai_and_passed_to_others() -> None:
    request = chat(top_k=5, min_p=0.1)
    assert prepare(request, OPENAI).dropped == ("top_k", "min_p")
    assert prepare(request, COMPATIBLE).body["top_k"] == 5
    assert prepare(request, WORKER).dropped == ()


def test_an_unknown_parameter_is_passed_where_the_server_judges_and_dropped_where_it_would_be_ignored() -> None:
    request = chat(novelty=1)
    assert prepare(request, OPENAI).body["novelty"] == 1
    assert prepare(request, COMPATIBLE).body["novelty"] == 1
    assert prepare(request, WORKER).dropped == ("novelty",)
    assert prepare(chat(mirostat=2), WORKER).body["mirostat"] == 2


def test_strict_refuses_what_would_be_dropped() -> None:
    with pytest.raises(UnsupportedParameter, match="'top_k'") as raised:
        prepare(chat(top_k=5), OPENAI, strict=True)
    assert raised.value.param == "top_k"


def test_a_value_that_changes_nothing_is_left_out_without_a_word() -> None:
    assert prepare(chat(repeat_penalty=1.0, user="me"), OPENAI).dropped == ()
    assert prepare(chat(user="me"), WORKER).dropped == ()


def test_a_models_own_list_is_a_further_bound() -> None:
    narrow = upstream("openai", parameters=frozenset({"temperature"}))
    prepared = prepare(chat(temperature=1.0, seed=1, stream=True), narrow)
    assert prepared.dropped == ("seed",)
    assert prepared.body.keys() == {"model", "messages", "temperature", "stream"}


def test_our_own_fields_never_leave() -> None:
    assert not {"routing", "strict"} & prepare(chat(routing={"mode": "fast"}, strict=True), COMPATIBLE).body.keys()


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_addresses_keys_and_templates_are_refused_everywhere(name: str) -> None:
    for there in (OPENAI, COMPATIBLE, WORKER):
        with pytest.raises(InvalidRequest):
            prepare(chat(**{name: "x"}), there)


def test_a_table_can_be_shown() -> None:
    shown = table_for(WORKER).describe()
    assert shown["unknown"] == "dropped"
    assert "grammar" in shown["extra"]


@pytest.mark.parametrize(
    ("base_url", "query", "expected"),
    [
        (
            "https://r.openai.azure.com",
            {"api-version": "2024-10-21"},
            "/openai/deployments/my%2Fgpt/chat/completions",
        ),
        ("https://r.openai.azure.com/openai", {"api-version": "1"}, "/deployments/my%2Fgpt/chat/completions"),
        ("https://r.openai.azure.com", {}, "/openai/v1/chat/completions"),
        ("https://r.openai.azure.com/openai/v1", {}, "/chat/completions"),
    ],
)
def test_azures_addresses(base_url: str, query: dict[str, str], expected: str) -> None:
    backend = AzureBackend(HttpClient())
    there = Upstream("az", "azure", base_url, "my/gpt", query=query)
    assert backend.path(there, "/chat/completions") == expected
    assert backend.key_header == "api-key"


def test_each_engine_is_sent_what_it_takes_and_what_it_lacks_is_named() -> None:
    def at(engine: str) -> Upstream:
        return replace(WORKER, engine=engine)

    assert prepare(chat(mirostat=2, typical_p=0.5), at("mlx")).dropped == ("typical_p", "mirostat")
    assert prepare(chat(ignore_eos=True), at("mlx")).body["ignore_eos"] is True
    assert prepare(chat(mirostat=2), at("llamacpp")).dropped == ()
    assert prepare(chat(grammar="root ::= x"), at("vllm")).dropped == ("grammar",)
    assert prepare(chat(mirostat=2, typical_p=0.5), at("llama-cpp-python")).dropped == ("mirostat",)
    picture = ImageRequest(model="m", prompt="a fox", style="vivid", seed=1)
    assert prepare(picture, at("diffusion")).dropped == ("style",)
    assert prepare(picture, at("diffusion")).body["seed"] == 1
