"""The cost of each shared operation for Redis, measured, and its meaning for 1,000 gateways and 10,000 workers.

One gateway asks a fast upstream with its state in a Redis of its own, for callers of each kind, and Redis' own
counters tell the commands, bytes and processor time of a request, and of a second in which nothing is asked. From
these :func:`project` computes a fleet, and :func:`told` simulates, with a seed, how many calls of a fleet fail
before every gateway knows that an upstream died. docs/scale.md has the arithmetic.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from tests.bench.bench import Bench
from tests.bench.client import Target, client
from tests.bench.contestants import roundhouse, started, upstream
from tests.bench.fetching import Unavailable
from tests.bench.report import Figure, Report, at_most

ADMIN = "admin-of-the-bench"
CLIENTS = 20
IDLE = 5.0
"""Seconds in which nothing is asked."""
LIMITS = {"requests": {"minute": 10_000_000}, "tokens": {"day": 10_000_000_000}, "spend": {"day": 1_000_000}}
BUSY = 0.6
"""The share of a Redis' one core that a plan may use: bursts and its own housekeeping have the rest."""


@dataclass(frozen=True)
class Cost:
    """The cost of a request, or of an idle second of a gateway: commands, bytes, and seconds of Redis' core."""

    commands: float
    bytes: float
    seconds: float

    def less(self, other: Cost, times: float) -> Cost:
        """This cost without so many times another."""
        return Cost(
            max(0.0, self.commands - other.commands * times),
            max(0.0, self.bytes - other.bytes * times),
            max(0.0, self.seconds - other.seconds * times),
        )

    def over(self, count: float) -> Cost:
        """This cost for each of so many."""
        return Cost(self.commands / count, self.bytes / count, self.seconds / count)


@dataclass(frozen=True)
class Fleet:
    """Gateways, and the requests a second that they get together."""

    gateways: int
    requests: float


@dataclass(frozen=True)
class Plan:
    """One Redis under a fleet: its core, its network, and the cells into which the fleet has to be cut."""

    core: float
    megabytes: float
    cells: int


def project(fleet: Fleet, request: Cost, idle: Cost, more: Cost, network: float = 1_000.0) -> Plan:
    """The load of a Redis that a whole fleet shares, and how many cells of equal size bring it within bounds.

    A gateway reads what the others wrote once a second: each second costs ``idle``, and ``more`` for each other
    gateway of the cell. ``network`` is what a server's network carries, in megabytes a second.
    """

    def load(cells: int) -> tuple[float, float]:
        gateways, requests = fleet.gateways / cells, fleet.requests / cells
        others = max(0.0, gateways - 1)
        core = requests * request.seconds + gateways * (idle.seconds + more.seconds * others)
        return core, (requests * request.bytes + gateways * (idle.bytes + more.bytes * others)) / 1e6

    cells = next(
        number
        for number in range(1, fleet.gateways + 1)
        if number == fleet.gateways or (load(number)[0] <= BUSY and load(number)[1] <= network * BUSY)
    )
    core, megabytes = load(1)
    return Plan(core, megabytes, cells)


def told(gateways: int, rate: float, *, interval: float, threshold: int, seed: int, alone: bool = False) -> int:
    """Calls that fail after an upstream died, until all gateways leave it alone.

    ``rate`` calls a second come to each gateway, which opens its breaker after ``threshold`` failures, or at its
    next exchange with the store after another one has opened; with ``alone`` there is no exchange.
    """
    draw = random.Random(seed)
    opened = float("inf")  # when the first open breaker is in the store
    calls: list[tuple[float, int]] = []
    horizon = threshold / rate * 3 + 3 * interval
    phases = [draw.uniform(0, interval) for _ in range(gateways)]
    for gateway in range(gateways):
        at = draw.expovariate(rate)
        while at < horizon:
            calls.append((at, gateway))
            at += draw.expovariate(rate)
    failures = [0] * gateways
    failed = 0
    for at, gateway in sorted(calls):
        if failures[gateway] >= threshold:
            continue
        if not alone and opened < _last_exchange(at, phases[gateway], interval):
            failures[gateway] = threshold
            continue
        failed += 1
        failures[gateway] += 1
        if failures[gateway] == threshold:
            opened = min(opened, _last_exchange(at, phases[gateway], interval) + interval)
    return failed


def _last_exchange(at: float, phase: float, interval: float) -> float:
    return phase + (at - phase) // interval * interval


@contextmanager
def _redis(folder: Path) -> Iterator[tuple[str, Redis]]:
    if shutil.which("redis-server") is None:
        raise Unavailable("redis-server is not installed")
    folder.mkdir()
    socket = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    with started(command, cwd=folder) as process:
        end = time.monotonic() + 10
        while not socket.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        with Redis(unix_socket_path=str(socket), decode_responses=True) as watched:
            yield f"unix://{socket}", watched


def _counters(redis: Redis) -> Cost:
    info: Any = redis.info()
    size = info["total_net_input_bytes"] + info["total_net_output_bytes"]
    return Cost(info["total_commands_processed"], size, info["used_cpu_user"] + info["used_cpu_sys"])


