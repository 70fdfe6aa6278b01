"""A provider that refuses every key answers the same for as long as the key is not mended."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from server.app import create_app
from server.settings import Settings
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [(401, 502, "upstream_rejected_key"), (403, 403, "upstream_forbidden")],
)
@pytest.mark.parametrize("model", ["far/m", "auto"])
async def test_every_request_gets_the_cause_while_the_keys_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, refusal: int, status: int, code: str
) -> None:
    monkeypatch.setenv("FAR_KEYS", "sk-wrong-0001,sk-wrong-0002")
    async with FakeOpenAI() as fake:
        fake.script(*[Fault(status=refusal, message="No access to this model.", code="model_not_allowed")] * 2)
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "endpoint": [{"id": "far", "base_url": fake.base_url, "key_env": ["FAR_KEYS"]}],
                "model": [
                    {
                        "id": "far/m",
                        "capabilities": ["chat"],
                        "source": {"kind": "upstream", "endpoint": "far", "model": "fake-chat"},
                    }
                ],
            }
        )
        app = create_app(settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as asking,
        ):
            answers = [await asking.post("/v1/chat/completions", json={"model": model, **CHAT}) for _ in range(3)]
        assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [(status, code)] * 3
        assert all("retry-after" not in answer.headers for answer in answers)
        assert len(fake.calls) == 2, "each key was tried once"
        for answer in answers[1:]:
            assert "FAR_KEYS" in answer.json()["error"]["message"]
            assert "sk-wrong" not in answer.text
