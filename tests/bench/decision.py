"""How long a routing decision takes: ``python -m tests.bench.decision``. Bound: 200 us median over 1,000 rows."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from backends.wire.chat import ChatRequest
from catalog.index import Index
from catalog.model import Capability, Limits, Model, Price, UpstreamSource
from routing.beliefs.estimator import Estimator
from routing.choosing.policy import plan
from routing.choosing.world import World
from routing.facts import Complexity, Facts, Intent, Task
from routing.plan import Block
from routing.reading.requests import read_chat
from routing.settings import RoutingSettings
from tests.bench.bench import Bench
from tests.bench.report import Figure, Report, at_most, show

ROWS = 1000
BOUND_US = 200.0


def catalogue(rows: int, rng: np.random.Generator) -> list[Model]:
    """Rows of many endpoints with prices, benchmarks and context windows of all sizes."""
    return [
        Model(
            id=f"model-{row}",
            provider="bench",
            capabilities=frozenset({Capability.CHAT, *((Capability.TOOLS,) if row % 2 else ())}),
            source=UpstreamSource(endpoint=f"endpoint-{row % 50}", model="any"),
            limits=Limits(context_window=4096 << row % 6),
            price=Price(input=float(rng.uniform(0, 5)), output=float(rng.uniform(0, 20))),
            benchmarks={"chat": float(rng.uniform(0.3, 0.9)), "code": float(rng.uniform(0.2, 0.9))},
        )
        for row in range(rows)
    ]


def world_of(rows: int, rng: np.random.Generator) -> World:
    """A world in which a third of the rows was observed and some are blocked."""
    index = Index(catalogue(rows, rng), version=1)
    estimator = Estimator()
    estimator.align(index)
    for row in range(0, rows, 3):
        for _ in range(3):
            estimator.observe_quality(f"model-{row}", Task.CHAT, Complexity.SIMPLE, float(rng.random() < 0.7))
    blocked = {f"model-{row}": Block("breaker_open", "failing") for row in range(0, rows, 97)}
    return World(index=index, estimator=estimator, now=0.0, blocked=blocked)


def median_us(call: object, repeats: int = 2000) -> tuple[float, float]:
    """Median and 99th percentile of a call's wall time, microseconds."""
    assert callable(call)
    times = []
    for _ in range(repeats):
        began = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - began) / 1000)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def run(bench: Bench) -> Report:
    """Time decisions and facts."""
    bench.say(f"a catalogue of {ROWS} rows")
    rng = np.random.default_rng(0)
    world, settings = world_of(ROWS, rng), RoutingSettings()
    body = ChatRequest.model_validate(
        {"model": "auto", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    )
    megabyte = body.model_copy(
        update={"messages": [body.messages[0].model_copy(update={"content": "word " * 210_000})]}
    )
    plain = read_chat(body)
    tools = Facts(
        capability=Capability.CHAT,
        features=frozenset({Capability.TOOLS}),
        prompt_tokens=3000,
        intent=Intent(max_cost=0.02, prefer_quality=True),
    )
    rows = {
        f"plan, chat, {ROWS} rows": median_us(lambda: plan(plain, world, settings, rng)),
        f"plan, tools and a cost limit, {ROWS} rows": median_us(lambda: plan(tools, world, settings, rng)),
        "read a small chat": median_us(lambda: read_chat(body)),
        "read a chat of 1 MB": median_us(lambda: read_chat(megabyte), 50),
        "learn from one outcome": median_us(
            lambda: world.estimator.observe_quality("model-5", Task.CHAT, Complexity.SIMPLE, 0.8)
        ),
    }
    figures = tuple(
        Figure(name, median, "us", at_most(BOUND_US) if name.startswith("plan") else None, {"p99": high})
        for name, (median, high) in rows.items()
    )
    return Report("decision", "A decision, median", figures)


def main() -> int:
    """Print the table; exit status 1 when the median of a decision is over its bound."""
    report = run(Bench("decision", Path()))
    show(report, Console(width=150))
    return int(bool(report.missed))


if __name__ == "__main__":
    sys.exit(main())
