"""Ten-turn conversations that stay where their beginning is cached, beside the same with ``routing.affinity`` off.

First over two replicas: fake servers that read a prompt at a fixed pace, one at a time, except for what they read
before (as with vLLM's prefix cache), so the figures are of the choice alone. Then under ``auto`` over two local
workers of the starter, whose caches are llama.cpp's own.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
from aiohttp import web

from tests.bench import fake_servers, fetching
from tests.bench.bench import Bench
from tests.bench.gateway import gateway
from tests.bench.report import Figure, Report, at_least, at_most

TURNS = 10
PACE = 4000
"""Words of a prompt that a fake replica reads in a second."""
KEPT = 16
"""Prompts that a fake replica keeps in its cache."""
MODEL = "smollm2-135m-instruct"
STORY = "Then the old keeper of the lighthouse told of the storm, the harbour and the ship that never came back. "
THOUGHT = 0.5
"""Seconds between an answer of a replica and the next turn of its conversation, on the average."""
WAYS = {"stays": True, "today's": False}


class Replica:
    """A fake chat server with a prefix cache: the prompt's words that are not in it take time."""

    def __init__(self) -> None:
        self._kept: list[list[str]] = []
        self._turn = asyncio.Lock()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One streamed answer of one word, and its usage."""
        body = orjson.loads(await request.read())
        words = [word for message in body["messages"] for word in (message["role"], *message["content"].split())]
        async with self._turn:
            cached = max((_shared(words, kept) for kept in self._kept), default=0)
            await asyncio.sleep((len(words) - cached) / PACE)
            self._kept = [*self._kept[-KEPT + 1 :], words]
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        choice = {"index": 0, "delta": {"role": "assistant", "content": "Indeed."}, "finish_reason": None}
        usage = {
            "prompt_tokens": len(words),
            "completion_tokens": 1,
            "total_tokens": len(words) + 1,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        for chunk in (
            {**head, "choices": [choice]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {**head, "choices": [], "usage": usage},
        ):
            await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


def _shared(words: list[str], kept: list[str]) -> int:
    most = min(len(words), len(kept))
    return next((at for at in range(most) if words[at] != kept[at]), most)


@contextmanager
def replicas(count: int) -> Iterator[list[str]]:
    """Fake replicas; yields their base URLs."""
    chat = "/v1/chat/completions"
    with fake_servers.serving([{chat: Replica().answer} for _ in range(count)]) as addresses:
        yield [f"{address}/v1" for address in addresses]


@dataclass
class Told:
    """The course of conversations: seconds to each first token from the second turn on, and tokens by usage."""

    firsts: list[float] = field(default_factory=list)
    prompt: int = 0
    cached: int = 0
    moves: int = 0

    @property
    def share(self) -> float:
        """The share of the prompts' tokens that came from a cache."""
        return self.cached / max(1, self.prompt)

    @property
    def first(self) -> float:
        """Milliseconds to the first token, the mean."""
        return statistics.fmean(self.firsts) * 1000


def run(bench: Bench) -> Report:
    """Hold the conversations both ways."""
    fetching.pull(bench, MODEL)
    over_replicas, over_models = {}, {}
    for name, stays in WAYS.items():
        bench.say(f"two replicas, {name}")
        over_replicas[name] = _over_replicas(bench.pick(24, 6), enabled=stays)
    for name, stays in WAYS.items():
        bench.say(f"two local models, {name}")
        over_models[name] = _over_models(bench.pick(4, 1), enabled=stays)
    figures = [
        *_figures("two replicas", over_replicas, at_most(0.9), at_least(0.8)),
        *_figures("two local models", over_models, None, None),
    ]
    return Report("conversations", f"Conversations of {TURNS} turns", tuple(figures))


