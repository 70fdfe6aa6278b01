"""Every bash and python example of README and of the documentation runs against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.settings import load_settings
from tests.docs.pages import Example, examples
from tests.e2e.serving import Served

EXAMPLES = list(examples("bash", "python"))


def test_the_pages_have_examples_for_every_endpoint() -> None:
    text = "".join(example.code for example in EXAMPLES)
    for used in (
        "chat/completions",
        "chat.completions.create",
        "v1/completions",
        "embeddings.create",
        "v1/rerank",
        "v1/classify",
        "v1/moderations",
        "v1/messages",
        "responses.create",
        "audio.speech.create",
        "audio/transcriptions",
        "realtime.connect",
        "realtime/client_secrets",
        "v1/models",
        "v1/route",
        "/tokenize",
        "/metrics",
    ):
        assert used in text, f"no page shows a use of {used}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_example_runs(example: Example, server: Served, tmp_path: Path) -> None:
    code = example.code.replace("http://localhost:8000", server.url)
    if example.language == "bash":
        code = "set -euo pipefail\n" + code.replace("curl ", "curl --silent --show-error --fail-with-body ")
        command = ["bash", "-c", code]
    else:
        command = [sys.executable, "-c", code]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ROUNDHOUSE_DATA_DIR": str(load_settings().data_dir),
        "ROUNDHOUSE_URL": server.url,
    }
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    written = [path for path in tmp_path.iterdir() if path.stat().st_size > 0]
    assert done.stdout.strip() or written, "the example showed nothing"
