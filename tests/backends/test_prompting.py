"""Instructions reach the model: the row's prompts stand before queries and documents on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backends.base import Upstream
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.rerank import RerankRequest
from backends.workers.engines.common.prompts import Prompts
from backends.workers.engines.llamacpp import options_of
from tests.fakes.llama_server import FakeLlamaServer

QWEN = {"query": "Instruct: {instruction}\nQuery:", "instruction": "Find the passage."}


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeLlamaServer]:
    async with FakeLlamaServer(uds=tmp_path / "w.sock") as server:
        server.models = ["fake-embed", "fake-rerank"]
        yield server


def at(fake: FakeLlamaServer, model: str, prompts: dict[str, str], engine: str = "llamacpp") -> Upstream:
    return Upstream(
        "w", "worker", "http://worker/v1", model, uds=str(fake.uds), api_key="worker-key", engine=engine,
        prompts=prompts,
    )  # fmt: skip


async def sent(fake: FakeLlamaServer, prompts: dict[str, str], engine: str = "llamacpp", **fields: Any) -> Any:
    request = EmbeddingRequest.model_validate({"model": "m", "input": ["a", "b"], **fields})
    async with HttpClient() as http:
        await LocalWorkerBackend(http).embed(at(fake, "fake-embed", prompts, engine), request)
    body = fake.calls[-1].body
    assert "instruction" not in body or engine == "onnx"
    return body["input"]


async def test_the_prompt_stands_before_each_text(fake: FakeLlamaServer) -> None:
    found = "Instruct: Find the passage.\nQuery:"
    assert await sent(fake, QWEN, input_type="query") == [found + "a", found + "b"]
    own = "Instruct: Find the law.\nQuery:"
    assert await sent(fake, QWEN, input_type="query", instruction="Find the law.") == [own + "a", own + "b"]
    assert await sent(fake, QWEN, instruction="Find the law.") == [own + "a", own + "b"]
    assert await sent(fake, QWEN, input_type="document") == ["a", "b"]
    assert await sent(fake, QWEN) == ["a", "b"]
    assert await sent(fake, {"document": "passage: "}, input_type="document") == ["passage: a", "passage: b"]


async def test_the_prompt_stands_before_token_ids_too(fake: FakeLlamaServer) -> None:
    assert await sent(fake, {"query": "q:"}, input=[[7], [8, 9]], input_type="query") == [
        [ord("q"), ord(":"), 7], [ord("q"), ord(":"), 8, 9],
    ]  # fmt: skip


async def test_our_own_engine_writes_its_prompts_itself(fake: FakeLlamaServer) -> None:
    assert await sent(fake, QWEN, engine="onnx", input_type="query") == ["a", "b"]
    assert fake.calls[-1].body["input_type"] == "query"


async def test_a_query_to_rank_by_has_its_prompt_and_documents_theirs(fake: FakeLlamaServer) -> None:
    body = {"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "instruction": "Judge."}
    prompts = {"query": "<{instruction}> ", "document": "d: "}
    async with HttpClient() as http:
        backend = LocalWorkerBackend(http)
        await backend.rerank(at(fake, "fake-rerank", prompts), RerankRequest.model_validate(body))
    assert fake.calls[-1].body["query"] == "<Judge.> q"
    assert fake.calls[-1].body["documents"] == ["d: a", "d: b"]
    assert "instruction" not in fake.calls[-1].body


def test_a_prompt_that_the_row_lacks_is_named() -> None:
    def dropped(prompts: dict[str, str], **fields: Any) -> tuple[str, ...]:
        upstream = Upstream("w", "worker", "http://worker/v1", "m", engine="llamacpp", prompts=prompts)
        request = EmbeddingRequest.model_validate({"model": "m", "input": "a", **fields})
        return LocalWorkerBackend(HttpClient()).dropped(request, upstream)

    assert dropped({}, input_type="query") == ("input_type",)
    assert dropped({}, instruction="x", input_type="query") == ("instruction", "input_type")
    assert dropped({"query": "q: "}, instruction="x") == ("instruction",)
    assert dropped(QWEN, instruction="x", input_type="document") == ("instruction",)
    assert dropped(QWEN, input_type="document") == dropped(QWEN, instruction="x") == ()


def test_a_ggufs_row_takes_the_option() -> None:
    assert options_of({"prompts": QWEN}).prompts == Prompts(**QWEN)
