"""Rows that cannot be loaded spoil nothing but themselves, and each says what it lacks."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from tests.e2e.serving import served
from tests.fakes.gguf import chat_model


def test_a_row_whose_parts_cannot_be_opened_is_listed_with_the_reason_and_a_request_for_it_is_404(
    tmp_path: Path,
) -> None:
    (tmp_path / "whole.gguf").write_bytes(chat_model())
    (tmp_path / "not.gguf").write_text("hello")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo.gguf")
    broken = {
        "eyes": ("chat", "llamacpp", "whole.gguf", f'mmproj = "{tmp_path}/fifo.gguf"', "not a regular file"),
        "tuned": (
            "chat",
            "llamacpp",
            "whole.gguf",
            f'lora = [{{ path = "{tmp_path}/not.gguf" }}]',
            "no GGUF file",
        ),
        "quick": ("chat", "llamacpp", "whole.gguf", f'draft = "{tmp_path}/gone.gguf"', "there is no"),
        "maps": ("embed", "onnx", "folder", "", "tokenizer.json"),
        "plain": ("chat", "llamacpp", "whole.gguf", "", ""),
    }
    rows = "".join(
        f'[[model]]\nid = "{name}"\ncapabilities = ["{can}"]\nengine = "{engine}"\n'
        f'source = {{ kind = "path", path = "{tmp_path / file}" }}\noptions = {{ {options} }}\n'
        for name, (can, engine, file, options, _) in broken.items()
    )
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    (tmp_path / "roundhouse.toml").write_text(f'{rows}[workers.python]\nmlx = "{python}"\n')
    environment = {"ROUNDHOUSE_DATA_DIR": str(tmp_path / "data")}
    with served(tmp_path, environment=environment) as server:
        listed = {card["id"]: card for card in httpx.get(f"{server.v1}/models?all=true").json()["data"]}
        usable = {card["id"] for card in httpx.get(f"{server.v1}/models").json()["data"]}
        for name, (can, _, _, _, reason) in broken.items():
            assert listed[name]["available"] is (reason == "")
            assert reason in (listed[name]["unavailable_reason"] or "")
            assert (name in usable) is (reason == "")
            if not reason:
                continue
            path, asked = ("chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
            if can == "embed":
                path, asked = "embeddings", {"input": "Hi"}  # type: ignore[dict-item]
            answer = httpx.post(f"{server.v1}/{path}", json={"model": name, **asked})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_unavailable")
            assert reason in answer.json()["error"]["message"]
            assert ".." not in answer.json()["error"]["message"]
            loading = httpx.post(f"{server.v1}/models/{name}/load", json={})
            assert loading.status_code == 404
            assert reason in loading.json()["error"]["message"]
    log = server.log.read_text()
    assert f"{python} does not run: it ended with status 3" in log
