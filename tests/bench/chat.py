"""Chat through the gateway beside the same worker's socket directly: tokens per second, time to first token.

The two are measured in turn, round by round, so that the machine's drift falls on both alike.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.gateway import gateway, load

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


def main() -> None:
    table = Table(title="Chat through Roundhouse / directly", header_style="bold")
    for column in (
        "streams",
        "tokens/s direct",
        "tokens/s through",
        "ratio",
        "bound",
        "first token + ms",
        "bound ms",
    ):
        table.add_column(column, justify="right")
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
            table.add_row(
                str(streams),
                f"{statistics.median(rates['direct']):.1f}",
                f"{statistics.median(rates['through']):.1f}",
                f"{ratio:.3f}",
                ">= 0.97",
                f"{(firsts['through'] - firsts['direct']) * 1000:.1f}",
                "<= 5",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
