"""Local workers behave as OpenAI's API where llama-server by itself does not."""

from __future__ import annotations

import base64
import json
import struct
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from backends.base import Timeouts, Tokenize, Upstream
from backends.constraints.checker import Checker
from backends.local.backend import LocalWorkerBackend
from backends.local.completions import ChoiceCall
from backends.local.tool_schema import ToolPlan, chosen_tools
from backends.notices import collect
from backends.openai.documents import embedding_list
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from backends.workers.spec import WorkerSpec
from backends.workers.templates import lacks_template
from catalog.errors import (
    CapabilityMismatch,
    ContextLengthExceeded,
    FirstByteTimeout,
    IdleTimeout,
    InvalidRequest,
    RoundhouseError,
    StreamBroken,
    UnsupportedParameter,
    UpstreamProtocolError,
)
from catalog.types import Json
from tests.backends.answers import assemble_chat, assemble_completion
from tests.fakes.gguf import chat_model
from tests.fakes.llama_server import FakeLlamaServer
from tests.fakes.server import Fault
from tests.loop_time import virtual_time

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "time", "parameters": CITY}},
]
NAMED = {"type": "function", "function": {"name": "time"}}


@pytest.fixture
def upstream(fake: FakeLlamaServer) -> Upstream:
    return Upstream("w", "worker", "http://worker/v1", "local", uds=str(fake.uds), api_key="worker-key")


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def text(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "prompt": "ab", "max_tokens": 2, **fields})


# ---- chat


async def test_several_choices_are_several_calls_with_derived_seeds_and_one_usage(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    answer = await assemble_chat(backend.chat(upstream, chat(n=6, seed=5, max_tokens=3)))
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"The quick brown"}
    assert sorted(call.body["seed"] for call in fake.calls) == [5, 6, 7, 8, 9, 10]
    assert all("n" not in call.body for call in fake.calls)
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (4, 18)


async def test_chunks_have_openais_shape_only(backend: LocalWorkerBackend, upstream: Upstream) -> None:
    chunks = [chunk async for chunk in backend.chat(upstream, chat(logprobs=True, top_logprobs=1))]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert not any("timings" in chunk for chunk in chunks)
    entry = chunks[1]["choices"][0]["logprobs"]["content"][0]
    assert entry.keys() == {"token", "logprob", "bytes", "top_logprobs"}
    assert [chunk for chunk in chunks if chunk.get("usage")] == [chunks[-1]]


