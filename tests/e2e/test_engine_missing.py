"""A model whose engine is not installed where the settings say it is."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from catalog.installing import install_command
from tests.e2e.serving import served


def test_the_answer_names_the_extra_and_the_interpreter_that_wants_it(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho mlx_lm\n")  # the answer of an interpreter that lacks the package
    python.chmod(0o755)
    (tmp_path / "roundhouse.toml").write_text(
        f"[workers.python]\nmlx = {json.dumps(str(python))}\n"
        '[[model]]\nid = "apple"\nengine = "mlx"\ncapabilities = ["chat"]\n'
        f'source = {{ kind = "path", path = {json.dumps(str(tmp_path))} }}\n'
    )
    with served(tmp_path) as server:
        row = httpx.get(f"{server.v1}/models/apple").json()
        body = {"model": "apple", "messages": [{"role": "user", "content": "Hi."}]}
        answer = httpx.post(f"{server.v1}/chat/completions", json=body)
    assert (row["engine"], row["available"]) == ("mlx", False)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == "engine_missing"
    assert install_command("mlx", python=str(python)) in error["message"]
