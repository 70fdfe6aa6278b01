"""Embeddings of pictures: parts and chats as inputs, in the form that each server takes."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from backends.base import Upstream
from backends.openai.backend import OpenAIBackend
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from catalog.errors import CapabilityMismatch
from tests.fakes.google import FakeGoogle
from tests.fakes.openai import FakeOpenAI
from tests.fakes.pictures import encoded, quarters
from tests.security.conftest import OpenSite, logs, provider, rows, site

__all__ = ["logs", "provider", "site"]
RAW = base64.b64encode(encoded(quarters(8, 8))).decode()
PICTURE = f"data:image/png;base64,{RAW}"
PART = {"type": "image_url", "image_url": {"url": PICTURE}}
TEXT = {"type": "text", "text": "a cat"}


def seeing(provider: FakeOpenAI, **fields: Any) -> dict[str, Any]:
    """The rows of the site, with a model of vectors that sees."""
    given = rows(provider)
    vector = next(row for row in given["model"] if row["id"] == "vector")
    eye = {**vector, "id": "eye", "capabilities": ["embed", "vision"], **fields}
    return {**given, "model": [*given["model"], eye]}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ([PART], [[PART]]),
        ([{"image_url": PICTURE}, {"text": "a cat"}, "a dog"], [[PART], [TEXT], [{**TEXT, "text": "a dog"}]]),
        ([{"image": RAW}, {"image": PICTURE}], [[PART], [PART]]),
        ([{"content": [TEXT, PART]}], [[TEXT, PART]]),
    ],
)
async def test_each_input_becomes_a_chat_of_its_own(
    site: OpenSite, provider: FakeOpenAI, given: Any, sent: Any
) -> None:
    async with site(**seeing(provider)) as running:
        answer = await running.client.post(
            "/v1/embeddings", json={"model": "eye", "input": given, "dimensions": 4}
        )
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [row["index"] for row in found["data"]] == list(range(len(given)))
    assert {len(row["embedding"]) for row in found["data"]} == {4}
    assert found["usage"]["prompt_tokens"] > 0
    asked = [call.body for call in provider.calls]
    contents = [body["messages"][0]["content"] for body in asked]
    assert sorted(map(str, contents)) == sorted(map(str, sent))
    assert all("input" not in body and body["dimensions"] == 4 for body in asked)


async def test_a_chat_becomes_one_vector(site: OpenSite, provider: FakeOpenAI) -> None:
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Represent the picture."}]},
        {"role": "user", "content": [PART, TEXT]},
    ]
    async with site(**seeing(provider)) as running:
        answer = await running.client.post("/v1/embeddings", json={"model": "eye", "messages": messages})
    assert len(answer.json()["data"]) == 1
    assert provider.calls[-1].body["messages"] == messages


async def test_texts_in_parts_are_texts_for_every_model(site: OpenSite, provider: FakeOpenAI) -> None:
    async with site() as running:
        given = [{"type": "text", "text": "a cat"}, 'say "image" and {"text"}']
        answer = await running.client.post("/v1/embeddings", json={"model": "vector", "input": given})
        assert len(answer.json()["data"]) == 2
        assert provider.calls[-1].body["input"] == ["a cat", 'say "image" and {"text"}']


@pytest.mark.parametrize(
    "given", [[5, 6], [[5, 6], [7]], ["text", *['<img src="image.png">'] * 300], ['{"text": "image"}'] * 300]
)
async def test_texts_and_token_ids_stay_what_they_are_whatever_they_hold(
    site: OpenSite, provider: FakeOpenAI, given: Any
) -> None:
    async with site() as running:
        body = {"model": "vector", "input": given, "content": "a field of the caller's own"}
        answer = await running.client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    assert provider.calls[-1].body["input"] == given


async def test_a_model_that_sees_nothing_is_refused_and_auto_takes_one_that_does(
    site: OpenSite, provider: FakeOpenAI
) -> None:
    async with site(**seeing(provider)) as running:
        refused = await running.client.post("/v1/embeddings", json={"model": "vector", "input": [PART]})
        assert (refused.status_code, "vision" in refused.json()["error"]["message"]) == (400, True)
        answer = await running.client.post("/v1/embeddings", json={"input": [PART]})
        assert answer.json()["model"] == "eye"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [{"type": "image_url"}]}, "input[0]"),
        ({"input": [{"type": "text", "image_url": PICTURE}]}, "input[0]"),
        ({"input": [{"text": "a", "image": "b"}]}, "input[0]"),
        ({"input": [{"content": []}]}, "input[0]"),
        ({"input": [{"content": [TEXT], "text": "a"}]}, "input[0]"),
        ({"input": [{"image_url": {"href": "x"}}]}, "input[0]"),
        ({"input": [PART], "messages": [{"role": "user", "content": "a"}]}, "input"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages"),
        ({"input": [PART] * 257}, "input"),
    ],
)
async def test_an_input_of_another_shape_is_named(
    site: OpenSite, provider: FakeOpenAI, body: Any, param: str
) -> None:
    async with site(**seeing(provider)) as running:
        answer = await running.client.post("/v1/embeddings", json={"model": "eye", **body})
    assert answer.status_code == 400, answer.text
    assert str(answer.json()["error"]["param"]).startswith(param)
    assert provider.calls == []


async def test_coheres_pictures_and_mixed_inputs_are_embedded(site: OpenSite, provider: FakeOpenAI) -> None:
    async with site(**seeing(provider)) as running:
        images = {"model": "eye", "images": [PICTURE], "input_type": "image", "embedding_types": ["float"]}
        answer = await running.client.post("/v2/embed", json=images)
        assert len(answer.json()["embeddings"]["float"]) == 1
        mixed = {"model": "eye", "inputs": [{"content": [TEXT, PART]}], "input_type": "search_document"}
        answer = await running.client.post("/v2/embed", json=mixed)
        assert len(answer.json()["embeddings"]["float"]) == 1
        assert provider.calls[-1].body["messages"][0]["content"] == [TEXT, PART]


async def test_jinas_server_gets_jinas_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    async def post(upstream: Upstream, path: str, body: Any, param: str, *, room: int = 0) -> Any:
        sent.append(body["input"])
        return {"data": [{"index": at, "embedding": [1.0]} for at, _ in enumerate(body["input"])]}

    backend = OpenAIBackend(http=None)  # type: ignore[arg-type]
    monkeypatch.setattr(backend, "_post", post)
    at = Upstream("jina", "openai", "https://api.jina.ai/v1", "jina-embeddings-v4")
    request = MixedEmbeddingRequest.model_validate({"input": [PART, "a cat"]})
    await backend.embed_contents(at, request)
    assert sent == [[{"image": RAW}, {"text": "a cat"}]]
    with pytest.raises(CapabilityMismatch, match="not of both"):
        await backend.embed_contents(
            at, MixedEmbeddingRequest.model_validate({"input": [{"content": [TEXT, PART]}]})
        )


async def test_gemini_embeds_parts(site: OpenSite, provider: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_TEST_GOOGLE_KEY", "g-key")
    async with FakeGoogle(key="g-key") as google:
        model = "gemini-embedding-2"
        source = {"kind": "upstream", "endpoint": "google", "model": model}
        row = {"id": "gem", "capabilities": ["embed", "vision"], "source": source, "price": {"input": 1}}
        base = rows(provider)
        endpoint = {
            "id": "google",
            "protocol": "google",
            "base_url": google.base_url,
            "key_env": ["ROUNDHOUSE_TEST_GOOGLE_KEY"],
        }
        given = {"model": [*base["model"], row], "endpoint": [*base["endpoint"], endpoint]}
        async with site(**given) as running:
            body = {"model": "gem", "input": [{"content": [TEXT, PART]}], "dimensions": 4}
            answer = await running.client.post("/v1/embeddings", json=body)
        assert answer.status_code == 200, answer.text
        assert np.isclose(np.linalg.norm(answer.json()["data"][0]["embedding"]), 1)
        (sent,) = google.calls[-1].body["requests"]
        assert sent["content"]["parts"] == [
            {"text": "a cat"},
            {"inlineData": {"mimeType": "image/png", "data": RAW}},
        ]