async def test_an_error_in_one_choice_ends_the_answer_as_that_error(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.script(Fault(), Fault(die_after=3))
    with pytest.raises(StreamBroken):
        await assemble_chat(backend.chat(upstream, chat(n=2)))


async def test_leaving_closes_every_choice_at_once(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.fault = Fault(stall_after=2)
    async with aclosing(backend.chat(upstream, chat(n=2))) as chunks:
        await anext(chunks)
        await fake.call(1)
    for call in fake.calls:
        await call.left()


@pytest.mark.parametrize("form", ["chat", "text"])
async def test_a_worker_that_tells_of_progress_with_the_prompt_has_time_for_the_next_step(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, form: str
) -> None:
    times = Timeouts(first_byte=1.0, idle=0.8, total=60.0)
    upstream = replace(upstream, engine="llamacpp", timeouts=times)

    async def asked() -> list[Json]:
        if form == "chat":
            return [chunk async for chunk in backend.chat(upstream, chat())]
        return [chunk async for chunk in backend.complete(upstream, text())]

    with virtual_time():
        fake.steps, fake.fault = 0, Fault()
        plain = [{**chunk, "id": "", "created": 0} for chunk in await asked()]
        fake.steps, fake.fault = 5, Fault(chunk_delay=0.7)
        assert [{**chunk, "id": "", "created": 0} for chunk in await asked()] == plain
        for stall, error in ((3, FirstByteTimeout), (7, IdleTimeout)):
            fake.fault = Fault(stall_after=stall, chunk_delay=0.1)
            with pytest.raises(error):
                await asked()


async def test_a_template_that_refuses_the_order_of_roles_is_quoted_without_its_source(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    source = "Unable to generate parser for this template.\n---\nWhile executing CallExpression at line 1"
    words = "Conversation roles must alternate user/assistant/user/assistant/..."
    fake.fault = Fault(status=400, message=f"{source} in source:\n...{{{{ x }}}}\nError: Jinja Exception: {words}")
    with pytest.raises(InvalidRequest, match="'local' does not take these messages") as raised:
        await assemble_chat(backend.chat(upstream, chat()))
    assert words in raised.value.message
    assert "CallExpression" not in raised.value.message
    assert raised.value.param == "messages"


async def test_a_prompt_that_does_not_fit_has_its_numbers(backend: LocalWorkerBackend, upstream: Upstream) -> None:
    with pytest.raises(ContextLengthExceeded) as raised:
        await assemble_chat(backend.chat(upstream, chat(messages=[{"role": "user", "content": "w " * 100}])))
    assert (raised.value.limit, raised.value.requested) == (64, 103)


async def test_a_picture_for_a_model_that_cannot_see_is_a_capability_error(
    backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    pixel = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    part = {"type": "image_url", "image_url": {"url": f"data:image/gif;base64,{pixel}"}}
    with pytest.raises(CapabilityMismatch, match="takes no image input"):
        await assemble_chat(backend.chat(upstream, chat(messages=[{"role": "user", "content": [part]}])))


# ---- tools


@pytest.mark.parametrize(("choice", "called"), [(NAMED, "time"), ("required", "weather")])
async def test_a_template_without_tools_is_bound_by_a_schema(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, choice: Any, called: str
) -> None:
    if choice == "required":
        fake.scripted = json.dumps({"tool_calls": [{"name": "weather", "arguments": {"city": "Paris"}}]})
    answer = await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, tool_choice=choice)))
    message = answer["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == (called, {"city": "Paris"})
    assert call["id"].startswith("call_")
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert message["content"] is None
    sent = fake.calls[-1].body
    assert "tools" not in sent
    assert sent["grammar"].startswith("%llguidance")
    assert "weather" in sent["messages"][0]["content"] or choice is NAMED


async def test_auto_may_answer_in_text(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.scripted = "Hello."
    answer = await assemble_chat(backend.chat(upstream, chat(tools=TOOLS)))
    assert answer["choices"][0]["message"]["content"] == "Hello."
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_a_template_with_tools_gets_them(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.takes_tools = True
    answer = await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, tool_choice=NAMED)))
    assert [c["function"]["name"] for c in answer["choices"][0]["message"]["tool_calls"]] == ["time"]
    assert (await fake.call(1)).body["tool_choice"] == "required"


CALLED = [
    {"role": "user", "content": "Hi"},
    {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}],
    },
    {"role": "tool", "tool_call_id": "a", "content": "Sunny."},
]


@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": TOOLS}])
async def test_earlier_calls_and_their_text_reach_a_template_that_does_not_render_them(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, fields: Any
) -> None:
    fake.scripted = "Fine."
    await assemble_chat(backend.chat(upstream, chat(messages=CALLED, **fields)))
    sent = [each for each in fake.calls[-1].body["messages"] if each["role"] != "system"]
    assert [(each["role"], each["content"]) for each in sent] == [
        ("user", "Hi"),
        ("assistant", 'I look.\n\n{"tool_calls":[{"name":"weather","arguments":{"city":"Oslo"}}]}'),
        ("user", "Result of weather: Sunny."),
    ]


async def test_a_template_that_renders_earlier_calls_gets_them(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.renders_calls = True
    for _ in range(2):
        await assemble_chat(backend.chat(upstream, chat(messages=CALLED)))
        assert fake.calls[-1].body["messages"][1]["tool_calls"][0]["function"]["name"] == "weather"
    assert [call.path for call in fake.calls].count("/apply-template") == 1, "the worker is asked once"


async def test_a_template_that_the_worker_lends_is_told(backend: LocalWorkerBackend, upstream: Upstream) -> None:
    notes = collect()
    await assemble_chat(backend.chat(upstream, chat()))
    assert notes.notices == []
    await assemble_chat(backend.chat(replace(upstream, templated=False), chat()))
    assert [sentence for sentence in notes.notices if "ChatML" in sentence] == notes.notices != []


@pytest.mark.parametrize(
    ("template", "options", "engine", "lacks"),
    [
        ("{{ x }}", {}, "llamacpp", False),
        ("", {}, "llamacpp", True),
        ("", {"chat_template_file": "x"}, "llamacpp", False),
        ("", {}, "vllm", False),
    ],
)
def test_a_model_lacks_a_template_if_neither_its_file_nor_its_row_has_one(
    tmp_path: Path, template: str, options: Any, engine: str, lacks: bool
) -> None:
    (tmp_path / "m.gguf").write_bytes(chat_model(template=template))
    spec = WorkerSpec(
        engine=engine, model_id="m", path=str(tmp_path / "m.gguf"), options=options, socket="s", api_key="k"
    )
    assert lacks_template(spec) is lacks


@pytest.mark.parametrize(
    ("template", "roles"),
    [("{{ x }}", ["system", "user", "assistant", "user", "user", "user"]),
     ("{{ raise_exception('Roles must alternate.') }}", ["system", "user", "assistant", "user"])],
)  # fmt: skip
async def test_results_of_parallel_calls_are_one_turn_where_the_template_wants_turns_to_alternate(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, template: str, roles: list[str]
) -> None:
    fake.template, fake.scripted = template, "Fine."
    calls = [{"id": name, "function": {"name": "weather", "arguments": "{}"}} for name in "ab"]
    results = [{"role": "tool", "tool_call_id": name, "content": f"Sunny in {name}."} for name in "ab"]
    user = {"role": "user", "content": "Hi"}
    messages = [user, {"role": "assistant", "tool_calls": calls}, *results, user]
    await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, messages=messages)))
    sent = fake.calls[-1].body["messages"]
    assert [message["role"] for message in sent] == roles
    assert all(f"Sunny in {name}." in str(sent[3:]) for name in "ab")


