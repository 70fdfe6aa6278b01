"""What the gateway adds to a fast upstream, beside LiteLLM's proxy and nginx, in one run.

Every contestant stands in front of the same upstream; rounds are interleaved, so that what else the machine
does falls on all alike, and the median over rounds is what counts.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.client import Client, Result, client
from tests.bench.contestants import Contestant, litellm, nginx, roundhouse, upstream
from tests.bench.report import Figure, Report, at_least, at_most

ROUNDS = 15
CLIENTS = 20
REQUESTS = {1: 100, CLIENTS: 400}
"""A round's, by how many clients ask."""
OF_LITELLM = {1: 10, CLIENTS: 100}
"""It takes fifteen times as long; five of each client's are as few as keep all of them asking."""


def run() -> Report:
    """Measure."""
    notes = []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        behind = stack.enter_context(upstream())
        contestants = [behind, stack.enter_context(roundhouse(base / "roundhouse", behind))]
        for name, start in (("nginx", nginx), ("LiteLLM", litellm)):
            peer = stack.enter_context(start(base / name.lower(), behind))
            if peer is None:
                notes.append(f"{name} is not installed and could not be")
            else:
                contestants.append(peer)
        load = stack.enter_context(client())
        figures: list[Figure] = []
        for stream in (False, True):
            for contestant in contestants:
                _round(load, contestant, stream=stream, clients=4)
            alone = _rounds(load, contestants, stream=stream, clients=1)
            figures += _added(alone, stream=stream)
            together = _rounds(load, contestants, stream=stream, clients=CLIENTS)
            figures.append(_throughput(together, stream=stream))
    return Report(
        "overhead", "What a hop costs: plain answers, and streams of 50 chunks", tuple(figures), "; ".join(notes)
    )


def bodies(model: str, *, stream: bool) -> list[dict[str, Any]]:
    """Requests that differ, as callers' do."""
    asked = "What is the capital of country number {}? Answer in one sentence, please."
    return [
        {
            "model": model,
            "messages": [{"role": "user", "content": asked.format(number)}],
            "max_tokens": 50,
            **({"stream": True} if stream else {}),
        }
        for number in range(64)
    ]


def _round(load: Client, contestant: Contestant, *, stream: bool, clients: int) -> Result:
    several = OF_LITELLM if contestant.name == "LiteLLM" else REQUESTS
    requests = several[1 if clients == 1 else CLIENTS]
    result = load.run(
        contestant.target(), bodies(contestant.model, stream=stream), clients=clients, requests=requests
    )
    if result.failed or (stream and min(result.pieces) < 50):
        raise SystemExit(f"{contestant.name}: {result.failed} of {requests} requests failed or came incomplete")
    return result


def _rounds(load: Client, contestants: list[Contestant], *, stream: bool, clients: int) -> dict[str, list[Result]]:
    results: dict[str, list[Result]] = {contestant.name: [] for contestant in contestants}
    for _ in range(ROUNDS):
        for contestant in contestants:
            results[contestant.name].append(_round(load, contestant, stream=stream, clients=clients))
    return results


def _added(results: dict[str, list[Result]], *, stream: bool) -> list[Figure]:
    def middle(values: list[float], percent: int) -> float:
        return statistics.quantiles(values, n=100)[percent - 1] * 1000

    def over(name: str, field: str, percent: int) -> float:
        return statistics.median(middle(getattr(result, field), percent) for result in results[name])

    wanted = (
        [("first", 50, "first chunk, p50", 1.5), ("whole", 50, "whole stream, p50", 3.0)]
        if stream
        else [("whole", 50, "plain, p50", 1.5), ("whole", 99, "plain, p99", 5.0)]
    )
    figures = []
    for field, percent, name, bound in wanted:
        times = {contestant: over(contestant, field, percent) for contestant in results}
        added = times["Roundhouse"] - times["direct"]
        figures.append(Figure(f"added latency, {name}", added, "ms", at_most(bound), times))
    return figures


def _throughput(results: dict[str, list[Result]], *, stream: bool) -> Figure:
    rates = {
        name: statistics.median(len(result.whole) / result.elapsed for result in rounds)
        for name, rounds in results.items()
    }
    name = f"requests a second, {CLIENTS} clients, {'streaming' if stream else 'plain'}"
    if "LiteLLM" not in rates:
        return Figure(name, rates["Roundhouse"], "/s", None, rates)
    times = rates["Roundhouse"] / rates["LiteLLM"]
    return Figure(name, times, "x LiteLLM", at_least(30 if stream else 15), rates)
