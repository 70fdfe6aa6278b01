"""Gateway processes: how ``--workers N`` grows with the machine's cores, with every count still right.

The upstream and the load client need cores as well, so on a small machine throughput alone says little: on two
cores two gateways share them with two more processes. Processor time predicts the throughput on free cores: the
work of a request, all processes together, and how evenly the gateways share it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.bench.bench import Bench
from tests.bench.client import Client, client
from tests.bench.contestants import METRICS_KEY, Contestant, roundhouse, upstream
from tests.bench.overhead import CLIENTS, bodies
from tests.bench.report import Figure, Report, at_least

ROUNDS, QUICK_ROUNDS, REQUESTS = 9, 2, 400
SCALED = 0.75
"""The least throughput on free cores, as a fraction of their number."""


@dataclass
class Measured:
    """Rounds of one gateway: requests a second, and the seconds of processor time of each of its processes."""

    rates: list[float] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The median."""
        return statistics.median(self.rates)

    @property
    def work(self) -> float:
        """Milliseconds of processor time for each request, all processes together."""
        return sum(self.seconds.values()) / (len(self.rates) * REQUESTS) * 1000

    @property
    def bottleneck(self) -> float:
        """Milliseconds of the busiest process for each request: the bound where cores are free."""
        return max(self.seconds.values()) / (len(self.rates) * REQUESTS) * 1000


def run(bench: Bench) -> Report:
    """Measure one process beside as many as there are cores."""
    rounds = bench.pick(ROUNDS, QUICK_ROUNDS)
    cores = max(2, os.cpu_count() or 1)
    figures: list[Figure] = []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        bench.say(f"starting gateways of 1 and of {cores} processes")
        behind = stack.enter_context(upstream())
        gateways = {
            number: stack.enter_context(
                roundhouse(Path(folder) / str(number), behind, *(("--workers", str(number)) if number > 1 else ()))
            )
            for number in (1, cores)
        }
        load = stack.enter_context(client())
        for gateway in gateways.values():
            _round(load, gateway, Measured(), stream=False)
        for stream in (False, True):
            measured = {number: Measured() for number in gateways}
            kind = "streaming" if stream else "plain"
            for _ in bench.rounds(rounds, kind):
                for number, gateway in gateways.items():
                    _round(load, gateway, measured[number], stream=stream)
            figures += _figures(measured[1], measured[cores], cores, kind)
        for gateway in gateways.values():
            _check_count(gateway, (2 * rounds + 1) * REQUESTS)
    note = f"{cores} cores for the gateways, the upstream and the client; /metrics counted every request of all"
    return Report("processes", f"Gateway processes on {cores} cores", tuple(figures), note)


def _round(load: Client, gateway: Contestant, measured: Measured, *, stream: bool) -> None:
    before = _processor_seconds(gateway)
    result = load.run(gateway.target(), bodies("auto", stream=stream), clients=CLIENTS, requests=REQUESTS)
    if result.failed:
        raise SystemExit(f"{result.failed} requests failed")
    measured.rates.append(REQUESTS / result.elapsed)
    for pid, seconds in _processor_seconds(gateway).items():
        measured.seconds[pid] = measured.seconds.get(pid, 0.0) + seconds - before[pid]


def _processor_seconds(gateway: Contestant) -> dict[int, float]:
    parent = psutil.Process(gateway.pid)
    times = {process.pid: process.cpu_times() for process in (parent, *parent.children())}
    return {pid: time.user + time.system for pid, time in times.items()}


def _figures(one: Measured, many: Measured, cores: int, kind: str) -> Sequence[Figure]:
    several = f"{cores} processes"
    shares = sorted((seconds / sum(many.seconds.values()) for seconds in many.seconds.values()), reverse=True)
    beside = {"1 process": one.bottleneck, several: many.bottleneck}
    return (
        Figure(
            f"throughput of {several} beside client and upstream, {kind} (requests a second)",
            many.rate / one.rate,
            "x one",
            None,
            {"1 process": one.rate, several: many.rate},
        ),
        Figure(
            f"processor time of a request, all processes, {kind} (ms)",
            many.work / one.work,
            "x one",
            None,
            {"1 process": one.work, several: many.work},
        ),
        Figure(f"the busiest process's share of it, {kind}", shares[0] * 100, "%"),
        Figure(
            f"what {cores} free cores would give by it, {kind} (ms of the busiest process)",
            one.bottleneck / many.bottleneck,
            "x one",
            at_least(SCALED * cores),
            beside,
        ),
    )


def _check_count(gateway: Contestant, requests: int) -> None:
    """Fail unless one scrape counts every request of all processes once."""
    headers = {"authorization": f"Bearer {METRICS_KEY}"}
    asked = urllib.request.Request(f"{gateway.base.removesuffix('/v1')}/metrics", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(asked, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    wanted = 'roundhouse_requests_total{method="POST",route="/v1/chat/completions"'
    counted = sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(wanted))
    if counted != requests:
        raise SystemExit(f"/metrics counted {counted:g} requests of {requests}")