async def test_none_sends_no_tools(fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream) -> None:
    await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, tool_choice="none")))
    assert not {"tools", "tool_choice", "response_format"} & (await fake.call()).body.keys()


def test_a_choice_that_is_no_tool_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not among"):
        chosen_tools(chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "nope"}}))


@pytest.mark.parametrize("name", ["a\nb", "a b", "\u00e4", "a.b", "x" * 65])
def test_a_tools_name_that_openai_refuses_is_refused_with_its_path(name: str) -> None:
    tools = [{"type": "function", "function": {"name": each}} for each in ("fine", name)]
    with pytest.raises(InvalidRequest) as refused:
        chosen_tools(chat(tools=tools))
    assert refused.value.param == "tools.1.function.name"


def test_two_tools_of_one_name_are_refused_and_so_is_a_list_of_allowed_ones() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(InvalidRequest, match="Two tools have the name 'f'"):
        chosen_tools(chat(tools=[tool, tool]))
    with pytest.raises(InvalidRequest, match="no tool_choice of the type 'allowed_tools'"):
        chosen_tools(chat(tools=[tool], tool_choice={"type": "allowed_tools", "allowed_tools": {"tools": [tool]}}))


def test_a_tokens_id_of_other_digits_is_refused() -> None:
    with pytest.raises(ValidationError):
        chat(logit_bias={"\u0663": 1})


async def test_definitions_of_two_tools_do_not_meet(checker: Checker) -> None:
    def tool(name: str, kind: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"type": kind}}}
        return {"type": "function", "function": {"name": name, "parameters": schema}}

    request = chat(tools=[tool("a", "string"), tool("b", "integer")], tool_choice="required")
    plan = await ToolPlan.of(request, chosen_tools(request), checker)
    assert await plan.grammar(checker)
    schema = plan.schema()
    assert schema["$defs"] == {"tool0_X": {"type": "string"}, "tool1_X": {"type": "integer"}}
    assert '"#/$defs/tool1_X"' in json.dumps(schema)


# ---- completions


