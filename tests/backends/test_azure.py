"""Azure OpenAI: what its content filters found is kept, and no chunk has an empty head."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from backends.azure import AzureBackend
from backends.base import Upstream
from backends.http import HttpClient
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest
from catalog.types import Json
from tests.fakes.azure import PROMPT, SAFE, FakeAzure


async def chunks(fake: FakeAzure, **fields: Any) -> list[Json]:
    request = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **fields}
    )
    upstream = Upstream(
        "az", "azure", fake.origin, "fake-chat", api_key=fake.azure_key, query={"api-version": "2026-10-01"}
    )
    async with HttpClient() as http:
        return [chunk async for chunk in AzureBackend(http).chat(upstream, request)]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_filter_results_of_prompt_and_answer_are_kept_under_the_id_of_the_answer(asynchronous: bool) -> None:
    async with FakeAzure(asynchronous=asynchronous) as fake:
        came = await chunks(fake, max_tokens=2)
    for chunk in came:
        ChatCompletionChunk.model_validate(chunk)
    assert {chunk["id"] for chunk in came} == {"chatcmpl-fake"}
    assert {(chunk["model"], bool(chunk["created"])) for chunk in came} == {("fake-chat", True)}
    assert [chunk.get("prompt_filter_results") for chunk in came] == [PROMPT, *[None] * (len(came) - 1)]
    assembler = ChatAssembler()
    for chunk in came:
        assembler.add(chunk)
    whole = assembler.result()
    ChatCompletion.model_validate(whole)
    assert whole["prompt_filter_results"] == PROMPT
    assert whole["choices"][0]["content_filter_results"] == SAFE


async def test_a_plain_answer_has_them_too() -> None:
    async with FakeAzure() as fake:
        (answer, usage) = await chunks(fake, max_tokens=2, stream=False)
    assert answer["prompt_filter_results"] == PROMPT
    assert answer["choices"][0]["content_filter_results"] == SAFE
    assert "prompt_filter_results" not in usage
