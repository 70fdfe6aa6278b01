"""The time that storing adds to a response: with ``store: true`` beside ``store: false``.

Rounds are interleaved, so that other load on the machine falls on both alike; figures are medians over rounds.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.bench import Bench
from tests.bench.client import client
from tests.bench.contestants import roundhouse, upstream
from tests.bench.report import Figure, Report, at_most

ROUNDS, QUICK_ROUNDS = 20, 6
REQUESTS = 100


def run(bench: Bench) -> Report:
    """Measure latency with one client."""
    middles: dict[bool, list[float]] = {False: [], True: []}
    with (
        tempfile.TemporaryDirectory() as folder,
        upstream() as behind,
        client() as load,
        roundhouse(Path(folder) / "roundhouse", behind) as ours,
    ):
        for number in bench.rounds(bench.pick(ROUNDS, QUICK_ROUNDS), "stored and not"):
            for store in (True, False) if number % 2 else (False, True):
                result = load.run(ours.target("/responses"), [body(store=store)], clients=1, requests=REQUESTS)
                if result.failed:
                    raise SystemExit(f"{result.failed} of {REQUESTS} requests failed")
                middles[store].append(statistics.median(result.whole) * 1000)
    times = {"stored": statistics.median(middles[True]), "not stored": statistics.median(middles[False])}
    added = times["stored"] - times["not stored"]
    figure = Figure("storing a response adds, p50", added, "ms", at_most(0.3), times)
    return Report("storing", "What storing a response costs", (figure,))


def body(*, store: bool) -> dict[str, Any]:
    """A request for a response of 50 words."""
    asked = {"model": "auto", "input": "What is the capital of France?", "max_output_tokens": 50}
    return {**asked, "store": store}
