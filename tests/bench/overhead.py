"""The time that a gateway adds to a fast upstream: Roundhouse, nginx, LiteLLM's proxy and Portkey's, in one run.

All contestants stand in front of the same upstream. Rounds are interleaved, so that other load on the machine
falls on all alike, and figures are medians over rounds.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.bench import Bench
from tests.bench.client import Client, Result, client
from tests.bench.contestants import Contestant, roundhouse, upstream
from tests.bench.fetching import Unavailable
from tests.bench.peers import LITELLM, NGINX, PEERS, PORTKEY
from tests.bench.report import Bound, Figure, Report, at_least, at_most

ROUNDS, QUICK_ROUNDS = 15, 4
CLIENTS = 20
REQUESTS = {1: 100, CLIENTS: 400}
"""Requests of a round, by the number of clients."""
OF_LITELLM = {1: 10, CLIENTS: 100}
"""It takes fifteen times as long; five of each client's are as few as keep all of them asking."""
OF_PORTKEY = {1: 40, CLIENTS: 200}
"""Each of its streams takes 25 ms and more."""


def run(bench: Bench) -> Report:
    """Measure latency with one client, throughput with many, plain and streaming."""
    figures: list[Figure] = []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        contest = _start(bench, stack, Path(folder))
        for stream in (False, True):
            contest.warm(stream=stream)
            alone = contest.measure(stream=stream, clients=1)
            figures += _added(alone, stream=stream)
            together = contest.measure(stream=stream, clients=CLIENTS)
            figures += _throughput(together, contest.absent, stream=stream)
    return Report("overhead", "What a hop costs: plain answers, and streams of 50 chunks", tuple(figures))


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


class Contest:
    """Rounds of all contestants in turn. A peer that fails is left out from then on; ``absent`` has the reason."""

    def __init__(
        self, bench: Bench, load: Client, contestants: dict[str, Contestant], absent: dict[str, str]
    ) -> None:
        self.absent = absent
        self._bench = bench
        self._load = load
        self._contestants = contestants

    def warm(self, *, stream: bool) -> None:
        """Send uncounted requests, as many as a JIT compiler needs."""
        self._bench.say(f"warming all up, {_kind(stream)}")
        for name in list(self._contestants):
            self._round(name, stream=stream, clients=4)

    def measure(self, *, stream: bool, clients: int) -> dict[str, list[Result]]:
        """The rounds of each contestant that finished all of them."""
        results: dict[str, list[Result]] = {name: [] for name in self._contestants}
        step = f"{_kind(stream)}, {clients} clients" if clients > 1 else f"{_kind(stream)}, one client"
        for _ in self._bench.rounds(self._bench.pick(ROUNDS, QUICK_ROUNDS), step):
            for name in list(self._contestants):
                result = self._round(name, stream=stream, clients=clients)
                if result is not None:
                    results[name].append(result)
        return {name: results[name] for name in self._contestants}

    def _round(self, name: str, *, stream: bool, clients: int) -> Result | None:
        contestant = self._contestants[name]
        several = {LITELLM: OF_LITELLM, PORTKEY: OF_PORTKEY}.get(name, REQUESTS)
        requests = several[1 if clients == 1 else CLIENTS]
        asked = bodies(contestant.model, stream=stream)
        result = self._load.run(contestant.target(), asked, clients=clients, requests=requests)
        if not result.failed and not (stream and min(result.pieces) < 50):
            return result
        reason = f"{result.failed} of {requests} requests failed or came incomplete"
        if name not in PEERS:
            raise SystemExit(f"{name}: {reason}")
        self._bench.say(f"{name} is left out: {reason}")
        self.absent[name] = reason
        del self._contestants[name]
        return None


def _start(bench: Bench, stack: ExitStack, folder: Path) -> Contest:
    bench.say("starting the upstream and Roundhouse")
    behind = stack.enter_context(upstream())
    ours = stack.enter_context(roundhouse(folder / "roundhouse", behind))
    contestants = {"direct": behind, "Roundhouse": ours}
    absent: dict[str, str] = {}
    for name, start in PEERS.items():
        bench.say(f"starting {name}")
        try:
            contestants[name] = stack.enter_context(start(bench, folder / name.split("'", maxsplit=1)[0], behind))
        except Unavailable as error:
            absent[name] = str(error).splitlines()[0]
            bench.say(f"{name} is not compared: {error}")
    return Contest(bench, stack.enter_context(client()), contestants, absent)


def _kind(stream: bool) -> str:
    return "streaming" if stream else "plain"


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


def _throughput(results: dict[str, list[Result]], absent: dict[str, str], *, stream: bool) -> list[Figure]:
    rates = {
        name: statistics.median(len(result.whole) / result.elapsed for result in rounds)
        for name, rounds in results.items()
    }
    name = f"requests a second, {CLIENTS} clients, {_kind(stream)}"
    figures = [Figure(name, rates["Roundhouse"], "/s", None, rates)]
    bounds: dict[str, Bound | None] = {LITELLM: at_least(30 if stream else 15), PORTKEY: None, NGINX: None}
    for peer, bound in bounds.items():
        beside = f"... beside {peer}, {_kind(stream)}"
        if peer in rates:
            figures.append(Figure(beside, rates["Roundhouse"] / rates[peer], "times", bound))
        else:
            figures.append(Figure(beside, None, bound=bound, reason=absent[peer]))
    return figures
