"""Whatever an upstream answers, the caller gets a regular answer or a typed error, never a 500.

``ROUNDHOUSE_FUZZ`` sets the number of requests (``make fuzz``: 100,000, of which a tenth are sent here).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import orjson
import pytest
from aiohttp import web
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import NONE, Call, FakeServer
from tests.security.conftest import PROVIDER_KEY, PROVIDER_KEY_ENV, OpenSite, rows
from tests.security.fuzzing import Fuzzer
from tests.security.test_fuzz import post

COUNT = max(600, int(os.environ.get("ROUNDHOUSE_FUZZ", "0")) // 10)
FUZZER = Fuzzer(20_261_129, {})


class Mutant(FakeServer):
    """A fake whose answers are valid but for one place, or bytes without sense."""

    async def document(self, request: web.Request, call: Call, payload: Any, *, status: int = 200) -> web.Response:
        return web.Response(body=mutated(orjson.dumps(payload)), content_type="application/json", status=status)

    async def stream(
        self,
        request: web.Request,
        call: Call,
        chunks: Iterable[bytes],
        *,
        content_type: str = "text/event-stream",
        headers: Mapping[str, str] = NONE,
    ) -> web.StreamResponse:
        events = list(chunks)
        at = FUZZER.random.randrange(len(events))
        head, found, data = events[at].partition(b"data: ")
        events[at] = head + found + mutated(data.strip()) + b"\n\n" if found else mutated(events[at])
        return web.Response(body=b"".join(events), headers={"content-type": content_type})


def mutated(text: bytes) -> bytes:
    draw = FUZZER.random.random()
    if draw < 0.05 or not text.startswith((b"{", b"[")):
        return text
    if draw < 0.12:
        return FUZZER.garbled(text)
    try:
        return json.dumps(FUZZER.spoilt(json.loads(text))).encode("utf-8", "replace")
    except ValueError:  # [DONE]
        return text


class MutantOpenAI(Mutant, FakeOpenAI): ...


class MutantAnthropic(Mutant, FakeAnthropic): ...


class MutantGoogle(Mutant, FakeGoogle): ...


@pytest.fixture
async def provider() -> AsyncIterator[FakeOpenAI]:
    async with MutantOpenAI(key=PROVIDER_KEY) as running:
        yield running


KIND = {"type": "function"}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
SAID = {"messages": [{"role": "user", "content": "Hello"}]}
MESSAGES = {**SAID, "max_tokens": 9}
FAR = {"model": "far", **SAID}
SHAPES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletion,
    "/v1/completions": Completion,
    "/v1/embeddings": CreateEmbeddingResponse,
}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", FAR),
    ("/v1/chat/completions", {**FAR, "max_tokens": 5, "logprobs": True}),
    ("/v1/chat/completions", {**FAR, "tools": [TOOL], "n": 2}),
    ("/v1/chat/completions", {**FAR, "tools": [TOOL], "max_tokens": 5}),
    ("/v1/chat/completions", {**FAR, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {**FAR, "stream": True, "tools": [TOOL]}),
    ("/v1/chat/completions", {**FAR, "model": "claude", "stream": True}),
    ("/v1/chat/completions", {**FAR, "model": "claude", "tools": [TOOL]}),
    ("/v1/chat/completions", {**FAR, "model": "gemini", "stream": True}),
    ("/v1/chat/completions", {**FAR, "model": "gemini", "tools": [TOOL]}),
    ("/v1/responses", {"model": "far", "input": "Hello"}),
    ("/v1/responses", {"model": "far", "input": "Hello", "stream": True, "tools": [{**TOOL["function"], **KIND}]}),
    ("/v1/chat/completions", {**FAR, "model": "gpt", "stream": True}),
    ("/v1/chat/completions", {**FAR, "model": "gpt", "tools": [TOOL]}),
    ("/v1/responses", {"model": "gpt", "input": "Hello"}),
    ("/v1/responses", {"model": "gpt", "input": "Hello", "stream": True, "tools": [{"type": "web_search"}]}),
    ("/v1/messages", {**MESSAGES, "model": "gpt", "stream": True}),
    ("/v1/messages", {**MESSAGES, "model": "far"}),
    ("/v1/messages", {**MESSAGES, "model": "far", "stream": True}),
    ("/v1/completions", {"model": "texts", "prompt": "Hello", "logprobs": 1}),
    ("/v1/completions", {"model": "texts", "prompt": "Hello", "stream": True}),
    ("/v1/embeddings", {"model": "vector", "input": ["a", "b"]}),
    ("/v1/embeddings", {"model": "vector", "input": ["a", "b"], "encoding_format": "base64"}),
    ("/v1/embeddings", {"model": "gemini-vector", "input": ["a", "b"]}),
    ("/v1/rerank", {"model": "ranker", "query": "a", "documents": ["a", "b"]}),
    ("/v1/classify", {"model": "judge", "input": "a", "labels": ["x", "y"]}),
    ("/v1/moderations", {"model": "warden", "input": ["a", "b"]}),
    ("/v1/images/generations", {"model": "brush", "prompt": "a"}),
    ("/v1/images/generations", {"model": "brush", "prompt": "a", "stream": True}),
]  # fmt: skip


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    """``answer`` without the texts of which OpenAI's types list the values; providers have more."""
    for choice in answer.get("choices", ()):
        if isinstance(choice["finish_reason"], str):
            choice["finish_reason"] = "stop"
    return answer | {"service_tier": None}


