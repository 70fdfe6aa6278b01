"""Engines with real models in real workers; skipped if the starter model is not pulled."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from backends.base import Upstream
from backends.http import HttpClient
from backends.local.backend import LocalWorkerBackend
from backends.queueing import Need
from backends.wire.chat import ChatRequest
from backends.workers.pool import WorkerState
from backends.workers.settings import WorkerSettings
from backends.workers.supervisor import Supervisor
from catalog.catalog import Catalog
from catalog.errors import ModelUnavailable, WorkerFailed
from catalog.model import Model, PathSource
from tests.backends.answers import assemble_chat
from tests.backends.workers.conftest import client
from tests.conformance.starter_store import starter_store
from tests.fakes.gguf import chat_model

pytestmark = pytest.mark.engine

PARIS = {
    "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
    "temperature": 0,
    "max_tokens": 24,
}
ENDLESS = {
    "messages": [{"role": "user", "content": "Count."}],
    "max_tokens": 900,
    "ignore_eos": True,
    "stream": True,
}


@dataclass(frozen=True)
class Machine:
    id: str = "cpu"
    name: str = "this machine"
    memory: int = psutil.virtual_memory().total


@asynccontextmanager
async def supervisor(logs: Path, **settings: Any) -> AsyncIterator[Supervisor]:
    chosen = WorkerSettings.model_validate({"logs": logs, "context": 2048, **settings})
    async with Supervisor(store=starter_store(), settings=chosen, devices=[Machine()]) as pool:
        yield pool


def starter(name: str) -> Model:
    row = Catalog.builtin().get(name)
    assert row is not None
    reason = starter_store().missing(row)
    if reason is not None:
        pytest.skip(reason)
    return row


@pytest.fixture
def smollm() -> Model:
    return starter("smollm2-135m-instruct")


async def deltas(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


async def post(upstream: Upstream, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with client(upstream) as http:
        answer: dict[str, Any] = (await http.post(path, json=body, timeout=60)).raise_for_status().json()
        return answer


async def until_processing(http: httpx.AsyncClient, number: int) -> None:
    """Wait until llama-server decodes for so many slots."""
    async with asyncio.timeout(60):
        while sum(slot["is_processing"] for slot in (await http.get("http://worker/slots")).json()) != number:
            await asyncio.sleep(0.01)


async def test_it_answers_counts_tokens_and_tells_what_a_prompt_too_long_needs(
    smollm: Model, tmp_path: Path
) -> None:
    async with supervisor(tmp_path, slots=2) as pool, pool.lease(smollm, Need()) as upstream:
        answer = await post(upstream, "/chat/completions", PARIS)
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert answer["model"] == smollm.id

        text = "Hello, wörld 👋"
        tokens = (await post(upstream, "http://worker/tokenize", {"content": text}))["tokens"]
        assert (await post(upstream, "http://worker/detokenize", {"tokens": tokens}))["content"] == text

        async with client(upstream) as http:
            long = {"messages": [{"role": "user", "content": "word " * 2500}]}
            refused = (await http.post("/chat/completions", json=long)).json()["error"]
        assert refused["type"] == "exceed_context_size_error"
        assert refused["n_ctx"] == pool.context(smollm) == 2048, "what a request can use is what the pool says"


STRICT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'developer' or (m.role == 'system' and not loop.first) %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The rule of Qwen3.5's template about system messages."""


