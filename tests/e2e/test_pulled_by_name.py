"""A model is pulled by its short name from a hub, and answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.serving import served
from tests.fakes.hub import FakeHub, Repository, serve

pytestmark = pytest.mark.engine


def test_a_model_pulled_by_its_short_name_answers(gguf: Path, tmp_path: Path) -> None:
    # The starter model's file stands for the one of 360 million weights, which no package index has.
    files = {f"SmolLM2-360M-Instruct-{name}.gguf": gguf.read_bytes() for name in ("Q4_K_M", "Q8_0")}
    with serve(FakeHub({"bartowski/SmolLM2-360M-Instruct-GGUF": Repository(files)})) as hub:
        environment = {"HF_ENDPOINT": hub.address, "ROUNDHOUSE_DATA_DIR": str(tmp_path / "data")}
        pull = subprocess.run(
            [sys.executable, "-m", "server.cli", "pull", "smollm2:360m"],
            cwd=tmp_path, env={**os.environ, **environment},
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert pull.stdout == "smollm2-360m is ready\n"
    with served(tmp_path, environment=environment) as server, httpx.Client(trust_env=False, timeout=120) as client:
        question = "What is the capital of France? Answer in one sentence."
        for name in ("smollm2:360m", "SmolLM2-360M"):
            body = {"model": name, "messages": [{"role": "user", "content": question}], "max_tokens": 30}
            answer = client.post(f"{server.v1}/chat/completions", json=body).json()
            assert answer["model"] == "smollm2-360m"
            assert "Paris" in answer["choices"][0]["message"]["content"]
