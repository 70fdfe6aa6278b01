"""The SDKs through a real server: the usage report follows the tier that served, and ends of models are told."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.e2e.providers import endpoint, model, providers
from tests.e2e.serving import served
from tests.fakes.openai import FakeOpenAI

PRICE = {
    "input": 1000,
    "output": 1000,
    "cache_read": 1000,
    "cache_write": 1000,
    "tiers": {"flex": 0.5, "priority": 2},
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("prices")
    upstream = FakeOpenAI()
    with providers(upstream):
        rows = endpoint("far", upstream)
        rows += model("chats", "fake-chat", at="far", capabilities=["chat"], price=PRICE)
        rows += model("responds", "fake-chat", at="far", capabilities=["chat"], wire="responses", price=PRICE)
        rows += model("partly", "fake-chat", at="far", capabilities=["chat"], price={"input": 1000})
        rows += model("gone", "fake-chat", at="far", capabilities=["chat"], successor="chats").replace(
            'id = "gone"', 'id = "gone"\nends = 2026-01-01'
        )
        (folder / "roundhouse.toml").write_text(rows)
        with served(folder, environment={"ROUNDHOUSE_DATA_DIR": str(folder / "data")}) as running:
            yield running.v1


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as sdk:
        yield sdk


def booked(address: str, name: str) -> dict[str, Any]:
    """The sums of a model in the usage report; those of calls that just ended may take a moment."""
    report = httpx.get(f"{address}/usage", params={"by": "model"}).json()
    rows = [row for row in report["data"] if row["model"] == name]
    return rows[0] if rows else {"cost": "0", "unknown_cost_calls": 0}


@pytest.mark.parametrize("name", ["chats", "responds"])
@pytest.mark.parametrize(("tier", "factor"), [("default", 1), ("flex", "0.5"), ("priority", 2)])
def test_a_chat_and_a_response_cost_what_their_tier_does(
    address: str, client: openai.OpenAI, name: str, tier: Any, factor: Any
) -> None:
    before = Decimal(booked(address, name)["cost"])
    chat = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "Hi"}], service_tier=tier
    )
    assert chat.usage is not None
    assert chat.service_tier == tier
    after = Decimal(booked(address, name)["cost"])
    assert after - before == chat.usage.total_tokens * Decimal(factor) / 1000
    response = client.responses.create(model=name, input="Hi", service_tier=tier)
    assert response.usage is not None
    assert Decimal(booked(address, name)["cost"]) - after == response.usage.total_tokens * Decimal(factor) / 1000


def test_a_part_without_a_price_is_counted_as_unknown_and_the_rest_is_booked(
    address: str, client: openai.OpenAI
) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model="partly", messages=[{"role": "user", "content": "Hi"}]
    )
    usage = answer.parse().usage
    assert usage is not None
    row = booked(address, "partly")
    assert (row["unknown_cost_calls"], Decimal(row["cost"])) == (1, Decimal(usage.prompt_tokens) / 1000)
    trace = httpx.get(f"{address}/traces/{answer.headers['x-roundhouse-trace']}").json()
    assert trace["attempts"][0]["unknown_parts"] == ["output"]


def test_a_model_past_its_end_answers_by_name_with_a_notice_and_never_under_auto(
    address: str, client: openai.OpenAI
) -> None:
    said = "gone ended on 2026-01-01; use chats"
    ask: Any = {"messages": [{"role": "user", "content": "Hi"}]}
    assert (
        client.chat.completions.with_raw_response.create(model="gone", **ask).headers["x-roundhouse-notice"]
        == said
    )
    with client.chat.completions.with_streaming_response.create(model="gone", stream=True, **ask) as streamed:
        assert streamed.headers["x-roundhouse-notice"] == said
    with anthropic.Anthropic(base_url=address.removesuffix("/v1"), api_key="none", max_retries=0) as sdk:
        raw = sdk.messages.with_raw_response.create(model="gone", max_tokens=9, **ask)
    assert raw.headers["x-roundhouse-notice"] == said
    assert client.models.retrieve("gone").shutdown_date == "2026-01-01"
    route = httpx.post(f"{address}/route", json={"model": "auto", **ask}).json()
    assert {"gone"} == {each["model"] for each in route["excluded"] if each["code"] == "ends"}
