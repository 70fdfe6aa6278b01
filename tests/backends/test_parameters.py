"""The treatment of each parameter, by provider."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends.azure import AzureBackend
from backends.base import Upstream
from backends.http import HttpClient
from backends.local.parameters import table_of
from backends.ollama.backend import V1
from backends.openai.parameters import table_at
from backends.openai.pictures import left_out
from backends.parameters import ELSEWHERE, FORBIDDEN, ParameterTable, body_for, dropped_names
from backends.wire.chat import ChatRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.images import ImageEditRequest, ImageRequest
from catalog.errors import InvalidRequest, UnsupportedParameter
from catalog.types import Json


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def upstream(protocol: str, base_url: str = "http://127.0.0.1:1/v1", **fields: Any) -> Upstream:
    return Upstream("e", protocol, base_url, "there", **fields)


OPENAI = upstream("openai", "https://api.openai.com/v1")
OPENROUTER = upstream("openai", "https://openrouter.ai/api/v1")
COMPATIBLE = upstream("openai")
WORKER = upstream("worker")


def table(there: Upstream) -> ParameterTable:
    if there.protocol == "ollama":
        return V1
    return table_of(there.engine) if there.protocol == "worker" else table_at(there.base_url)


def sent(request: WireModel, there: Upstream) -> Json:
    return body_for(request, there, table(there))


def dropped(request: WireModel, there: Upstream) -> tuple[str, ...]:
    return dropped_names(request, there, table(there))


def test_openai_gets_the_new_name_of_max_tokens_for_chats_only() -> None:
    assert sent(chat(max_tokens=5), OPENAI)["max_completion_tokens"] == 5
    assert "max_tokens" not in sent(chat(max_tokens=5), OPENAI)
    legacy = CompletionRequest.model_validate({"model": "m", "prompt": "a", "max_tokens": 5})
    assert sent(legacy, OPENAI)["max_tokens"] == 5


def test_llama_samplers_are_dropped_for_openai_and_passed_to_others() -> None:
    request = chat(top_k=5, min_p=0.1)
    assert dropped(request, OPENAI) == ("top_k", "min_p")
    assert sent(request, COMPATIBLE)["top_k"] == 5
    assert dropped(request, WORKER) == ()


def test_an_unknown_parameter_is_passed_where_the_server_judges_and_dropped_where_it_would_be_ignored() -> None:
    request = chat(novelty=1)
    assert sent(request, OPENAI)["novelty"] == 1
    assert sent(request, COMPATIBLE)["novelty"] == 1
    assert dropped(request, WORKER) == ("novelty",)
    assert sent(chat(mirostat=2), WORKER)["mirostat"] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("web_search_options", {}),
    ],
)
def test_a_parameter_without_which_the_answer_is_another_is_refused_where_it_is_not_taken(
    name: str, value: Any
) -> None:
    request = chat(**{name: value})
    assert sent(request, OPENAI)[name] == value
    for there in (WORKER, replace(WORKER, engine="vllm"), upstream("ollama")):
        with pytest.raises(UnsupportedParameter) as refused:
            sent(request, there)
        assert refused.value.param == name
    for name, value in [("modalities", ["text"]), ("audio", None)]:
        sent(chat(**{name: value}), WORKER)


def test_an_answers_annotations_go_back_only_where_they_are_read_and_are_no_loss() -> None:
    place = {"url": "https://a.example", "title": "A", "content": "Said.", "start_index": 0, "end_index": 1}
    said = {"role": "assistant", "content": "A.", "annotations": [{"type": "url_citation", "url_citation": place}]}
    request = chat(messages=[said, {"role": "user", "content": "And?"}])
    for there in (OPENAI, COMPATIBLE):
        assert sent(request, there)["messages"][0] == {"role": "assistant", "content": "A."}
        assert dropped(request, there) == ()
    assert sent(request, OPENROUTER)["messages"][0] == said


def test_what_sdks_add_to_an_answer_does_not_go_back() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "parsed": {"a": 1}, "tool_calls": [{**call, "index": 0}]}
    request = chat(messages=[said, {"role": "tool", "tool_call_id": "c", "content": "1"}])
    for there in (OPENAI, COMPATIBLE, OPENROUTER):
        assert sent(request, there)["messages"][0] == {"role": "assistant", "tool_calls": [call]}
        assert dropped(request, there) == ()


def test_the_empty_fields_of_an_answer_do_not_go_back_as_strict_servers_refuse_them() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    empty: Json = {
        "refusal": None,
        "audio": None,
        "function_call": None,
        "annotations": [],
        "reasoning_content": None,
    }
    said = {"role": "assistant", "content": None, "tool_calls": [{**call, "custom": None}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "1", "name": None}
    request = chat(messages=[{**said, **empty}, result])
    for there in (OPENAI, COMPATIBLE, OPENROUTER, WORKER):
        body = sent(request, there)
        assert body["messages"][0].keys() <= {"role", "content", "tool_calls"}
        assert body["messages"][0]["tool_calls"] == [call]
        assert dropped(request, there) == ()


def test_marks_are_removed_from_a_request_whose_list_of_tools_is_null() -> None:
    message = {"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral"}}
    request = chat(messages=[message], tools=None)
    for there in (OPENAI, COMPATIBLE, WORKER):
        sent(request, there)
        dropped(request, there)
    assert "cache_control" not in sent(request, OPENAI)["messages"][0]


def test_a_search_of_the_web_is_asked_for_by_capability_whatever_the_rows_list_of_parameters_says() -> None:
    narrow = replace(OPENAI, parameters=frozenset({"temperature"}))
    place = {"type": "approximate", "approximate": {"city": "Paris", "country": "FR"}}
    request = chat(web_search_options={"search_context_size": "low", "user_location": place, "max_uses": 3})
    options = {"search_context_size": "low", "user_location": place}
    assert sent(request, narrow)["web_search_options"] == options
    assert dropped(request, narrow) == ("web_search_options.max_uses",)


@pytest.mark.parametrize("name", ["allowed_domains", "blocked_domains"])
def test_domains_that_a_search_cannot_be_kept_to_are_refused(name: str) -> None:
    for there in (OPENAI, COMPATIBLE):
        with pytest.raises(UnsupportedParameter) as refused:
            sent(chat(web_search_options={"filters": {name: ["example.com"]}}), there)
        assert refused.value.param == f"web_search_options.filters.{name}"
    assert sent(chat(web_search_options={"filters": {name: []}}), OPENAI)["web_search_options"] == {}


def test_a_value_that_changes_nothing_is_left_out_without_a_word() -> None:
    assert dropped(chat(repeat_penalty=1.0, store=False, service_tier="auto"), OPENAI) == ()
    assert dropped(chat(n=1, service_tier="auto"), WORKER) == ()


def test_bookkeeping_is_named_where_a_server_does_not_take_it() -> None:
    assert dropped(chat(user="me"), OPENAI) == ()
    assert dropped(chat(user="me", metadata={"a": "b"}), WORKER) == ("user", "metadata")


def test_a_models_own_list_is_a_further_bound() -> None:
    narrow = upstream("openai", parameters=frozenset({"temperature"}))
    request = chat(temperature=1.0, seed=1, stream=True)
    assert dropped(request, narrow) == ("seed",)
    assert sent(request, narrow).keys() == {"model", "messages", "temperature", "stream"}


def test_our_own_fields_never_leave_but_strict_reaches_the_worker_app_that_honours_it() -> None:
    request = chat(routing={"mode": "fast"}, strict=True)
    assert not {"routing", "strict"} & sent(request, COMPATIBLE).keys()
    assert "strict" not in sent(request, WORKER), "the gateway itself refuses, by what the worker names"
    assert "strict" not in sent(request, replace(WORKER, engine="mlx"))


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_addresses_keys_and_templates_are_refused_everywhere(name: str) -> None:
    for there in (OPENAI, COMPATIBLE, WORKER):
        with pytest.raises(InvalidRequest):
            sent(chat(**{name: "x"}), there)


@pytest.mark.parametrize("name", sorted(ELSEWHERE | {"callbackUrl", "providerOptions", "model-list"}))
def test_a_field_that_names_another_model_or_endpoint_is_sent_only_if_the_row_lists_it(name: str) -> None:
    for there in (OPENAI, COMPATIBLE, OPENROUTER):
        with pytest.raises(InvalidRequest, match=name):
            sent(chat(**{name: ["x"]}), there)
        listing = replace(there, parameters=frozenset({name}))
        assert sent(chat(**{name: ["x"]}), listing)[name] == ["x"]
        assert sent(chat(**{name: None}), there)
    assert name not in sent(chat(**{name: ["x"]}), WORKER)
    assert dropped(chat(**{name: ["x"]}), WORKER) == (name,)
    listed = CompletionRequest.model_validate({"model": "m", "prompt": "a", name: "x"})
    with pytest.raises(InvalidRequest, match=name):
        sent(listed, COMPATIBLE)


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

    assert dropped(chat(mirostat=2, typical_p=0.5), at("mlx")) == ("typical_p", "mirostat")
    assert sent(chat(ignore_eos=True), at("mlx"))["ignore_eos"] is True
    assert dropped(chat(mirostat=2), at("llamacpp")) == ()
    assert dropped(chat(min_tokens=3, stop_token_ids=[1]), at("llamacpp")) == ("min_tokens",)
    assert dropped(chat(min_tokens=3, stop_token_ids=[1]), at("mlx")) == ()
    assert dropped(chat(grammar="root ::= x", repetition_penalty=1.1), at("vllm")) == ()
    own = {"bad_words": ["no"], "priority": 1, "truncate_prompt_tokens": 9, "thinking_token_budget": 5}
    body = sent(chat(**own, reasoning_effort="high", max_tokens=5), at("vllm"))
    assert {name: body[name] for name in own} == own
    assert (body["reasoning_effort"], body["max_completion_tokens"]) == ("high", 5)
    assert dropped(chat(prompt_logprobs=1, mm_processor_kwargs={}), at("vllm")) == (
        "prompt_logprobs",
        "mm_processor_kwargs",
    )
    assert dropped(chat(mirostat=2, typical_p=0.5), at("llama-cpp-python")) == ("mirostat",)
    picture = ImageRequest(model="m", prompt="a fox", style="vivid", seed=1)
    assert dropped(picture, at("diffusion")) == ("style",)
    assert sent(picture, at("diffusion"))["seed"] == 1


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "bos_token", "chat_template"])
@pytest.mark.parametrize("there", [WORKER, COMPATIBLE])
def test_arguments_of_a_template_do_not_replace_the_request_s_own_fields(there: Upstream, name: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as refused:
        sent(chat(chat_template_kwargs={"enable_thinking": False, name: []}), there)
    assert refused.value.param == f"chat_template_kwargs.{name}"


def test_arguments_of_a_template_are_an_object_and_others_pass() -> None:
    own = {"enable_thinking": False, "documents": []}
    assert sent(chat(chat_template_kwargs=own), WORKER)["chat_template_kwargs"] == own
    with pytest.raises(InvalidRequest, match="must be an object"):
        sent(chat(chat_template_kwargs=[1]), WORKER)


DEFAULTS = {
    "quality": "auto", "moderation": "auto", "background": "auto", "partial_images": 0, "output_compression": 100,
}  # fmt: skip
"""The values that OpenAI has for fields that a request for pictures leaves out."""
PAINTERS = {
    "doodle": table_of("onnx-painter"),
    "diffusion": table_of("diffusion"),
    "openai": table_at("https://api.openai.com/v1"),
    "none of them": ParameterTable(drops=frozenset({*DEFAULTS, "input_fidelity"})),
}


@pytest.mark.parametrize("table", PAINTERS.values(), ids=PAINTERS)
def test_openais_defaults_of_pictures_are_never_named_as_dropped(table: ParameterTable) -> None:
    asked = ImageRequest.model_validate({"model": "m", "prompt": "a", **DEFAULTS})
    upstream = Upstream("o", "openai", "http://x/v1", "m")
    assert dropped_names(asked, upstream, table) == ()
    edit = ImageEditRequest.model_validate({**asked.model_dump(), "image": (b"x",), "input_fidelity": "low"})
    assert dropped_names(edit, upstream, table) == ()
    assert left_out(edit.model_copy(update={"variation": True}), table) == ()
    bare = replace(upstream, parameters=frozenset({"size"}))
    assert dropped_names(asked, bare, table) == ()


def test_what_differs_from_the_defaults_of_pictures_is_named() -> None:
    changed = {"quality": "high", "moderation": "low", "partial_images": 2, "stream": True}
    asked = ImageRequest.model_validate({"model": "m", "prompt": "a", **changed})
    names = dropped_names(asked, Upstream("o", "openai", "http://x/v1", "m"), PAINTERS["doodle"])
    assert set(names) == {"quality", "moderation", "partial_images"}


@pytest.mark.parametrize(
    "message",
    [
        {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        {"reasoning_content": "Hm."},
        {"server_tool_calls": [{"type": "web_search_call"}]},
    ],
    ids=lambda message: str(*message),
)
def test_a_message_of_which_all_is_left_out_is_an_empty_text_and_no_null(message: Json) -> None:
    said = {"role": "assistant", "content": None, **message}
    asked = chat(messages=[{"role": "user", "content": "Draw."}, said, {"role": "user", "content": "Again."}])
    assert body_for(asked, OPENAI, table(OPENAI))["messages"][1] == {"role": "assistant", "content": ""}


def test_a_null_beside_tool_calls_stays() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm."}
    asked = chat(messages=[{"role": "user", "content": "Draw."}, said])
    assert body_for(asked, OPENAI, table(OPENAI))["messages"][1]["content"] is None
