"""A request that a model's provider cannot carry closes that model for nobody else."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.pictures import encoded, quarters
from tests.fakes.server import Fault
from tests.security.conftest import PROVIDER_KEY, PROVIDER_KEY_ENV, OpenSite, assert_error, rows

BMP = "data:image/bmp;base64," + base64.b64encode(encoded(quarters(8, 6), "bmp")).decode()
PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": BMP}}]}


def chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}]}


async def test_requests_that_our_own_translation_refuses_close_no_model(
    site: OpenSite, provider: FakeOpenAI
) -> None:
    async with FakeAnthropic(key=PROVIDER_KEY) as claude, FakeGoogle(key=PROVIDER_KEY) as gemini:
        base = rows(provider)
        endpoint = [
            *base["endpoint"],
            {"id": "a", "protocol": "anthropic", "base_url": claude.origin, "key_env": [PROVIDER_KEY_ENV]},
            {"id": "g", "protocol": "google", "base_url": gemini.base_url, "key_env": [PROVIDER_KEY_ENV]},
        ]
        source = {"kind": "upstream", "endpoint": "a", "model": "claude-sonnet-4-5"}
        vectors = {"kind": "upstream", "endpoint": "g", "model": "gemini-embedding-001"}
        model = [
            *base["model"],
            {"id": "claude", "capabilities": ["chat", "vision"], "source": source},
            {"id": "gemini-vector", "capabilities": ["embed"], "source": vectors},
        ]
        async with site(endpoint=endpoint, model=model) as running:
            refused: list[tuple[str, dict[str, Any]]] = [
                ("/tokenize", {"model": "far", "content": "Hello"}),
                ("/v1/embeddings", {"model": "gemini-vector", "input": [[1, 2, 3]]}),
                ("/v1/chat/completions", {"model": "claude", "messages": [PICTURE]}),
            ]
            for path, body in refused:
                for _ in range(4):
                    answer = await running.client.post(path, json=body)
                    assert_error(answer, 400, "model_capability_mismatch")
            for path, body in (
                ("/v1/chat/completions", chat("far")),
                ("/v1/embeddings", {"model": "gemini-vector", "input": "Hello"}),
                ("/v1/chat/completions", chat("claude")),
            ):
                assert (await running.client.post(path, json=body)).status_code == 200


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


async def test_a_models_lack_of_tools_is_a_400_for_ever_and_ends_with_the_fix(
    site: OpenSite, provider: FakeOpenAI
) -> None:
    async with site() as running:
        provider.fault = Fault(status=400, message="registry.ollama.ai/library/far does not support tools")
        for _ in range(5):
            answer = await running.client.post("/v1/chat/completions", json={**chat("far"), "tools": [TOOL]})
            assert_error(answer, 400, "model_capability_mismatch")
        provider.fault = Fault()
        answer = await running.client.post("/v1/chat/completions", json={**chat("far"), "tools": [TOOL]})
        assert answer.status_code == 200


@pytest.mark.parametrize("message", ["'temperature' must be between 0 and 2.", "Invalid image data."])
async def test_a_malformed_request_is_the_callers_400_and_closes_nothing(
    site: OpenSite, provider: FakeOpenAI, message: str
) -> None:
    async with site() as running:
        provider.fault = Fault(status=400, message=message)
        for _ in range(5):
            answer = await running.client.post("/v1/chat/completions", json=chat("far"))
            assert message in assert_error(answer, 400, "invalid_request")["message"]
        provider.fault = Fault()
        assert (await running.client.post("/v1/chat/completions", json=chat("far"))).status_code == 200


@pytest.mark.parametrize(("status", "code"), [(429, "upstream_rate_limited"), (401, "upstream_rejected_key")])
async def test_one_models_limit_or_rejection_closes_no_other_model_of_the_endpoint(
    site: OpenSite, provider: FakeOpenAI, status: int, code: str
) -> None:
    async with site() as running:
        provider.fault = Fault(status=status, headers={"retry-after": "3600"})
        answer = await running.client.post("/v1/chat/completions", json=chat("far"))
        error = assert_error(answer, answer.status_code, code)
        if status != 401:
            assert int(answer.headers["retry-after"]) == pytest.approx(300, abs=5)
        assert status != 401 or PROVIDER_KEY_ENV in error["message"]
        provider.fault = Fault()
        answer = await running.client.post("/v1/chat/completions", json=chat("far"))
        error = assert_error(answer, 502 if status == 401 else 429, code)
        if status == 401:
            assert "retry-after" not in answer.headers, "waiting does not mend a refused key"
        else:
            assert int(answer.headers["retry-after"]) == pytest.approx(300, abs=5)
        assert status != 401 or PROVIDER_KEY_ENV in error["message"]
        assert (await running.client.post("/v1/chat/completions", json=chat("farther"))).status_code == 200
        vector = {"model": "vector", "input": "Hello"}
        assert (await running.client.post("/v1/embeddings", json=vector)).status_code == 200


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "Unsupported value: 'temperature' does not support 0.5 with this model. Only 1 is supported."),
        ("unsupported_value", "No."),
        (None, "This model does not support images of type image/bmp"),
    ],
)
async def test_a_refused_value_is_the_callers_400_and_closes_nothing(
    site: OpenSite, provider: FakeOpenAI, code: str | None, message: str
) -> None:
    async with site() as running:
        provider.fault = Fault(status=400, message=message, code=code)
        for _ in range(5):
            answer = await running.client.post("/v1/chat/completions", json={**chat("far"), "temperature": 0.5})
            assert message in assert_error(answer, 400, code or "unsupported_parameter")["message"]
        provider.fault = Fault()
        for model in ("far", "auto"):
            answer = await running.client.post("/v1/chat/completions", json={**chat(model), "temperature": 1})
            assert answer.status_code == 200


async def test_an_unknown_field_of_a_compaction_is_named_or_refused(site: OpenSite, provider: FakeOpenAI) -> None:
    body = {"model": "far", "input": "Hi", "zzz_unknown": 1}
    async with site() as running:
        answer = await running.client.post("/v1/responses/compact", json=body)
        assert "zzz_unknown" in answer.headers["x-roundhouse-dropped"].split(", ")
        refused = await running.client.post("/v1/responses/compact", json={**body, "strict": True})
        assert "zzz_unknown" in assert_error(refused, 400, "unsupported_parameter")["message"]


async def test_a_missing_path_is_the_upstreams_fault_and_ends_when_it_heals(
    site: OpenSite, provider: FakeOpenAI
) -> None:
    async with site() as running:
        for status in (404, 405):
            provider.fault = Fault(status=status, message="no Route matched")
            for _ in range(2):
                answer = await running.client.post("/v1/chat/completions", json=chat("far"))
                assert f"HTTP {status}" in assert_error(answer, 502, "upstream_error")["message"]
        provider.fault = Fault()
        assert (await running.client.post("/v1/chat/completions", json=chat("far"))).status_code == 200
