"""Chat through the gateway beside the same worker's socket directly: tokens per second, time to first token.

The two are measured in turn, round by round, so that the machine's drift falls on both alike.
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
    "max_tokens": 96,
    "temperature": 0.8,
    "ignore_eos": True,
    "stream": True,
    "cache_prompt": False,
}
ROUNDS = 5


def run() -> Report:
    """Measure."""
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder, gateway(Path(folder), workers={"slots": 8}) as running:
        upstream = running.worker(MODEL)
        direct = {
            "url": upstream.base_url,
            "uds": upstream.uds,
            "key": upstream.api_key,
            "path": "/chat/completions",
        }
        through = {"url": f"{running.url}/v1", "uds": None, "key": None, "path": "/chat/completions"}
        for job in (direct, through):
            load({**job, "body": BODY, "streams": 2, "rounds": 1})
        for streams in (1, 4, 8):
            figures: dict[str, list[dict[str, Any]]] = {"direct": [], "through": []}
            for _ in range(ROUNDS):
                for name, job in (("direct", direct), ("through", through)):
                    figures[name].append(load({**job, "body": BODY, "streams": streams, "rounds": 1}))
            rates = {name: [run["rate"][0] for run in runs] for name, runs in figures.items()}
            ratio = statistics.median(t / d for t, d in zip(rates["through"], rates["direct"], strict=True))
            firsts = {
                name: statistics.median(value for run in runs for value in run["first"])
                for name, runs in figures.items()
            }
            middle = {name: statistics.median(values) for name, values in rates.items()}
            found.append(Figure(f"tokens a second, {streams} streams", ratio, "x direct", at_least(0.97), middle))
            later = (firsts["through"] - firsts["direct"]) * 1000
            times = {name: seconds * 1000 for name, seconds in firsts.items()}
            found.append(Figure(f"first token later, {streams} streams", later, "ms", at_most(5), times))
    return Report("chat", "Chat through Roundhouse beside the worker's own socket", tuple(found))
