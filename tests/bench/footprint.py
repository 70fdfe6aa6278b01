"""The gateway's resident memory, its start, and the first token of a cold chat.

Starts find the modules compiled, as every start but the first one after an upgrade does.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import psutil

from tests.bench import fetching
from tests.bench.bench import Bench
from tests.bench.report import Figure, Report, at_most
from tests.e2e.serving import Served, served

RUNS, QUICK_RUNS = 5, 2
MODELS = ("smollm2-135m-instruct", "all-minilm-l6-v2", "hibari", "whisper-tiny.en")
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
"""Overrides an environment in which modules would be compiled at every start."""


def run(bench: Bench) -> Report:
    """Measure."""
    fetching.pull(bench, *MODELS)
    runs = bench.pick(RUNS, QUICK_RUNS)
    starts, processor, colds, gateways = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, _served(folder):
        pass
    for _ in bench.rounds(runs, "starting the gateway, loading every starter model"):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            with _served(folder) as server:
                starts.append(time.perf_counter() - began)
                processor.append(sum(psutil.Process(server.process.pid).cpu_times()[:2]))
                colds.append(_first_token(server.v1))
                _warm_all(server.v1)
                gateways.append(psutil.Process(server.process.pid).memory_info().rss / 1e6)
    bench.say("importing")
    bare = [_seconds("pass") for _ in range(runs)]
    imports = [_seconds("import server.app, server.assembly") for _ in range(runs)]
    own = statistics.median(starts) - statistics.median(bare)
    figures = (
        Figure("processor time of a start", statistics.median(processor), "s"),
        Figure("import", statistics.median(imports) - statistics.median(bare), "s"),
        Figure("typed to ready", statistics.median(starts), "s"),
        Figure("import and start, without Python's own", own, "s", at_most(1.5)),
        Figure("cold auto chat to its first token", statistics.median(colds), "s", at_most(3)),
        Figure("resident with all starters loaded", statistics.median(gateways), "MB", at_most(150)),
    )
    return Report("footprint", "The gateway alone; every worker is a process of its own", figures)


def _served(folder: str) -> AbstractContextManager[Served]:
    return served(Path(folder), environment=COMPILED | fetching.own_data(Path(folder)))


def _seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **COMPILED})
    return time.perf_counter() - began


def _first_token(url: str) -> float:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "stream": True, "max_tokens": 4}
    began = time.perf_counter()
    with (
        httpx.Client(trust_env=False, timeout=60) as client,
        client.stream("POST", f"{url}/chat/completions", json=body) as response,
    ):
        for line in response.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return time.perf_counter() - began
    raise SystemExit("no token came")


def _warm_all(url: str) -> None:
    with httpx.Client(trust_env=False, timeout=120, base_url=url) as client:
        client.post("/embeddings", json={"model": "all-minilm-l6-v2", "input": ["x"] * 64}).raise_for_status()
        speech = client.post("/audio/speech", json={"model": "hibari", "input": "One two three."})
        speech.raise_for_status()
        client.post(
            "/audio/transcriptions", data={"model": "whisper-tiny.en"}, files={"file": ("x.mp3", speech.content)}
        ).raise_for_status()
