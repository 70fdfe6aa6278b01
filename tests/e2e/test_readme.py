"""Every bash and python example of README.md runs against a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from server.settings import load_settings
from tests.e2e.serving import Served

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(bash|python)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def _title(index: int) -> str:
    language, code = EXAMPLES[index]
    path = re.search(r"localhost:8000(/[\w/.-]*)", code)
    return f"{index}-{language}{path.group(1) if path else ''}"


def test_readme_has_examples_for_every_endpoint() -> None:
    text = "".join(code for _, code in EXAMPLES)
    for used in (
        "chat/completions",
        "chat.completions.create",
        "v1/completions",
        "embeddings.create",
        "v1/rerank",
        "v1/classify",
        "audio.speech.create",
        "audio/transcriptions",
        "v1/models",
        "/tokenize",
        "/metrics",
    ):
        assert used in text, f"README shows no use of {used}"


def test_the_settings_examples_are_read_as_they_stand(tmp_path: Path) -> None:
    example = "\n".join(re.findall(r"^```toml\n(.*?)^```", README, re.DOTALL | re.MULTILINE))
    file = tmp_path / "roundhouse.toml"
    file.write_text(example)
    settings = load_settings(file)
    catalog = Catalog.load(user_models=settings.model, user_endpoints=settings.endpoint)
    assert catalog.resolve("qwen3-8b").engine == "llamacpp"
    assert catalog.endpoint("lab").private
    assert settings.spend.caps.day == 5.0


@pytest.mark.parametrize("index", range(len(EXAMPLES)), ids=_title)
def test_example_runs(index: int, server: Served, tmp_path: Path) -> None:
    language, code = EXAMPLES[index]
    code = code.replace("http://localhost:8000", server.url)
    if language == "bash":
        code = "set -euo pipefail\n" + code.replace("curl ", "curl --silent --show-error --fail-with-body ")
        command = ["bash", "-c", code]
    else:
        command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    written = [path for path in tmp_path.iterdir() if path.stat().st_size > 0]
    assert done.stdout.strip() or written, "the example showed nothing"
