"""Chat templates, properties and the probabilities of a prompt's tokens, from a worker of llama.cpp."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from backends.base import Upstream
from backends.local.backend import LocalWorkerBackend
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from catalog.errors import CapabilityMismatch, InvalidRequest, UnsupportedParameter, UpstreamProtocolError
from catalog.types import Json
from tests.backends.answers import assemble_completion
from tests.fakes.llama_server import FakeLlamaServer


def chances(text: str) -> dict[str, float]:
    """After "a" comes "b" in one of four, after anything else each in half."""
    return {"b": 0.25, "c": 0.75} if text.endswith("a") else {"a": 0.5, "b": 0.5}


def echoed(prompt: Any, **fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate(
        {"model": "m", "prompt": prompt, "echo": True, "max_tokens": 0, "logprobs": 1, **fields}
    )


@pytest.mark.parametrize("prompt", ["bab", [98, 97, 98]], ids=["text", "tokens"])
async def test_an_echoed_prompt_has_the_probability_of_each_token_after_those_before(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, prompt: Any
) -> None:
    fake.chances = chances
    [choice] = (await assemble_completion(backend.complete(upstream, echoed(prompt))))["choices"]
    assert choice["text"] == "bab"
    told = choice["logprobs"]
    assert told["tokens"] == ["b", "a", "b"]
    assert told["token_logprobs"] == [None, pytest.approx(math.log(0.5)), pytest.approx(math.log(0.25))]
    assert told["top_logprobs"][0] is None
    assert told["top_logprobs"][2] == {"c": pytest.approx(math.log(0.75))}
    assert told["text_offset"] == [0, 1, 2]


async def test_what_follows_an_echo_stands_behind_it(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.chances = chances
    answer = await assemble_completion(backend.complete(upstream, echoed("bab", max_tokens=1)))
    told = answer["choices"][0]["logprobs"]
    assert len(told["tokens"]) == 4
    assert told["text_offset"][-1] == 3


async def test_a_token_that_the_worker_does_not_tell_is_found_among_all(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.chances = chances
    fake.untold = {ord("b")}
    told = (await assemble_completion(backend.complete(upstream, echoed("bab"))))["choices"][0]["logprobs"]
    assert told["token_logprobs"][2] == pytest.approx(math.log(0.25))


@pytest.mark.parametrize("engine", ["mlx", "vllm", "llama-cpp-python"])
async def test_other_engines_refuse_the_probabilities_of_an_echo(
    backend: LocalWorkerBackend, upstream: Upstream, engine: str
) -> None:
    with pytest.raises(UnsupportedParameter, match=engine):
        await assemble_completion(backend.complete(replace(upstream, engine=engine), echoed("a")))


# ---- template and properties


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


async def test_a_template_is_given_what_it_reads_and_nothing_else(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    asked = chat(temperature=0.5, chat_template_kwargs={"a": 1}, add_generation_prompt=False)
    assert await backend.apply_template(upstream, asked) == {"prompt": "|user: Hi|assistant: "}
    body = fake.calls[-1].body
    assert body.keys() == {"messages", "chat_template_kwargs", "add_generation_prompt"}
    assert body["add_generation_prompt"] is False


async def test_properties_name_no_file_of_this_machine(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.more_props = {"model_path": "/secret/place.gguf", "total_slots": 4}
    told: Json = await backend.properties(upstream)
    assert told.pop("eos_token") == ""
    assert told == {"chat_template": "{{ x }}", "chat_template_caps": {"supports_tools": False}, "total_slots": 4}


async def test_engines_that_tell_neither_say_so(backend: LocalWorkerBackend, upstream: Upstream) -> None:
    other = replace(upstream, engine="mlx")
    with pytest.raises(CapabilityMismatch, match="llamacpp does"):
        await backend.properties(other)
    with pytest.raises(CapabilityMismatch, match="llamacpp does"):
        await backend.apply_template(other, chat())


async def test_a_look_back_over_the_whole_context_is_its_size(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.more_props = {"default_generation_settings": {"n_ctx": 4096}}
    async for _ in backend.chat(upstream, chat(repeat_last_n=-1)):
        pass
    assert fake.calls[-1].body["repeat_last_n"] == 4096
    fake.more_props = {}
    with pytest.raises(UpstreamProtocolError, match="context"):
        async for _ in backend.chat(upstream, chat(repeat_last_n=-1)):
            pass


@pytest.mark.parametrize("ask", ["count", "apply_template"])
async def test_a_picture_by_address_is_never_left_to_the_worker_to_fetch(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, ask: str
) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}}
    request = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": [part]}]})
    with pytest.raises(InvalidRequest, match="does not fetch pictures"):
        await getattr(backend, ask)(upstream, request)
    assert not any(call.path.endswith(("input_tokens", "apply-template")) for call in fake.calls)
