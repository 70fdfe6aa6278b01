"""Each effort of OpenAI's in each provider's own terms, from every door; one that a model lacks is told."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from google.genai.types import GenerationConfig
from pydantic import ConfigDict, TypeAdapter

from backends.adapting.efforts import EFFORTS, nearest
from backends.anthropic.request import translate as to_anthropic
from backends.base import Upstream
from backends.google.request import translate as to_google
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.notices import collect
from backends.ollama.backend import V1
from backends.openai.parameters import table_at
from backends.openai.responses.request import translate as to_responses
from backends.parameters import ParameterTable, body_for, dropped_names
from backends.wire.chat import ChatRequest
from backends.wire.messages import MessagesRequest
from backends.wire.responses import ResponsesRequest
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.wires.messages import to_chat as from_messages
from server.wires.responses import to_chat as from_responses
from tests.fakes.llama_server import FakeLlamaServer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the SDK has one type that allows extra fields
    ANTHROPIC: TypeAdapter[Any] = TypeAdapter(
        list[MessageCreateParamsStreaming], config=ConfigDict(extra="forbid")
    )
MESSAGES = [{"role": "user", "content": "Hi"}]


def asked(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": MESSAGES, **fields})


def claude(model: str, request: ChatRequest) -> tuple[Json, tuple[str, ...]]:
    translated = to_anthropic(request, Upstream("a", "anthropic", "http://127.0.0.1:1", model))
    ANTHROPIC.validate_python([translated.body])
    return translated.body, translated.dropped


def gemini(model: str, request: ChatRequest) -> tuple[Json, tuple[str, ...]]:
    translated = to_google(request, Upstream("g", "google", "http://127.0.0.1:1", model))
    config = translated.body.get("generationConfig", {})
    GenerationConfig.model_validate(config)
    return config.get("thinkingConfig", {}), translated.dropped


def over_openai(table: ParameterTable, model: str, effort: str) -> tuple[str | None, tuple[str, ...]]:
    there = Upstream("o", "openai", "http://127.0.0.1:1", model)
    request = asked(reasoning_effort=effort)
    return body_for(request, there, table).get("reasoning_effort"), dropped_names(request, there, table)


@pytest.mark.parametrize(
    ("model", "levels"),
    [
        # none, minimal, low, medium, high, xhigh, max; one with ! differs from the caller's and is told
        ("claude-opus-4-6", "disabled low! low medium high high! max"),
        ("claude-opus-4-8", "disabled low! low medium high xhigh max"),
        ("claude-haiku-5-5", "disabled low! low medium high xhigh max"),
        ("claude-sonnet-5-5", "between_tools low! low medium high xhigh max"),
        ("claude-opus-5-5", "low! low! low medium high xhigh max"),
        ("claude-fable-5-1", "low! low! low medium high xhigh max"),
        ("claude-mythos-preview", "low! low! low medium high high! max"),
    ],
)
def test_efforts_of_adaptive_claudes(model: str, levels: str) -> None:
    for effort, level in zip(EFFORTS, levels.split(), strict=True):
        body, dropped = claude(model, asked(reasoning_effort=effort))
        thinking = body.get("thinking", {}).get("type")
        if level in ("disabled", "between_tools"):
            assert (thinking, "output_config" in body) == (level, False)
        else:
            assert body["output_config"] == {"effort": level.removesuffix("!")}
        assert dropped == (("reasoning_effort",) if "!" in level else ())


def test_efforts_of_older_claudes_are_growing_budgets_that_leave_room_to_answer() -> None:
    budgets = []
    for effort in EFFORTS[1:]:
        body, dropped = claude("claude-haiku-4-5", asked(reasoning_effort=effort))
        budgets.append(body["thinking"]["budget_tokens"])
        assert body["max_tokens"] >= budgets[-1] + 8192
        assert body["max_tokens"] <= 64_000
        assert dropped == ()
    assert budgets == sorted(set(budgets))


@pytest.mark.parametrize(
    ("model", "levels"),
    [
        ("gemini-3-pro-preview", "LOW! LOW! LOW LOW! HIGH HIGH! HIGH!"),
        ("gemini-3.1-pro-preview", "LOW! LOW! LOW MEDIUM HIGH HIGH! HIGH!"),
        ("gemini-3.5-flash", "MINIMAL! MINIMAL LOW MEDIUM HIGH HIGH! HIGH!"),
        ("gemini-3.8-flash", "LOW! LOW! LOW MEDIUM HIGH HIGH! HIGH!"),
        ("gemini-4-argon", "LOW! LOW! LOW MEDIUM HIGH XHIGH XHIGH!"),
    ],
)
def test_efforts_of_geminis_with_levels(model: str, levels: str) -> None:
    for effort, level in zip(EFFORTS, levels.split(), strict=True):
        thinking, dropped = gemini(model, asked(reasoning_effort=effort))
        assert thinking["thinkingLevel"] == level.removesuffix("!")
        assert dropped == (("reasoning_effort",) if "!" in level else ())


@pytest.mark.parametrize(
    ("model", "levels"),
    [
        ("gpt-6-astra", "low! low! low medium high xhigh xhigh!"),
        ("gpt-6.1-sol", "low! low! low medium high xhigh xhigh!"),
        ("gpt-6-luna", "none low! low medium high xhigh max"),
        ("gpt-5.6-sol", "none low! low medium high xhigh max"),
        ("gpt-5.4-mini", "none low! low medium high xhigh xhigh!"),
        ("gpt-5.1", "none low! low medium high high! high!"),
        ("gpt-5-mini", "minimal! minimal low medium high high! high!"),
        ("o3", "low! low! low medium high high! high!"),
        ("a-deployment-of-mine", "none minimal low medium high xhigh max"),
    ],
)
def test_efforts_of_openais_models(model: str, levels: str) -> None:
    for effort, level in zip(EFFORTS, levels.split(), strict=True):
        sent, dropped = over_openai(table_at("https://api.openai.com/v1"), model, effort)
        assert sent == level.removesuffix("!")
        assert dropped == (("reasoning_effort",) if "!" in level else ())


@pytest.mark.parametrize(
    ("model", "effort"), [("gpt-6-astra", "max"), ("gpt-6.1-sol", "max"), ("gpt-5.4", "xhigh")]
)
def test_the_most_effort_of_openais_models_over_the_responses_api(model: str, effort: str) -> None:
    there = Upstream("o", "openai", "https://api.openai.com/v1", model, wire="responses")
    translated = to_responses(asked(reasoning_effort="max"), there, table_at(there.base_url))
    assert translated.body["reasoning"] == {"effort": effort}
    assert translated.dropped == (() if effort == "max" else ("reasoning_effort",))


def test_a_server_of_unknown_make_judges_itself_and_ollama_gets_what_it_has() -> None:
    assert over_openai(table_at("https://example.com/v1"), "gpt-5", "max") == ("max", ())
    assert over_openai(V1, "qwen3", "max") == ("high", ("reasoning_effort",))
    assert over_openai(V1, "qwen3", "none") == ("none", ())


def test_reasoning_is_never_switched_off_by_rounding() -> None:
    assert nearest("minimal", {"none", "low", "high"}) == "low"
    assert nearest("max", {"none", "low", "high"}) == "high"
    assert nearest("none", {"low", "high"}) == "low"


QWEN = "{%- if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>{% endif %}"
GRANITE = "{%- if thinking %}<think>{% endif %}"
GPT_OSS = "{%- if reasoning_effort is not defined %}{%- set reasoning_effort = 'medium' %}{% endif %}"
ALWAYS = "<|im_start|>assistant\n<think>\n"


@pytest.mark.parametrize(
    ("template", "effort", "arguments", "kept"),
    [
        (QWEN, "none", {"enable_thinking": False}, True),
        (QWEN, "high", {"enable_thinking": True}, False),
        (GRANITE, "none", {"thinking": False}, True),
        (GPT_OSS, "high", {"reasoning_effort": "high"}, True),
        (GPT_OSS, "max", {"reasoning_effort": "high"}, False),
        (GPT_OSS, "none", {"reasoning_effort": "low"}, False),
        (ALWAYS, "none", {}, False),
        (ALWAYS, "low", {}, False),
        ("{{ x }}", "none", {}, True),
        ("{{ x }}", "low", {}, False),
    ],
)
async def test_an_effort_is_what_the_template_of_a_local_model_takes(
    template: str, effort: str, arguments: Json, kept: bool
) -> None:
    async with FakeLlamaServer() as fake, HttpClient() as http:
        fake.template = template
        there = Upstream("w", "worker", fake.base_url, "local", api_key=fake.key, engine="llamacpp")
        backend, told = LocalWorkerBackend(http), collect().dropped
        for own in ({}, {"enable_thinking": True, "more": 1}):
            request = asked(reasoning_effort=effort, **({"chat_template_kwargs": own} if own else {}))
            assert backend.dropped(request, there) == ()
            async for _ in backend.chat(there, request):
                pass
            body = fake.calls[-1].body
            assert body.get("chat_template_kwargs", {}) == {**arguments, **own}
            assert "reasoning_effort" not in body
        assert told == ([] if kept else ["reasoning_effort"])


def message(**fields: Any) -> ChatRequest:
    return from_messages(MessagesRequest.model_validate({"max_tokens": 90_000, "messages": MESSAGES, **fields}))


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh", "max"])
def test_an_effort_is_the_same_from_every_door(effort: str) -> None:
    response = ResponsesRequest.model_validate({"input": "Hi", "reasoning": {"effort": effort}})
    for chat in (from_responses(response), message(output_config={"effort": effort})):
        assert chat.reasoning_effort == effort
        assert claude("claude-opus-4-8", chat)[0]["output_config"] == {"effort": effort}


def test_a_budget_arrives_unchanged_where_a_number_is_taken_and_is_told_where_it_is_not() -> None:
    chat = message(thinking={"type": "enabled", "budget_tokens": 5000})
    assert claude("claude-haiku-4-5", chat)[0]["thinking"] == {"type": "enabled", "budget_tokens": 5000}
    assert gemini("gemini-2.5-pro", chat) == ({"thinkingBudget": 5000, "includeThoughts": True}, ())
    assert gemini("gemini-2.5-flash", message(thinking={"type": "enabled", "budget_tokens": 50_000})) == (
        {"thinkingBudget": 24_576, "includeThoughts": True},
        ("thinking.budget_tokens",),
    )
    thinking, dropped = gemini("gemini-3.8-flash", chat)
    assert (thinking["thinkingLevel"], dropped) == ("MEDIUM", ("thinking.budget_tokens",))
    there = Upstream("o", "openai", "http://127.0.0.1:1", "gpt-5.4")
    table = table_at("https://api.openai.com/v1")
    assert "thinking" not in body_for(chat, there, table)
    assert dropped_names(chat, there, table) == ("thinking",)


def test_thinking_that_is_off_has_no_effort_beyond_what_the_model_takes_beside_it() -> None:
    body, dropped = claude("claude-haiku-5-5", asked(thinking={"type": "disabled"}, reasoning_effort="max"))
    assert (body["thinking"], body["output_config"]) == ({"type": "disabled"}, {"effort": "high"})
    assert dropped == ("reasoning_effort",)


def test_a_type_of_thinking_that_is_not_known_here_is_for_anthropic_alone() -> None:
    chat = from_messages(
        MessagesRequest.model_validate({"max_tokens": 9, "messages": MESSAGES, "thinking": {"type": "next"}})
    )
    assert chat.original is not None
    assert chat.original.refusal == ("This model takes no thinking of the type 'next'.", "thinking.type")
    with pytest.raises(InvalidRequest, match="must be a string"):
        message(thinking={"type": 4})


def test_a_model_that_does_not_reason_is_sent_no_effort() -> None:
    table = table_at("https://api.openai.com/v1")
    assert over_openai(table, "gpt-4o", "none") == (None, ("reasoning_effort",))
    assert over_openai(table, "gpt-4o", "high") == (None, ("reasoning_effort",))