def complaint(path: str, status: int, headers: dict[str, str], answer: bytes) -> str | None:
    """The fault of an answer, or None."""
    if b"internal_error" in answer or status == 500:
        return "an internal error"
    if status != 200:
        error = json.loads(answer)["error"]
        return None if error["message"] and 400 <= status < 600 else "an error without a message"
    if headers["content-type"].startswith("text/event-stream"):
        for line in answer.splitlines():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if path == "/v1/chat/completions" and "error" not in event:
                    ChatCompletionChunk.model_validate(plain(event))
        return None
    if path in SHAPES:
        shape = json.loads(answer)
        for row in shape["data"] if path == "/v1/embeddings" else ():
            row["embedding"] = row["embedding"] if isinstance(row["embedding"], list) else [0.0]
        shape["usage"] = shape.get("usage") or {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        SHAPES[path].model_validate(plain(shape))
    return None


async def test_any_answer_of_an_upstream_becomes_a_regular_one_or_a_typed_error(
    site: OpenSite, provider: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MutantAnthropic(key=PROVIDER_KEY) as claude, MutantGoogle(key=PROVIDER_KEY) as gemini:
        base = rows(provider)
        endpoint = [
            *base["endpoint"],
            {"id": "a", "protocol": "anthropic", "base_url": claude.origin, "key_env": [PROVIDER_KEY_ENV]},
            {"id": "g", "protocol": "google", "base_url": gemini.base_url, "key_env": [PROVIDER_KEY_ENV]},
        ]

        def row(name: str, endpoint: str, model: str, *capabilities: str) -> dict[str, Any]:
            source = {"kind": "upstream", "endpoint": endpoint, "model": model}
            return {"id": name, "capabilities": list(capabilities), "source": source}

        model = [
            *base["model"],
            row("texts", "cloud", "fake-chat", "completion"),
            {**row("gpt", "cloud", "fake-chat", "chat", "tools"), "wire": "responses"},
            row("claude", "a", "claude-sonnet-4-5", "chat", "tools"),
            row("gemini", "g", "gemini-2.5-flash", "chat", "tools"),
            row("gemini-vector", "g", "gemini-embedding-001", "embed"),
        ]
        never = {"consecutive_failures": 10**9, "window_minimum": 10**9, "cannot_failures": 10**9}
        statuses: Counter[int] = Counter()
        wrongs: list[str] = []
        async with site(
            endpoint=endpoint, model=model, breakers=never, log={"access": False, "level": "error"}
        ) as running:
            for number in range(COUNT):
                path, body = REQUESTS[number % len(REQUESTS)]
                status, headers, answer = await post(running, path, orjson.dumps(body))
                statuses[status] += 1
                try:
                    wrong = complaint(path, status, headers, answer)
                except ValueError as error:
                    wrong = repr(error)
                if wrong is not None:
                    wrongs.append(f"{wrong}: {path} {body} {answer[:600]!r}")
            assert all(float(row["spent"]) >= 0 for row in spent(running))
        assert not wrongs, f"{len(wrongs)} of {COUNT}: " + "\n".join(wrongs[:10])
        assert statuses[200] > COUNT / 5, statuses
        assert statuses[502] > COUNT / 5, statuses


def spent(running: Any) -> list[dict[str, Any]]:
    return [{"spent": usage.spent} for usage in running.runtime.spend.cap_usage("")]
