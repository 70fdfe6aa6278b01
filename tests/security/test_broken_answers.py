"""A whole answer that breaks after its beginning is given by another candidate; a streamed one is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.security.conftest import OpenSite, rows

CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
PATHS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/messages", {**CHAT, "max_tokens": 5000}),
    ("/v1/responses", {"model": "auto", "input": "Hello"}),
]


@pytest.mark.parametrize(("path", "body"), PATHS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("fault", [Fault(die_after=3), Fault(cut_after=3), Fault(malformed_after=3)])
async def test_a_whole_answer_that_breaks_falls_back(
    site: OpenSite, provider: FakeOpenAI, path: str, body: dict[str, Any], fault: Fault
) -> None:
    base = rows(provider)
    async with site(model=[row for row in base["model"] if row["id"] in ("far", "farther")]) as running:
        provider.script(fault)
        answer = await running.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-roundhouse-attempts"] == "2"
        assert answer.text.count("quick brown fox") in (1, 2)  # an answer of the Responses API has its text twice
        assert "The quick brown fox jumps over the lazy dog." in answer.text
        provider.script(fault)
        streamed = await running.client.post(path, json={**body, "stream": True})
        assert '"error"' in streamed.text
        assert len(provider.calls) == 3


async def test_a_short_plain_answer_that_breaks_in_its_body_falls_back(
    site: OpenSite, provider: FakeOpenAI
) -> None:
    base = rows(provider)
    async with site(model=[row for row in base["model"] if row["id"] in ("far", "farther")]) as running:
        for fault in (Fault(die_after=0), Fault(bad_json=True)):
            provider.script(fault)
            answer = await running.client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 20})
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-roundhouse-attempts"] == "2"