async def test_agents_conversations_are_answered_where_the_template_wants_the_system_message_first(
    smollm: Model, tmp_path: Path
) -> None:
    template = tmp_path / "strict.jinja"
    template.write_text(STRICT_TEMPLATE)
    source = PathSource(path=str(starter_store().path(smollm)))
    options = {"chat_template_file": str(template)}
    row = smollm.model_copy(update={"id": "strict", "source": source, "options": options})
    user = {"role": "user", "content": "Say hello."}
    claude_code = [{"role": "system", "content": "A"}, user, {"role": "system", "content": "B"}]
    codex = [{"role": "developer", "content": "A"}, {"role": "developer", "content": "B"}, user]
    trailing = [user, {"role": "assistant", "content": ""}]
    async with supervisor(tmp_path, slots=1) as pool, pool.lease(row, Need()) as upstream, HttpClient() as http:
        backend = LocalWorkerBackend(http)
        prompts = {}
        for name, messages in {"a": claude_code, "b": codex, "c": trailing, "d": [user]}.items():
            body = {"model": "m", "messages": messages, "max_tokens": 4, "temperature": 0}
            answer = await assemble_chat(backend.chat(upstream, ChatRequest.model_validate(body)))
            prompts[name] = answer["usage"]["prompt_tokens"], answer["choices"][0]["message"]["content"]
        assert prompts["a"] == prompts["b"]
        assert prompts["c"] == prompts["d"]
        assert not prompts["c"][1].startswith("assistant")