async def test_lists_of_prompts_and_n_are_numbered_as_openai_does(
    backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    answer = await assemble_completion(backend.complete(upstream, text(prompt=["a", "b"], n=2)))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["id"].startswith("cmpl-")
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (4, 8)


@pytest.mark.parametrize("prompt", ["ab", [97, 98]])
async def test_echo_comes_first(backend: LocalWorkerBackend, upstream: Upstream, prompt: Any) -> None:
    answer = await assemble_completion(backend.complete(upstream, text(prompt=prompt, echo=True)))
    assert answer["choices"][0]["text"] == "abThe quick"


async def test_no_tokens_with_echo_is_the_prompt_without_a_call(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    answer = await assemble_completion(backend.complete(upstream, text(echo=True, max_tokens=0)))
    assert answer["choices"][0]["text"] == "ab"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == 2
    assert [call.path for call in fake.calls] == ["/tokenize"]


@pytest.mark.parametrize(("asked", "tops"), [(2, [2, 2]), (0, None)])
async def test_logprobs_have_the_legacy_shape(
    backend: LocalWorkerBackend, upstream: Upstream, asked: int, tops: list[int] | None
) -> None:
    answer = await assemble_completion(backend.complete(upstream, text(logprobs=asked)))
    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["The", " quick"]
    assert logprobs["text_offset"] == [0, 3]
    assert logprobs["token_logprobs"] == [-0.25, -0.25]
    given = logprobs["top_logprobs"]
    assert (given and [len(each) for each in given]) == tops


async def test_an_empty_prompt_is_refused_where_the_model_has_no_token_to_begin_with(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def count(_: Any, __: Any, call: ChoiceCall) -> int:
        return begins + len(call.prompt)

    monkeypatch.setattr(LocalWorkerBackend, "_count", count)
    begins = 0
    for prompt in ("", ["a", ""]):
        with pytest.raises(InvalidRequest, match="empty prompt"):
            await assemble_completion(backend.complete(upstream, text(prompt=prompt)))
    assert not fake.calls
    begins = 1
    assert (await assemble_completion(backend.complete(upstream, text(prompt=""))))["choices"][0]["text"]


async def test_best_of_decodes_all_and_shows_the_best(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    answer = await assemble_completion(backend.complete(upstream, text(n=2, best_of=3)))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert len(fake.calls) == 3
    assert answer["choices"][0]["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"suffix": "z"}, UnsupportedParameter, "suffix"),
        ({"n": 3, "best_of": 2}, InvalidRequest, "best_of"),
    ],
)
async def test_what_cannot_be_had_is_refused(
    backend: LocalWorkerBackend,
    upstream: Upstream,
    fields: dict[str, Any],
    error: type[RoundhouseError],
    param: str,
) -> None:
    with pytest.raises(error) as raised:
        await assemble_completion(backend.complete(upstream, text(**fields)))
    assert raised.value.param == param


async def test_the_default_bound_is_openais(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    request = CompletionRequest.model_validate({"model": "m", "prompt": "a"})
    await assemble_completion(backend.complete(upstream, request))
    assert (await fake.call()).body["max_tokens"] == 16


# ---- tokens


async def test_tokens_go_there_and_back(backend: LocalWorkerBackend, upstream: Upstream) -> None:
    assert isinstance(backend, Tokenize)
    tokens = await backend.tokenize(upstream, TokenizeRequest(content="Äb🙂"))
    assert await backend.detokenize(upstream, DetokenizeRequest(tokens=tokens["tokens"])) == {"content": "Äb🙂"}


# ---- embeddings


async def test_vectors_cross_the_socket_as_base64_and_are_written_as_the_caller_asked(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    def asking(**fields: Any) -> EmbeddingRequest:
        return EmbeddingRequest.model_validate({"model": "m", "input": ["one", "two"], **fields})

    packed = await backend.embed(upstream, asking(encoding_format="base64"))
    for request in (asking(), asking(encoding_format="float")):
        answer = orjson.dumps(await backend.embed(upstream, request), option=orjson.OPT_SERIALIZE_NUMPY)
        written = [row["embedding"] for row in json.loads(answer)["data"]]
        given = [base64.b64decode(row["embedding"]) for row in packed["data"]]
        assert [struct.pack(f"<{len(row)}f", *row) for row in written] == given
    assert {call.body["encoding_format"] for call in fake.calls} == {"base64"}


async def test_a_vector_that_is_no_base64_of_float32_is_an_error_of_the_worker(upstream: Upstream) -> None:
    request = EmbeddingRequest.model_validate({"model": "m", "input": "one"})
    for damaged in ("%%%", base64.b64encode(b"123").decode()):
        with pytest.raises(UpstreamProtocolError, match="not base64 of float32"):
            embedding_list({"data": [{"index": 0, "embedding": damaged}]}, request, upstream)


async def test_a_chats_tokens_are_counted_by_the_worker_with_its_tools(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    plain = await backend.count(upstream, chat())
    with_tools = await backend.count(upstream, chat(tools=TOOLS))
    assert 0 < plain["input_tokens"] < with_tools["input_tokens"]
    assert [call.path for call in fake.calls if call.path.endswith("completions")] == []
    with pytest.raises(CapabilityMismatch):
        await backend.count(replace(upstream, engine="mlx"), chat())


@pytest.mark.parametrize("asked", [{}, {"top_logprobs": 0}])
async def test_logprobs_without_alternatives_have_none(
    backend: LocalWorkerBackend, upstream: Upstream, fake: FakeLlamaServer, asked: dict[str, int]
) -> None:
    chunks = [chunk async for chunk in backend.chat(upstream, chat(logprobs=True, **asked))]
    assert [entry["top_logprobs"] for entry in chunks[1]["choices"][0]["logprobs"]["content"]] == [[]]
    assert fake.calls[-1].body["top_logprobs"] == 1
