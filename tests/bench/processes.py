"""Gateway processes: how throughput grows with ``--workers N`` on this machine's cores.

The upstream and the load client need cores as well, so on two of them the factor stays well below two.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench.client import Result, client
from tests.bench.contestants import roundhouse, upstream
from tests.bench.overhead import CLIENTS, bodies
from tests.bench.report import Figure, Report

ROUNDS, REQUESTS = 9, 400


def run() -> Report:
    """Measure one process beside as many as there are cores."""
    cores = os.cpu_count() or 1
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        behind = stack.enter_context(upstream())
        gateways = {
            number: stack.enter_context(
                roundhouse(Path(folder) / str(number), behind, *(("--workers", str(number)) if number > 1 else ()))
            )
            for number in (1, cores)
        }
        load = stack.enter_context(client())
        rates: dict[tuple[int, bool], list[float]] = {}
        for stream in (False, True):
            for number in [number for _ in range(ROUNDS) for number in gateways]:
                gateway = gateways[number]
                result: Result = load.run(
                    gateway.target(), bodies("auto", stream=stream), clients=CLIENTS, requests=REQUESTS
                )
                if result.failed:
                    raise SystemExit(f"{number} processes: {result.failed} requests failed")
                rates.setdefault((number, stream), []).append(REQUESTS / result.elapsed)
    figures = []
    for stream in (False, True):
        found = {f"{n} process{'es' * (n > 1)}": statistics.median(rates[n, stream]) for n in gateways}
        one, many = found.values() if len(found) > 1 else (1.0, 1.0)
        kind = "streaming" if stream else "plain"
        figures.append(Figure(f"throughput of {cores} processes, {kind}", many / one, "x one", None, found))
    return Report("processes", f"Gateway processes on {cores} cores", tuple(figures))
