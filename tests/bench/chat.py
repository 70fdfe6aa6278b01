"""Chat through the gateway beside the same worker's socket directly: tokens per second, time to first token.

The two are measured in turn, each first in every other round, so that the machine's drift falls on both alike.

Tokens per second are measured with the worker on every core, where the gateway takes processor time from it.
First tokens come from many short answers with the prompt in the worker's cache, which keeps the common part of
both times small, and with the worker on a core of its own, which keeps the two from competing for cores. Several
streams pause at random between requests: simultaneous requests would share a batch of the worker or miss it
together, and the figure would be of the batches.
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

from tests.bench import fetching
from tests.bench.bench import Bench
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
SHORT, LONG, QUICK_LONG = 2, 64, 24
"""Tokens of an answer, for the time to first token and for the rate."""
STREAMS = {1: 30, 4: 100, 8: 200}
"""Streams at once, and the number of short answers in a round."""
QUICK_STREAMS = {1: 15, 4: 40, 8: 64}
ROUNDS, QUICK_ROUNDS = 8, 2
RATE_ROUNDS, QUICK_RATE_ROUNDS = {1: 40, 4: 20, 8: 10}, {1: 6, 4: 3, 8: 2}
"""The machine's pace drifts by some percent, so shorter rounds need to be more."""
PAUSE = 0.4
"""Seconds: several of the worker's batches."""
WORKERS = {"slots": 8, "runaway": 3600.0}
"""Requests sent to the worker directly hold no lease, and without one it counts as running away."""


def run(bench: Bench) -> Report:
    """Measure."""
    fetching.pull(bench, MODEL)
    long = bench.pick(LONG, QUICK_LONG)
    rate_rounds = bench.pick(RATE_ROUNDS, QUICK_RATE_ROUNDS)
    several, rounds = bench.pick(STREAMS, QUICK_STREAMS), bench.pick(ROUNDS, QUICK_ROUNDS)
    found: list[Figure] = []
    bench.say("loading the model")
    with _ways() as (load, ways):
        for streams in several:
            turns = bench.rounds(rate_rounds[streams], f"tokens a second, {streams} streams")
            rates = _in_turn(ways, partial(_tokens_a_second, load, streams, long), turns)
            found.append(_rate(streams, rates))
    with _ways(apart=True) as (load, ways):
        for streams, requests in several.items():
            turns = bench.rounds(rounds, f"first token, {streams} streams")
            firsts = _in_turn(ways, partial(_first_token, load, streams, requests), turns)
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


def _in_turn(
    ways: dict[str, Target], measure: Callable[[Target], float], turns: Iterator[int]
) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {name: [] for name in ways}
    for number in turns:
        for name in ways if number % 2 else reversed(ways):
            values[name].append(measure(ways[name]))
    return values


def _tokens_a_second(load: Client, streams: int, tokens: int, way: Target) -> float:
    result = _ask(load, way, tokens, streams=streams, requests=streams)
    return sum(result.pieces) / result.elapsed


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