def _since(before: Cost, after: Cost) -> Cost:
    return Cost(
        after.commands - before.commands, after.bytes - before.bytes, max(0.0, after.seconds - before.seconds)
    )


def _key(base: str, limits: Mapping[str, Any]) -> str:
    """A new key with these limits."""
    request = urllib.request.Request(
        base.removesuffix("/v1") + "/v1/admin/keys",
        data=json.dumps({"name": "bench", "limits": limits}).encode(),
        headers={"authorization": f"Bearer {ADMIN}", "content-type": "application/json"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        secret: str = json.loads(answer.read())["secret"]
    return secret


def run(bench: Bench) -> Report:
    """Measure, then project."""
    requests = bench.pick(4000, 600)
    chat = {"model": "bench-fast", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}
    with (
        tempfile.TemporaryDirectory() as name,
        upstream() as behind,
        client() as load,
        _redis(Path(name) / "redis") as (url, redis),
        roundhouse(
            Path(name) / "ours",
            behind,
            environment={
                "ROUNDHOUSE_STATE__URL": url,
                "ROUNDHOUSE_ADMIN_KEYS": ADMIN,
                "ROUNDHOUSE_SERVER__LIMITS__CONCURRENCY": "1000",
            },
        ) as ours,
    ):
        limited = {"authorization": f"Bearer {_key(ours.base, LIMITS)}"}
        operators = ours.target().headers
        kinds: dict[str, tuple[str, Mapping[str, str], dict[str, Any]]] = {
            "chat, an operator's key": ("/chat/completions", operators, chat),
            "chat, a key with limits and a cap": ("/chat/completions", limited, chat),
            "response that is stored, the same key": (
                "/responses",
                limited,
                {"model": "bench-fast", "input": "Hello", "max_output_tokens": 50, "store": True},
            ),
        }
        costs = {}
        for kind, (path, headers, body) in kinds.items():
            bench.say(f"{requests} times: {kind}")
            costs[kind] = _measured(redis, load, Target(ours.base + path, dict(headers)), body, requests)
        bench.say(f"{IDLE:g} seconds of nothing, of one gateway and of three")
        idle = _idle(redis)
        with (
            roundhouse(Path(name) / "second", behind, environment={"ROUNDHOUSE_STATE__URL": url}),
            roundhouse(Path(name) / "third", behind, environment={"ROUNDHOUSE_STATE__URL": url}),
        ):
            more = _idle(redis).over(3).less(idle, 1).over(2)
    return _report(costs, idle, more)


def _idle(redis: Redis) -> Cost:
    time.sleep(2.0)
    before = _counters(redis)
    time.sleep(IDLE)
    return _since(before, _counters(redis)).over(IDLE)


def _measured(redis: Redis, load: Any, target: Target, body: dict[str, Any], requests: int) -> Cost:
    load.run(target, [body], clients=CLIENTS, requests=CLIENTS * 4)
    before = _counters(redis)
    result = load.run(target, [body], clients=CLIENTS, requests=requests)
    if result.failed:
        raise SystemExit(f"{result.failed} of {requests} requests failed")
    time.sleep(1.5)  # what is written in the background
    return _since(before, _counters(redis)).over(requests)


def _report(costs: Mapping[str, Cost], idle: Cost, more: Cost) -> Report:
    figures = []
    for kind, cost in costs.items():
        figures.append(
            Figure(
                f"{kind}: microseconds of Redis' core",
                cost.seconds * 1e6,
                "µs",
                None,
                {"commands": cost.commands, "bytes": cost.bytes},
            )
        )
    figures.append(
        Figure(
            "an idle gateway, a second",
            idle.seconds * 1e6,
            "µs",
            None,
            {"commands": idle.commands, "bytes": idle.bytes},
        )
    )
    figures.append(
        Figure(
            "the same for each other gateway",
            more.seconds * 1e6,
            "µs",
            None,
            {"commands": more.commands, "bytes": more.bytes},
        )
    )
    limited = costs["chat, a key with limits and a cap"]
    for fleet in (Fleet(3, 3_000), Fleet(50, 50_000), Fleet(1_000, 1_000_000)):
        plan = project(fleet, limited, idle, more)
        figures.append(
            Figure(
                f"{fleet.gateways:,} gateways, {fleet.requests:,.0f} requests/s: cells",
                plan.cells,
                "",
                None,
                {"cores of one Redis": plan.core, "MB/s of one Redis": plan.megabytes},
            )
        )
    alone = told(1_000, 10, interval=1.0, threshold=5, seed=1, alone=True)
    shared = told(1_000, 10, interval=1.0, threshold=5, seed=1)
    figures.append(
        Figure(
            "an upstream dies, 1,000 gateways with 10 calls/s each: calls that fail",
            shared / alone,
            "of those without a shared state",
            at_most(1.0),
            {"shared": shared, "alone": alone},
        )
    )
    return Report("scale", "What a shared Redis carries", tuple(figures))
