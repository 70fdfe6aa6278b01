"""Batches: the first token of a stream beside a running batch, and the rate of a batch of embeddings.

A stream is measured alone and beside a batch in turn, so that the machine's drift falls on both alike: the batch
is begun for each round and cancelled after it. The rate of embeddings stands beside the same texts sent to the
worker's own socket, in requests as large as those that a batch makes of its lines.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil

from server.batches.merging import MOST
from tests.bench import fetching
from tests.bench.bench import Bench
from tests.bench.chat import BODY, WORKERS
from tests.bench.chat import MODEL as CHAT
from tests.bench.client import Client, Target, client, connect, request_bytes
from tests.bench.contestants import roundhouse, upstream
from tests.bench.gateway import Gateway, gateway
from tests.bench.report import Figure, Report, at_least, at_most

EMBEDDER = "all-minilm-l6-v2"
LINES, QUICK_LINES = 10_000, 1000
ROUNDS, QUICK_ROUNDS = 10, 5
REQUESTS = {"paced": 300, "at once": 300, "local": 80}
"""Streams of a round: enough that it lasts longer than several lines of the batch."""
SHORT, LONG = 2, 50
"""Tokens of a stream that is measured, and of a local line of the batch beside it."""
BEGUN, BESIDE = 3, 20_000
"""Answered lines of a batch when streams are measured beside it, and all its lines: more than a round sees."""
SLOWER, RATE, GROWTH = 1.2, 0.9, 64


def run(bench: Bench) -> Report:
    """Measure."""
    fetching.pull(bench, CHAT, EMBEDDER)
    return Report("batches", "Batches beside streams, and their own rate", (*_beside(bench), *_embeddings(bench)))


def _beside(bench: Bench) -> Iterator[Figure]:
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        load = stack.enter_context(client())
        behind = stack.enter_context(upstream())
        ours = stack.enter_context(roundhouse(Path(folder) / "remote", behind, rows=("paced", "fast")))
        remote = {"model": "bench-paced", "messages": BODY["messages"], "stream": True}
        # A line without a bound is streamed, 50 chunks in a second; a short bound is answered at once.
        yield _first_token(bench, load, "paced", ours.target(), remote, {})
        at_once = {**remote, "model": "bench-fast"}
        yield _first_token(bench, load, "at once", ours.target(), at_once, {"max_tokens": SHORT})
        running = stack.enter_context(gateway(Path(folder)))
        target = Target(f"{running.url}/v1/chat/completions")
        yield _first_token(bench, load, "local", target, BODY, {"max_tokens": LONG})


def _first_token(
    bench: Bench, load: Client, kind: str, target: Target, body: dict[str, Any], bound: dict[str, int]
) -> Figure:
    """The time of a short stream's first token beside a batch of longer answers, over that alone.

    ``bound`` is that of the batch's lines.
    """
    asked = {**body, "max_tokens": SHORT}

    def measure() -> float:
        result = load.run(target, [asked], clients=1, requests=REQUESTS[kind])
        if result.failed:
            raise SystemExit(f"{result.failed} of {REQUESTS[kind]} requests failed")
        return statistics.median(result.first) * 1000

    line = {name: value for name, value in body.items() if name != "stream"} | bound
    middles: dict[str, list[float]] = {"alone": [], "beside a batch": []}
    base = target.url.removesuffix("/chat/completions")
    with httpx.Client(base_url=base, headers=target.headers, trust_env=False, timeout=120) as api:
        measure()
        for _ in bench.rounds(bench.pick(ROUNDS, QUICK_ROUNDS), f"first token beside a batch, {kind}"):
            middles["alone"].append(measure())
            with _batch(api, "/v1/chat/completions", [line] * BESIDE):
                middles["beside a batch"].append(measure())
    times = {name: statistics.median(values) for name, values in middles.items()}
    ratio = statistics.median(b / a for a, b in zip(*middles.values(), strict=True))
    return Figure(f"first token beside a batch, {kind}", ratio, "x alone", at_most(SLOWER), times)


@contextmanager
def _batch(api: httpx.Client, endpoint: str, bodies: list[Any]) -> Iterator[str]:
    """The id of a batch of which some lines are answered; the end of the block cancels it if it still runs."""
    lines = (
        orjson.dumps({"custom_id": str(number), "method": "POST", "url": endpoint, "body": body})
        for number, body in enumerate(bodies)
    )
    file = _told(api.post("/files", files={"file": ("in.jsonl", b"\n".join(lines))}, data={"purpose": "batch"}))
    begun = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"}
    name: str = _told(api.post("/batches", json=begun))["id"]
    try:
        _until(api, name, answered=BEGUN)
        yield name
    finally:
        api.post(f"/batches/{name}/cancel")
        _until(api, name)


def _until(api: httpx.Client, name: str, *, answered: int | None = None) -> dict[str, Any]:
    """The batch once it has ended, or once so many of its lines are answered. Raises SystemExit if some failed."""
    while True:
        batch = _told(api.get(f"/batches/{name}"))
        counts = batch["request_counts"]
        if batch["status"] == "failed" or counts["failed"]:
            raise SystemExit(f"the batch failed: {counts['failed']} lines, {batch['errors']}")
        if batch["status"] in ("completed", "cancelled"):
            return batch
        if answered is not None and counts["completed"] >= answered:
            return batch
        time.sleep(0.02)


def _told(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise SystemExit(f"{answer.request.url}: {answer.text[:500]}")
    told: dict[str, Any] = answer.json()
    return told


def _embeddings(bench: Bench) -> tuple[Figure, Figure]:
    lines = bench.pick(LINES, QUICK_LINES)
    texts = [f"Line {number}: the quick brown fox jumps over lazy dog {number * 7}." for number in range(lines)]
    with tempfile.TemporaryDirectory() as folder, gateway(Path(folder), workers=WORKERS) as running:
        worker = running.worker(EMBEDDER)
        target = Target(f"{worker.base_url}/embeddings", {"authorization": f"Bearer {worker.api_key}"}, worker.uds)
        half = lines // 2
        bench.say(f"{lines} texts by the engine alone, in two halves")
        alone = asyncio.run(_by_engine(target, texts[:half]))
        bench.say(f"a batch of {lines} embeddings")
        before, rate, most = _by_batch(running, texts)
        alone += asyncio.run(_by_engine(target, texts[half:]))
    rates = {"engine": lines / alone, "batch": rate}
    growth = {"before": before / 2**20, "at most": most / 2**20}
    return (
        Figure(f"batch of {lines} embeddings", rate / rates["engine"], "x engine", at_least(RATE), rates),
        Figure("the same, growth of resident memory", (most - before) / 2**20, "MiB", at_most(GROWTH), growth),
    )


async def _by_engine(target: Target, texts: list[str]) -> float:
    """The seconds that the engine takes for texts, in requests of :data:`MOST`, two at a time."""
    waiting = iter([texts[at : at + MOST] for at in range(0, len(texts), MOST)])

    async def ask() -> None:
        for part in waiting:
            connection = await connect(target)
            await connection.ask(request_bytes(target, {"model": EMBEDDER, "input": part}))
            connection.close()
            if connection.status != 200:
                raise SystemExit(f"the engine answered {connection.status}")

    began = time.perf_counter()
    await asyncio.gather(ask(), ask())
    return time.perf_counter() - began


def _by_batch(running: Gateway, texts: list[str]) -> tuple[int, float, int]:
    """Resident bytes before, lines a second from the first answer to the end, and the most resident bytes."""
    process = psutil.Process()
    with httpx.Client(base_url=f"{running.url}/v1", trust_env=False, timeout=120) as api:
        before = most = process.memory_info().rss
        bodies = [{"model": EMBEDDER, "input": text} for text in texts]
        began = time.perf_counter()
        with _batch(api, "/v1/embeddings", bodies) as name:
            while (batch := _told(api.get(f"/batches/{name}")))["status"] not in ("completed", "failed"):
                most = max(most, process.memory_info().rss)
                time.sleep(0.05)
        took = time.perf_counter() - began
        counts = batch["request_counts"]
        if counts["completed"] != len(texts):
            raise SystemExit(f"{counts} of {len(texts)} lines")
    return before, len(texts) / took, most
