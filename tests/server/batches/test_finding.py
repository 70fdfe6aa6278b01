"""A provider's batch whose id was lost is found by its name, whatever the provider's clock says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from backends.anthropic.batches import AnthropicBatches
from backends.base import Upstream
from backends.deferred.api import CLOCK_SKEW, BatchCall, Batches, BatchLine
from backends.google.batches import GeminiBatches
from backends.http import HttpClient
from backends.openai.batches import OpenAIBatches
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.google_batches import FakeGeminiBatches
from tests.fakes.openai import FakeOpenAI
from tests.server.batches.site import CHAT, Open, line, paths

SINCE = 1_700_000_000.75
BODY = {"model": "fake-chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("behind", [0.75, CLOCK_SKEW - 1])
@pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
async def test_a_batch_is_found_though_the_providers_clock_is_behind_or_counts_whole_seconds(
    provider: str, behind: float
) -> None:
    api: Batches
    fake: FakeOpenAI | FakeAnthropic | FakeGeminiBatches
    http = HttpClient()
    at, call = SINCE - behind, BatchCall("/chat/completions")
    if provider == "openai":
        fake, api = FakeOpenAI(key="sk-fake"), OpenAIBatches(http)
        fake.made_at = at
        base, key = "/v1", "sk-fake"
    elif provider == "anthropic":
        fake, api = FakeAnthropic(), AnthropicBatches(http)
        fake.made_at = _iso(int(at))
        base, key = "", fake.key
    else:
        fake, api = FakeGeminiBatches(), GeminiBatches(http)
        fake.made_at = _iso(int(at))
        base, key = "/v1beta", fake.key
        call = BatchCall("/models/gemini-2.5-flash:streamGenerateContent")
    body = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]} if provider == "google" else BODY
    async with fake, http:
        upstream = Upstream("far", provider, fake.origin + base, "m", api_key=key)
        mine = await api.begin(upstream, "batch_a-1", call, [BatchLine("batch_a-1-1", body)])
        await api.begin(upstream, "batch_b-1", call, [BatchLine("batch_b-1-1", body)])
        for batch in fake.batches:
            await api.look(upstream, batch)  # they end
        assert (await api.find(upstream, "batch_a-1", SINCE, 1)).id == mine
        assert (await api.find(upstream, "batch_c-1", SINCE, 1)).id is None


async def test_a_batch_that_was_made_though_the_provider_answered_with_a_fault_is_not_made_again(
    site: Open, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site() as s:
        made, document = list[str](), openai.document
        openai.made_at = s.runtime.storage.now() - 1.0

        async def failing(request, call, told):  # type: ignore[no-untyped-def]
            if call.path == "/v1/batches" and call.method == "POST" and not made:
                made.append(told["id"])
                return openai.refused(call, 500, "Something went wrong.")
            return await document(request, call, told)

        monkeypatch.setattr(openai, "document", failing)
        done = await s.until(await s.send(line("a"), line("b")), "completed")
        assert sorted(await s.content(done["output_file_id"])) == ["a", "b"]
        assert list(openai.batches) == made
        assert CHAT not in paths(openai)
