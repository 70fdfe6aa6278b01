"""The batch APIs of Azure OpenAI and Gemini, behind the gateway's own batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from backends import azure_batches
from backends.registry import check_protocols
from catalog.errors import ConfigurationError
from catalog.model import Endpoint
from catalog.types import Json
from server.app import create_app
from server.batches import offloading
from server.settings import Settings
from tests.fakes.azure import FakeAzure
from tests.fakes.google_batches import FakeGeminiBatches
from tests.fakes.server import Fault
from tests.server.batches.site import CHAT, PRICE, Site, line, paths, timeless

Fake = FakeAzure | FakeGeminiBatches


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloading, "FIRST_LOOK", 0.01)
    monkeypatch.setattr(offloading, "LAST_LOOK", 0.02)
    monkeypatch.setattr(azure_batches, "WAIT", 0.01)


@pytest.fixture
async def azure() -> AsyncIterator[FakeAzure]:
    async with FakeAzure() as running:
        yield running


@pytest.fixture
async def google() -> AsyncIterator[FakeGeminiBatches]:
    async with FakeGeminiBatches() as running:
        yield running


@pytest.fixture
async def site(
    tmp_path: Path, azure: FakeAzure, google: FakeGeminiBatches, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    monkeypatch.setenv("FAKE_AZURE_KEY", azure.azure_key)
    monkeypatch.setenv("FAKE_GOOGLE_KEY", google.key)
    versioned = {"api-version": "2025-04-01-preview"}
    ends: list[Json] = [
        {"id": "az", "protocol": "azure", "base_url": azure.origin, "query": versioned},
        {"id": "goo", "protocol": "google", "base_url": google.base_url},
    ]
    rows = [("gpt", "az", "fake-chat", "chat"), ("gemini", "goo", "gemini-2.5-flash", "chat")]
    rows.append(("vector", "goo", "gemini-embedding-001", "embed"))
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path / "data",
            "endpoint": [
                {**end, "key_env": [f"FAKE_{end['protocol'].upper()}_KEY"], "batches": True} for end in ends
            ],
            "model": [
                {
                    "id": name,
                    "capabilities": [capability],
                    "source": {"kind": "upstream", "endpoint": endpoint, "model": model},
                    "price": PRICE,
                }
                for name, endpoint, model, capability in rows
            ],
        }
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://localhost", timeout=30
        ) as client,
    ):
        yield Site(client, app.state.services, settings)


def fake_of(model: str, azure: FakeAzure, google: FakeGeminiBatches) -> Fake:
    return azure if model == "gpt" else google


BEGINNING = {
    "gpt": ["/openai/files", "/openai/batches"],
    "gemini": ["/v1beta/models/gemini-2.5-flash:batchGenerateContent"],
}


@pytest.mark.parametrize("model", ["gpt", "gemini"])
@pytest.mark.parametrize("keyless", [False, True])
async def test_lines_are_answered_by_one_batch_at_half_the_price(
    site: Site, model: str, keyless: bool, azure: FakeAzure, google: FakeGeminiBatches
) -> None:
    google.keyless = keyless
    fake = fake_of(model, azure, google)
    done = await site.until(await site.send(*(line(f"r{n}", model) for n in range(3))), "completed", "failed")
    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert paths(fake) == BEGINNING[model]  # type: ignore[arg-type]
    calls, cost = (await site.spent())[model]
    assert calls == 3
    direct = await site.client.post(CHAT, json=line("r0", model)["body"])
    assert cost == pytest.approx(3 * ((await site.spent())[model][1] - cost) / 2)
    results = await site.content(done["output_file_id"])
    assert sorted(results) == ["r0", "r1", "r2"]
    message = direct.json()["choices"][0]["message"]
    for result in results.values():
        assert timeless(result["response"]["body"])["choices"][0]["message"]["content"] == message["content"]


async def test_azures_lines_name_their_deployment_and_no_version(site: Site, azure: FakeAzure) -> None:
    await site.until(await site.send(line("a", "gpt")), "completed")
    (row,) = azure.rows_of(next(iter(azure.deleted)))
    assert (row["url"], row["body"]["model"]) == ("/chat/completions", "fake-chat")


async def test_a_request_that_gemini_refuses_is_an_error_of_its_own(site: Site, google: FakeGeminiBatches) -> None:
    google.failing["2"] = 3
    done = await site.until(await site.send(line("a", "gemini"), line("b", "gemini")), "completed", "failed")
    assert sorted(await site.content(done["output_file_id"])) == ["a"]
    assert (await site.content(done["error_file_id"]))["b"]["response"]["status_code"] == 400


async def test_embeddings_are_asked_of_gemini_one_by_one(site: Site, google: FakeGeminiBatches) -> None:
    lines = [line(name, "vector", "/v1/embeddings", input=name) for name in ("a", "b")]
    done = await site.until(await site.send(*lines, endpoint="/v1/embeddings"), "completed", "failed")
    assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert not google.batches


@pytest.mark.parametrize("model", ["gpt", "gemini"])
async def test_a_batch_whose_id_was_lost_is_found_again(
    site: Site, model: str, azure: FakeAzure, google: FakeGeminiBatches
) -> None:
    fake = fake_of(model, azure, google)
    skipped = [Fault()] * 2 if model == "gpt" else []  # the upload, and a look at the file
    fake.script(*skipped, Fault(hold_after=0))  # the batch is made, and its answer never comes
    batch = await site.send(line("a", model), line("b", model))
    async with asyncio.timeout(20):
        while not fake.batches:
            await asyncio.sleep(0.01)
    await site.die()
    assert "id" not in (await site.offloaded(batch))[0]
    site.revive()
    done = await site.until(batch, "completed")
    assert sorted(await site.content(done["output_file_id"])) == ["a", "b"]
    assert len(fake.batches) == 1


@pytest.mark.parametrize("model", ["gpt", "gemini"])
async def test_cancelling_cancels_at_the_provider(
    site: Site, model: str, azure: FakeAzure, google: FakeGeminiBatches
) -> None:
    fake = fake_of(model, azure, google)
    fake.finishing = False
    batch = await site.send(line("a", model))
    await site.begun(batch)
    await site.client.post(f"/v1/batches/{batch['id']}/cancel")
    async with asyncio.timeout(20):
        while not any("cancel" in path for path in paths(fake)):  # type: ignore[arg-type]
            await asyncio.sleep(0.01)
    fake.finishing = True
    assert (await site.until(batch, "cancelled"))["status"] == "cancelled"


@pytest.mark.parametrize(
    "place", [{"protocol": "bedrock", "region": "us-east-1"}, {"protocol": "vertex", "project": "p"}]
)
def test_a_provider_whose_batches_need_a_bucket_is_refused_with_the_reason(place: dict[str, str]) -> None:
    endpoint = Endpoint.model_validate({"id": "x", "base_url": "https://x.example", "batches": True, **place})
    with pytest.raises(ConfigurationError, match="a bucket of your own"):
        check_protocols([endpoint])