def _figures(where: str, told: dict[str, Told], first: Any, share: Any) -> Iterator[Figure]:
    firsts = {name: each.first for name, each in told.items()}
    shares = {name: each.share for name, each in told.items()}
    moves = {name: float(each.moves) for name, each in told.items()}
    part = firsts["stays"] / firsts["today's"]
    yield Figure(f"{where}: first token in ms, turns 2 to {TURNS}", part, "of today's", first, firsts)
    yield Figure(f"{where}: prompt tokens from the cache", shares["stays"], "", share, shares)
    yield Figure(f"{where}: moves to the other", moves["stays"], "", None, moves)


def _over_replicas(count: int, *, enabled: bool) -> Told:
    with replicas(2) as urls, tempfile.TemporaryDirectory() as folder:
        endpoints = [{"id": f"replica-{at}", "base_url": url} for at, url in enumerate(urls)]
        rows = [
            _row(f"{endpoint['id']}/m", {"kind": "upstream", "endpoint": endpoint["id"], "model": "m"})
            for endpoint in endpoints
        ]
        rows = [{**row, "aliases": ["shared"], "price": {"input": 0, "output": 0}} for row in rows]
        settings: dict[str, Any] = {
            "endpoint": endpoints,
            "model": rows,
            "routing": {"affinity": {"enabled": enabled}},
        }
        with gateway(Path(folder), **settings) as running:
            return asyncio.run(_hold(running.url, count, Kind("shared", 6, 15, THOUGHT)))


def _over_models(count: int, *, enabled: bool) -> Told:
    from server.settings import load_settings

    found = sorted((load_settings(None).data_dir / "models").rglob("*SmolLM2*.gguf"))
    with tempfile.TemporaryDirectory() as folder:
        rows = [_row(name, {"kind": "path", "path": str(found[0])}) for name in ("first", "second")]
        rows = [{**row, "engine": "llamacpp", "tags": ["bench"]} for row in rows]
        settings: dict[str, Any] = {
            "model": rows,
            "routing": {"affinity": {"enabled": enabled}},
            "workers": {"slots": 2},
        }
        with gateway(Path(folder), **settings) as running:
            for name in ("first", "second"):
                running.worker(name)
            return asyncio.run(_hold(running.url, count, Kind("auto", 1, 3, tags=("bench",))))


def _row(name: str, source: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "capabilities": ["chat"], "source": source, "limits": {"context_window": 4096}}


@dataclass(frozen=True)
class Kind:
    """How conversations are held: the model asked, so many ``at_once``, and the sentences of each turn."""

    model: str
    at_once: int
    sentences: int
    thought: float = 0.0
    tags: tuple[str, ...] = ()


async def _hold(url: str, count: int, kind: Kind) -> Told:
    """Hold so many conversations."""
    told, turn = Told(), asyncio.Semaphore(kind.at_once)
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:

        async def one(number: int) -> None:
            async with turn:
                await _converse(client, kind, number, told)

        await asyncio.gather(*map(one, range(count)))
    return told


async def _converse(client: httpx.AsyncClient, kind: Kind, number: int, told: Told) -> None:
    messages = [{"role": "system", "content": "You tell stories. " + STORY * 8}]
    before, draw = "", random.Random(number)
    for at in range(TURNS):
        content = f"Part {at} of story {number}. {STORY * kind.sentences} And then?"
        messages.append({"role": "user", "content": content})
        body: dict[str, Any] = {"model": kind.model, "messages": messages, "max_tokens": 8, "temperature": 0}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        if kind.tags:
            body["routing"] = {"tags": kind.tags}
        began, first, said, used = time.perf_counter(), 0.0, "", ""
        usage: dict[str, Any] = {}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                raise SystemExit((await response.aread()).decode())
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = orjson.loads(line[6:])
                usage, used = chunk.get("usage") or usage, chunk["model"]
                for choice in chunk["choices"]:
                    text = choice["delta"].get("content") or ""
                    first = first or (time.perf_counter() - began if text else 0.0)
                    said += text
        messages.append({"role": "assistant", "content": said})
        if at:
            told.firsts.append(first)
            told.prompt += usage["prompt_tokens"]
            told.cached += (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            told.moves += used != before
        before = used
        await asyncio.sleep(kind.thought * draw.uniform(0.5, 1.5))
