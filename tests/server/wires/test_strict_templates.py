"""Agents send system messages in the middle; a server whose template refuses them answers all the same."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from catalog.types import Json
from server.app import create_app
from server.settings import Settings
from tests.fakes.scripted import Scripted

DOORS: dict[str, Json] = {
    "/v1/chat/completions": {
        "messages": [
            {"role": "system", "content": "One."},
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "Two."},
        ]
    },
    "/v1/responses": {
        "instructions": "One.",
        "input": [{"role": "developer", "content": "Two."}, {"role": "user", "content": "Hi"}],
    },
    "/v1/messages": {
        "max_tokens": 50,
        "system": "One.",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Two."}],
    },
}


@pytest.mark.parametrize("path", DOORS)
async def test_late_system_messages_are_moved_for_a_server_that_refuses_them_and_it_is_told(
    tmp_path: Path, path: str
) -> None:
    async with Scripted(system_first=True) as strict:
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "endpoint": [{"id": "far", "protocol": "openai", "base_url": strict.base_url}],
                "model": [
                    {
                        "id": "capable",
                        "capabilities": ["chat", "tools"],
                        "source": {"kind": "upstream", "endpoint": "far", "model": "fake-chat"},
                    }
                ],
            }
        )
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as http,
        ):
            for _ in range(2):
                answer = await http.post(path, json={"model": "capable", **DOORS[path]})
                assert answer.status_code == 200, answer.text
                assert "messages.system" in answer.headers["x-roundhouse-dropped"].split(", ")
                first = strict.calls[-1].body["messages"][0]
                assert first == {"role": "system", "content": "One.\n\nTwo."}
        assert len(strict.refusals) == 1, "the server's refusal is remembered"
