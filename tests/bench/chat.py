"""Chat through the gateway beside the same worker's socket directly: tokens per second, time to first token.

The two are measured in turn, each first in every other round, so that the machine's drift falls on both alike.
First tokens come from short answers, of which there can be many; of streams that start together, the mean counts:
which of them the worker reads first is chance.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.gateway import gateway, load
from tests.bench.report import Figure, Report, at_least, at_most

MODEL = "smollm2-135m-instruct"
BODY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Write about the sea."}],
    "temperature": 0.8,
    "ignore_eos": True,
    "stream": True,
    "cache_prompt": False,
}
TOKENS = 32
ROUNDS = 3
STREAMS = {1: 10, 4: 2, 8: 1}
"""How many streams start together, and how often they do in a block of short answers."""
WORKERS = {"slots": 8, "runaway": 3600.0}
"""What asks the worker directly holds no lease, and would be taken for a worker that computes for nobody."""


def run() -> Report:
    """Measure."""
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder, gateway(Path(folder), workers=WORKERS) as running:
        upstream = running.worker(MODEL)
        direct = {"url": upstream.base_url, "uds": upstream.uds, "key": upstream.api_key}
        through = {"url": f"{running.url}/v1", "uds": None, "key": None}
        ways = {"direct": direct, "through": through}
        for streams in (2, 8):
            for way in ways.values():
                _load(way, streams, tokens=2, bursts=1)
        for streams, bursts in STREAMS.items():
            rates: dict[str, list[float]] = {"direct": [], "through": []}
            firsts: dict[str, list[float]] = {"direct": [], "through": []}
            for number in range(ROUNDS):
                for name in ("direct", "through") if number % 2 else ("through", "direct"):
                    short = _load(ways[name], streams, tokens=2, bursts=1 + bursts)
                    firsts[name] += _means(short["first"], streams)[1:]  # without the one that connects
                    rates[name] += _load(ways[name], streams, tokens=TOKENS, bursts=1)["rate"]
            ratio = statistics.median(t / d for t, d in zip(rates["through"], rates["direct"], strict=True))
            middle = {name: statistics.median(values) for name, values in rates.items()}
            found.append(Figure(f"tokens a second, {streams} streams", ratio, "x direct", at_least(0.97), middle))
            times = {name: statistics.median(values) * 1000 for name, values in firsts.items()}
            later = times["through"] - times["direct"]
            found.append(Figure(f"first token later, {streams} streams", later, "ms", at_most(5), times))
    return Report("chat", "Chat through Roundhouse beside the worker's own socket", tuple(found))


def _load(way: dict[str, Any], streams: int, *, tokens: int, bursts: int) -> dict[str, Any]:
    body = {**BODY, "max_tokens": tokens}
    return load({**way, "path": "/chat/completions", "body": body, "streams": streams, "rounds": bursts})


def _means(values: list[float], each: int) -> list[float]:
    return [statistics.fmean(values[at : at + each]) for at in range(0, len(values), each)]
