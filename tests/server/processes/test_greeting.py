"""The lines to paste after the start."""

from __future__ import annotations

import shlex
from pathlib import Path

from pydantic import SecretStr

from server.configuration.exposure import KEYS_MARK
from server.processes.greeting import pasteable
from server.settings import Settings


def test_three_lines_can_be_pasted_and_the_request_is_whole(tmp_path: Path) -> None:
    chat, request, variables = pasteable(Settings(data_dir=tmp_path), "http://0.0.0.0:8123")
    assert chat.endswith(" run")
    words = shlex.split(request)
    assert words[:2] == ["curl", "http://127.0.0.1:8123/v1/chat/completions"]
    assert '"model": "auto"' in words[-1]
    assert variables == "export OPENAI_BASE_URL=http://127.0.0.1:8123/v1 OPENAI_API_KEY=none"


def test_a_server_with_keys_says_where_the_key_goes(tmp_path: Path) -> None:
    locked = Settings(data_dir=tmp_path, api_keys=(SecretStr("secret-of-mine"),))
    lines = "\n".join(pasteable(locked, "http://127.0.0.1:8123"))
    assert "Bearer $ROUNDHOUSE_KEY" in lines
    assert "secret-of-mine" not in lines
    (tmp_path / KEYS_MARK).touch()
    assert "Bearer $ROUNDHOUSE_KEY" in pasteable(Settings(data_dir=tmp_path), "http://127.0.0.1:8123")[1]
