"""Life cycle of the processes: killed workers, a killed gateway, clients that leave, models that alternate."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.e2e.serving import Served, eventually, served

CHAT = "smollm2-135m-instruct"
LONG = [{"role": "user", "content": "Count from one to a thousand, one number per line."}]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running


def workers(server: Served) -> list[dict[str, Any]]:
    document = httpx.get(f"{server.v1}/admin/workers", trust_env=False).json()
    return [worker for worker in document["workers"] if worker["state"] == "ready"]


def cancelled(server: Served) -> float:
    """Number of attempts that ended because their caller left."""
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    lines = re.findall(r'^roundhouse_attempts_total\{.*result="cancelled".*\} (\S+)$', text, re.MULTILINE)
    return sum(map(float, lines))


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_killed_worker_ends_its_streams_with_an_error_and_the_next_request_succeeds(own_server: Served) -> None:
    body = {"model": CHAT, "messages": LONG, "stream": True, "max_tokens": 2000, "ignore_eos": True}
    with (
        httpx.Client(base_url=own_server.v1, trust_env=False, timeout=60) as client,
        client.stream("POST", "/chat/completions", json=body) as response,
    ):
        lines = response.iter_lines()
        assert any("content" in line for line in lines)
        os.kill(workers(own_server)[0]["pid"], signal.SIGKILL)
        rest = [line for line in lines if line.startswith("data:")]
    assert "[DONE]" not in rest[-1]
    error = json.loads(rest[-1].removeprefix("data:"))["error"]
    assert error["code"] in ("worker_failed", "stream_broken"), "no clock had to run out"
    with openai.OpenAI(base_url=own_server.v1, api_key="none", max_retries=0) as sdk:
        answer = sdk.chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": "Say hello."}], max_tokens=5
        )
        assert answer.choices[0].message.content
        with pytest.raises(openai.APIError):
            for number, _ in enumerate(
                sdk.chat.completions.create(
                    model=CHAT,
                    messages=[{"role": "user", "content": LONG[0]["content"]}],
                    stream=True,
                    max_tokens=2000,
                    extra_body={"ignore_eos": True},
                )
            ):
                if number == 5:
                    os.kill(workers(own_server)[0]["pid"], signal.SIGKILL)


def test_killed_gateway_leaves_no_worker(own_server: Served) -> None:
    with openai.OpenAI(base_url=own_server.v1, api_key="none") as sdk:
        sdk.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "Hi"}], max_tokens=2)
        sdk.embeddings.create(model="all-minilm-l6-v2", input="x")
    pids = [worker["pid"] for worker in workers(own_server)]
    children = [child.pid for child in psutil.Process(own_server.process.pid).children(recursive=True)]
    assert set(pids) <= set(children)
    own_server.process.kill()
    own_server.process.wait(5)
    assert eventually(lambda: not any(alive(pid) for pid in children), within=30)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_client_that_leaves_stops_the_decoding(server: Served, stream: bool) -> None:
    body = {"model": CHAT, "messages": LONG, "stream": stream, "max_tokens": 2000, "ignore_eos": True}

    def busy() -> int:
        return sum(worker["busy"] for worker in workers(server))

    async with httpx.AsyncClient(base_url=server.v1, trust_env=False, timeout=60) as client:
        call = asyncio.create_task(client.post("/chat/completions", json=body))
        assert await asyncio.to_thread(eventually, lambda: busy() == 1, within=60)
        before = cancelled(server)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert await asyncio.to_thread(eventually, lambda: busy() == 0, within=30)
    ended_so = await asyncio.to_thread(eventually, lambda: cancelled(server) == before + 1, within=30)
    assert ended_so, "it must not come to its own end"


def test_two_models_in_turn_never_answer_for_each_other(tmp_path: Path, gguf: Path) -> None:
    """The memory budget holds only one of them."""
    twin = tmp_path / "twin.gguf"
    twin.symlink_to(gguf)
    (tmp_path / "roundhouse.toml").write_text(
        f"""
        [workers]
        slots = 2
        context = 1024
        memory = {{ cpu = 330_000_000 }}
        sample_interval = 3600  # no measurement: the memory of a process that loads is too low
        [[model]]
        id = "twin"
        engine = "llamacpp"
        capabilities = ["chat", "completion"]
        source = {{ kind = "path", path = "{twin}" }}
        limits = {{ context_window = 1024 }}
        """
    )
    seen: list[set[str]] = []
    stop = threading.Event()
    with served(tmp_path) as running, openai.OpenAI(base_url=running.v1, api_key="none", timeout=120) as sdk:

        def watch() -> None:
            while not stop.wait(0.05):
                seen.append({worker["model"] for worker in workers(running)})

        def ask(number: int) -> tuple[str, str]:
            model = (CHAT, "twin")[number % 2]
            answer = sdk.chat.completions.create(
                model=model, messages=[{"role": "user", "content": f"Say {number}."}], max_tokens=6
            )
            return model, answer.model

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with ThreadPoolExecutor(8) as clients:
                answers = list(clients.map(ask, range(24)))
        finally:
            stop.set()
            watcher.join()
    assert all(asked == answered for asked, answered in answers)
    loaded = {tuple(sorted(models)) for models in seen}
    assert loaded - {()} == {(CHAT,), ("twin",)}


async def test_concurrent_chats_overlap(server: Served) -> None:
    """Eight chats share the steps of one batch; ``tests/bench/chat.py`` measures the gain."""
    chunks: list[int] = []

    async def ask(client: openai.AsyncOpenAI, number: int) -> None:
        stream = await client.chat.completions.create(
            model=CHAT,
            messages=[{"role": "user", "content": "Write about the sea."}],
            max_tokens=48,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                chunks.append(number)  # noqa: PERF401 - the order across the streams is the point

    async with openai.AsyncOpenAI(base_url=server.v1, api_key="none") as client:
        await asyncio.gather(*(ask(client, number) for number in range(8)))
    assert set(chunks) == set(range(8))
    changes = sum(one != other for one, other in itertools.pairwise(chunks))
    assert changes > 100, "answers came one after another, not together"


def test_a_stopped_worker_is_replaced_while_its_request_waits(tmp_path: Path) -> None:
    with (
        served(tmp_path, environment={"ROUNDHOUSE_WORKERS__UNRESPONSIVE": "1"}) as server,
        openai.OpenAI(base_url=server.v1, api_key="none", max_retries=0, timeout=60) as sdk,
    ):

        def ask() -> str | None:
            answer = sdk.chat.completions.create(
                model=CHAT, messages=[{"role": "user", "content": "Say hello."}], max_tokens=5
            )
            return answer.choices[0].message.content

        assert ask()
        pid = workers(server)[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        assert ask()
        assert workers(server)[0]["pid"] != pid
        assert not alive(pid)
