"""Chat through the gateway beside the same worker's socket directly: tokens per second, time to first token.

The two are measured in turn, each first in every other round, so that the machine's drift falls on both alike.

Tokens per second are measured with the worker on every core: what the gateway takes, it takes from the worker.
First tokens come from short answers, of which there can be many, with the prompt in the worker's cache, so that
what is compared is small beside what differs; and with the worker on a core of its own, or the figure would be
of the cores. Where several stream at once, each pauses at random between its requests: requests that come in the
same instant would share a batch of the worker or miss it together, and that would be measured instead.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tests.bench.client import Client, Result, Target, client
from tests.bench.gateway import gateway
from tests.bench.report import Figure, Report, at_least, at_most

MODEL = "smollm2-135m-instruct"
BODY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Write about the sea."}],
    "temperature": 0.8,
    "ignore_eos": True,
    "stream": True,
    "cache_prompt": True,
}
SHORT, LONG = 2, 64
"""Tokens of an answer of which the first token counts, and of one of which the rate does."""
STREAMS = {1: 30, 4: 100, 8: 200}
"""How many stream at once, and how many short answers there are in a round."""
ROUNDS = 8
RATE_ROUNDS = {1: 40, 4: 20, 8: 10}
"""One stream is worth a second of the machine, whose pace wanders by some percent: the fewer, the more rounds."""
PAUSE = 0.4
"""Seconds: several of the worker's batches."""
WORKERS = {"slots": 8, "runaway": 3600.0}
"""What asks the worker directly holds no lease, and would be taken for a worker that computes for nobody."""


def run() -> Report:
    """Measure."""
    found: list[Figure] = []
    with _ways() as (load, ways):
        for streams in STREAMS:
            rates = _in_turn(ways, partial(_tokens_a_second, load, streams), RATE_ROUNDS[streams])
            found.append(_rate(streams, rates))
    with _ways(apart=True) as (load, ways):
        for streams, requests in STREAMS.items():
            firsts = _in_turn(ways, partial(_first_token, load, streams, requests), ROUNDS)
            found.append(_later(streams, firsts))
    return Report("chat", "Chat through Roundhouse beside the worker's own socket", tuple(found))


@contextmanager
def _ways(*, apart: bool = False) -> Iterator[tuple[Client, dict[str, Target]]]:
    """The load client, and the two ways to one worker; ``apart``, the worker has the last core for itself."""
    cores = sorted(os.sched_getaffinity(0))
    others, own = set(cores[:-1]) or set(cores), set(cores[-1:])
    settings = WORKERS | ({"threads": 1} if apart else {})
    if apart:
        os.sched_setaffinity(0, others)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            gateway(Path(folder), workers=settings) as running,
            client() as load,
        ):
            upstream = running.worker(MODEL)
            if apart:
                _move(running.runtime.pool.snapshot().workers[0].pid, own)
            authorization = {"authorization": f"Bearer {upstream.api_key}"}
            ways = {
                "direct": Target(f"{upstream.base_url}/chat/completions", authorization, upstream.uds),
                "through": Target(f"{running.url}/v1/chat/completions"),
            }
            for way in ways.values():
                _ask(load, way, SHORT, streams=8, requests=16)
            yield load, ways
    finally:
        os.sched_setaffinity(0, cores)


def _move(pid: int | None, cores: set[int]) -> None:
    for thread in psutil.Process(pid).threads():
        os.sched_setaffinity(thread.id, cores)


def _in_turn(ways: dict[str, Target], measure: Callable[[Target], float], rounds: int) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in ways if number % 2 else reversed(ways):
            values[name].append(measure(ways[name]))
    return values


def _tokens_a_second(load: Client, streams: int, way: Target) -> float:
    long = _ask(load, way, LONG, streams=streams, requests=streams)
    return sum(long.pieces) / long.elapsed


def _first_token(load: Client, streams: int, requests: int, way: Target) -> float:
    """Milliseconds, the mean of so many requests."""
    pause = 0.0 if streams == 1 else PAUSE
    return statistics.fmean(_ask(load, way, SHORT, streams=streams, requests=requests, pause=pause).first) * 1000


def _ask(load: Client, way: Target, tokens: int, *, streams: int, requests: int, pause: float = 0.0) -> Result:
    bodies = [{**BODY, "max_tokens": tokens, "seed": number} for number in range(requests)]
    result = load.run(way, bodies, clients=streams, requests=requests, pause=pause)
    if result.failed:
        raise SystemExit(f"{result.failed} of {requests} requests failed or came incomplete")
    return result


def _rate(streams: int, rates: dict[str, list[float]]) -> Figure:
    ratios = [t / d for t, d in zip(rates["through"], rates["direct"], strict=True)]
    middle = {name: statistics.median(values) for name, values in rates.items()}
    middle["give or take"] = _error(ratios)
    return Figure(
        f"tokens a second, {streams} streams", statistics.median(ratios), "x direct", at_least(0.97), middle
    )


def _later(streams: int, firsts: dict[str, list[float]]) -> Figure:
    later = [t - d for t, d in zip(firsts["through"], firsts["direct"], strict=True)]
    middle = {name: statistics.fmean(values) for name, values in firsts.items()}
    middle["give or take"] = _error(later)
    return Figure(f"first token later, {streams} streams", statistics.fmean(later), "ms", at_most(5), middle)


def _error(values: list[float]) -> float:
    """The standard error of their mean."""
    return float(statistics.stdev(values) / math.sqrt(len(values)))
