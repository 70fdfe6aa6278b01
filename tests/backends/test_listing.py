"""The lists of Anthropic and Google as rows. Their SDKs read the fakes' lists, which so have the right form."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from anthropic.types import ModelInfo
from google.genai import Client
from google.genai.types import HttpOptions

from backends.anthropic import AnthropicBackend
from backends.base import Discover, Upstream
from backends.google import GoogleBackend
from backends.http import HttpClient
from catalog.discovery import FoundRows
from catalog.errors import UpstreamProtocolError, UpstreamRejectedKey
from catalog.model import Capability, Endpoint
from catalog.types import Json
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.google import FakeGoogle

CLAUDE = Endpoint(id="anthropic", protocol="anthropic", base_url="https://api.anthropic.com")
GEMINI = Endpoint(id="google", protocol="google", base_url="https://generativelanguage.googleapis.com/v1beta")
DAY = datetime(2026, 9, 1, tzinfo=UTC).isoformat()


def claude(name: str, *, lifecycle: str = "active", **supported: bool) -> Json:
    """A ``ModelInfo``, checked."""
    yes, no = {"supported": True}, {"supported": False}
    told: dict[str, Any] = {
        name: yes if supported.get(name) else no
        for name in ("batch", "citations", "code_execution", "image_input", "pdf_input", "structured_outputs")
    }
    types = dict.fromkeys(("adaptive", "enabled", "disabled", "between_tools"), yes)
    told["thinking"] = {**(yes if supported.get("thinking") else no), "types": types}
    told["effort"] = {**no, **dict.fromkeys(("low", "medium", "high", "max", "xhigh"), no)}
    told["context_management"] = dict(no)
    searches = yes if supported.get("web_search") else no
    told["server_tools"] = {**searches, "web_search": searches, "code_execution": no}
    info = {
        "type": "model",
        "id": name,
        "display_name": name.title(),
        "created_at": DAY,
        "lifecycle": lifecycle,
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
        "capabilities": told,
    }
    ModelInfo.model_validate(info)
    return info


async def claude_rows(fake: FakeAnthropic, key: str | None = None) -> FoundRows:
    async with HttpClient() as http:
        backend = AnthropicBackend(http)
        assert isinstance(backend, Discover)
        upstream = Upstream("anthropic", "anthropic", fake.origin, "", api_key=key or fake.key)
        rows = await backend.list_models(upstream, CLAUDE)
        assert isinstance(rows, FoundRows)
        return rows


async def test_anthropics_list_has_limits_and_capabilities_of_every_page() -> None:
    async with FakeAnthropic() as fake:
        fake.listed = [
            claude(
                "claude-opus-9",
                image_input=True,
                pdf_input=True,
                thinking=True,
                structured_outputs=True,
                web_search=True,
            ),
            claude("claude-haiku-9-20260901") | {"lifecycle": "deprecated", "retires_at": "2027-03-01T00:00:00Z"},
            claude("claude-old-1", lifecycle="retired"),
        ]
        async with AsyncAnthropic(base_url=fake.origin, api_key=fake.key, max_retries=0) as sdk:
            assert [model.id async for model in sdk.models.list(limit=1)] == [one["id"] for one in fake.listed]
        fake.calls.clear()
        opus, haiku = await claude_rows(fake)
        assert [call.query.get("after_id") for call in fake.calls] == [
            None,
            "claude-opus-9",
            "claude-haiku-9-20260901",
        ]
        with pytest.raises(UpstreamRejectedKey):
            await claude_rows(fake, "sk-ant-other")
        fake.listed = []
        assert await claude_rows(fake) == []
    assert (opus.id, opus.limits.context_window, opus.limits.max_output_tokens) == (
        "anthropic/claude-opus-9",
        200_000,
        64_000,
    )
    chats = {Capability.CHAT, Capability.TOOLS, Capability.PARALLEL_TOOLS}
    assert haiku.capabilities == chats
    assert (opus.ends, haiku.ends) == (None, date(2027, 3, 1))
    assert opus.capabilities == chats | {
        Capability.VISION,
        Capability.DOCUMENTS,
        Capability.REASONING,
        Capability.JSON_SCHEMA,
        Capability.WEB_SEARCH,
    }


def gemini(name: str, *methods: str, **fields: Any) -> Json:
    return {
        "name": f"models/{name}",
        "displayName": name.title(),
        "version": "001",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": list(methods),
        **fields,
    }


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")  # of Google's SDK
async def test_googles_list_has_what_each_model_is_called_for() -> None:
    async with FakeGoogle() as fake:
        fake.listed = [
            gemini("gemini-9-pro", "generateContent", "countTokens", thinking=True),
            gemini("gemma-9-27b-it", "generateContent"),
            gemini("gemini-embedding-9", "embedContent", inputTokenLimit=2048),
            gemini("gemini-9-flash-tts", "generateContent"),
            gemini("gemini-nano-banana-9", "generateContent"),
            gemini("gemini-9-flash-live", "bidiGenerateContent"),
            gemini("imagen-9", "predict"),
        ]
        sdk = Client(api_key=fake.key, http_options=HttpOptions(base_url=fake.origin, api_version="v1beta"))
        named = [model.name async for model in await sdk.aio.models.list(config={"page_size": 2})]
        assert named == [one["name"] for one in fake.listed]
        upstream = Upstream("google", "google", fake.base_url, "", api_key=fake.key)
        async with HttpClient() as http:
            backend = GoogleBackend(http)
            assert isinstance(backend, Discover)
            pro, gemma, embedder, painter = await backend.list_models(upstream, GEMINI)
    assert (pro.id, pro.limits.context_window, pro.limits.max_output_tokens) == (
        "google/gemini-9-pro",
        1_048_576,
        65_536,
    )
    assert pro.capabilities >= {Capability.CHAT, Capability.TOOLS, Capability.VISION, Capability.REASONING}
    assert gemma.capabilities == {Capability.CHAT}
    assert painter.capabilities == {Capability.IMAGE, Capability.IMAGE_EDIT}
    assert embedder.capabilities == {Capability.EMBED}
    assert embedder.limits.max_input_tokens == 2048
    assert embedder.limits.context_window is None


async def test_a_list_of_another_shape_is_an_error_of_the_provider() -> None:
    async with FakeAnthropic() as fake:
        fake.document = _strange(fake)  # type: ignore[method-assign]
        with pytest.raises(UpstreamProtocolError):
            await claude_rows(fake)


def _strange(fake: FakeAnthropic) -> Any:
    plain = fake.document

    async def document(request: Any, call: Any, payload: Any) -> Any:
        return await plain(request, call, {"models": []})

    return document