async def test_an_answer_in_text_ends_where_the_model_may_call_tools_instead(
    smollm: Model, tmp_path: Path
) -> None:
    """A grammar allows both; its vocabulary has two tokens that end a text, and the model writes the other one."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
        "tools": [{"type": "function", "function": {"name": "buy", "parameters": {"type": "object"}}}],
        "max_tokens": 400,
        "temperature": 0,
    }
    async with supervisor(tmp_path, slots=1) as pool, pool.lease(smollm, Need()) as upstream, HttpClient() as http:
        backend = LocalWorkerBackend(http)
        answer = await assemble_chat(backend.chat(upstream, ChatRequest.model_validate(body)))
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert "Paris" in answer["choices"][0]["message"]["content"]


async def test_a_request_cannot_bring_its_own_chat_template(smollm: Model, tmp_path: Path) -> None:
    async with supervisor(tmp_path, slots=1) as pool, pool.lease(smollm, Need()) as upstream:
        own = await post(upstream, "/chat/completions", PARIS)
        other = await post(upstream, "/chat/completions", {**PARIS, "chat_template": "{{ 'Say HELLO' }}"})
        assert other["usage"]["prompt_tokens"] == own["usage"]["prompt_tokens"]
        async with client(upstream) as http:
            assert (await http.post("http://worker/props", json={"chat_template": "x"})).status_code == 501


async def test_eight_chats_at_a_time_overlap(smollm: Model, tmp_path: Path) -> None:
    async with supervisor(tmp_path, slots=8, context=512) as pool:
        await pool.load(smollm)
        async with pool.lease(smollm, Need(slots=0)) as upstream, client(upstream) as watcher:

            async def chat() -> int:
                async with pool.lease(smollm, Need()) as upstream, client(upstream) as http:
                    body = {**ENDLESS, "max_tokens": 400}
                    async with http.stream("POST", "/chat/completions", json=body, timeout=60) as answer:
                        return len([delta async for delta in deltas(answer)])

            chats = [asyncio.create_task(chat()) for _ in range(8)]
            await until_processing(watcher, 8)
            assert not any(each.done() for each in chats)
            for each in chats:
                each.cancel()
            await asyncio.gather(*chats, return_exceptions=True)


async def test_conversations_that_take_turns_find_their_beginnings_in_slots_and_in_the_memory_of_the_worker(
    smollm: Model, tmp_path: Path
) -> None:
    """Three conversations over two slots. At its second turn one may find the system prompt alone: llama-server
    gives a new conversation the slot of the most similar one, and saves a slot only if it keeps less than half.
    """
    system = {"role": "system", "content": "You answer in one short sentence. " * 8}
    told = {name: [system] for name in ("Oslo", "Rome", "Lima")}
    shares = []
    async with supervisor(tmp_path, slots=2) as pool, pool.lease(smollm, Need()) as upstream:
        for turn in range(4):
            for name, messages in told.items():
                question = f"Part {turn}: what do travellers say of {name}? " * 6
                messages.append({"role": "user", "content": question})
                answer = await post(upstream, "/chat/completions", {"messages": messages, "max_tokens": 4})
                messages.append(answer["choices"][0]["message"])
                if turn > 1:
                    usage = answer["usage"]
                    cached = usage["prompt_tokens_details"]["cached_tokens"]
                    shares.append(cached / usage["prompt_tokens"])
    assert min(shares) > 0.6


async def test_closing_a_stream_stops_the_decoding(smollm: Model, tmp_path: Path) -> None:
    async with (
        supervisor(tmp_path, slots=1) as pool,
        pool.lease(smollm, Need()) as upstream,
        client(upstream) as http,
        client(upstream) as watcher,
    ):
        async with http.stream("POST", "/chat/completions", json=ENDLESS) as answer:
            async for _ in deltas(answer):
                break
            await until_processing(watcher, 1)
        await until_processing(watcher, 0)
        metrics = (await watcher.get("http://worker/metrics")).text
    (decoded,) = re.findall(r"^llamacpp:n_decode_total (\d+)$", metrics, re.MULTILINE)
    assert int(decoded) < 450, "half of what was asked for"


async def test_a_killed_worker_breaks_the_stream_and_the_next_request_is_answered(
    smollm: Model, tmp_path: Path
) -> None:
    async with supervisor(tmp_path, slots=1) as pool:

        async def stream_and_kill() -> None:
            async with (
                pool.lease(smollm, Need()) as upstream,
                client(upstream) as http,
                http.stream("POST", "/chat/completions", json=ENDLESS) as answer,
            ):
                chunks = deltas(answer)
                await anext(chunks)
                pid = pool.snapshot().workers[0].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                async for _ in chunks:
                    pass

        with pytest.raises(httpx.RemoteProtocolError):
            await stream_and_kill()

        async def ask() -> dict[str, Any]:
            async with pool.lease(smollm, Need()) as upstream:
                return await post(upstream, "/chat/completions", PARIS)

        try:
            answer = await ask()
        except httpx.ConnectError:  # leased just before the death was noticed; the dispatcher retries likewise
            answer = await ask()
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert pool.snapshot().workers[0].restarts == 1


async def test_the_estimate_of_memory_is_near_what_it_takes(smollm: Model, tmp_path: Path) -> None:
    async with supervisor(tmp_path, slots=4, sample_interval=0.05) as pool:
        estimated = (await pool.load(smollm)).memory
        async with asyncio.timeout(60):
            while (measured := pool.snapshot().workers[0].memory) == estimated:
                await asyncio.sleep(0.02)
        assert 0.6 * estimated < measured < 1.6 * estimated


async def test_a_broken_gguf_ends_its_own_worker_with_the_cause(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    row = Model(
        id="broken",
        capabilities=frozenset({"chat"}),
        source=PathSource(path=str(broken)),
        engine="llamacpp",
    )
    async with supervisor(tmp_path) as pool:
        with pytest.raises(ModelUnavailable, match="GGUF version"):
            await pool.load(row)
        broken.write_bytes(chat_model())  # a whole header, without the weights that it needs
        with pytest.raises(WorkerFailed, match=r"'broken' did not start: .*(tensor|vocab|load)"):
            await pool.load(row)
        assert pool.snapshot().workers[0].state is WorkerState.FAILED
        wrong = row.model_copy(update={"id": "wrong", "options": {"contxt": 1}})
        with pytest.raises(ModelUnavailable, match="contxt"):
            await pool.load(wrong)


@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "whisper-tiny.en"])
async def test_the_engines_of_the_house_start_answer_and_stop(name: str, tmp_path: Path) -> None:
    row = starter(name)
    async with supervisor(tmp_path) as pool:
        async with pool.lease(row, Need()) as upstream, client(upstream) as http:
            assert (await http.get("/models")).json()["data"][0]["id"] == row.id
        process = psutil.Process(pool.snapshot().workers[0].pid)
        assert await pool.unload(row.id)
        assert not process.is_running()
