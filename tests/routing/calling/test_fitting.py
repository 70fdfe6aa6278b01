"""A request is fitted to the upstream that gets it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from routing.plan import Candidate, Plan, Strategy
from tests.routing.calling.scripted import FACTS, GOOD, REQUEST, Stand, remote


def will_ask_for(stand: Stand, effort: str) -> None:
    candidate = Candidate(remote("a"), 1.0, 0.5, 1.0, None, "cloud", "because", effort)
    stand.plans[:] = [Plan((candidate,), (), Strategy.PROFILE, "why")]


@pytest.mark.parametrize("drops", [(), ("reasoning_effort",)], ids=["has it", "has the nearest"])
async def test_the_routers_effort_is_asked_for_and_told(stand: Stand, drops: tuple[str, ...]) -> None:
    stand.backend.scripts, stand.backend.drops = {"a": GOOD}, drops
    will_ask_for(stand, "high")
    strict = replace(FACTS, intent=replace(FACTS.intent, strict=True))
    async with stand.dispatcher.open(stand.job(strict)) as answer:
        headers = answer.headers()
    assert headers["x-roundhouse-effort"] == "high"
    assert "x-roundhouse-dropped" not in headers
    assert stand.backend.requests[0].reasoning_effort == "high"


async def test_the_callers_own_effort_stays(stand: Stand) -> None:
    stand.backend.scripts = {"a": GOOD}
    will_ask_for(stand, "high")
    job = replace(stand.job(), request=REQUEST.model_copy(update={"reasoning_effort": "low"}))
    async with stand.dispatcher.open(job) as answer:
        assert "x-roundhouse-effort" not in answer.headers()
    assert stand.backend.requests[0].reasoning_effort == "low"


@pytest.mark.parametrize(("dollars", "effort"), [(0.002, None), (0.1, "high")])
async def test_much_reasoning_is_not_asked_for_where_a_limit_on_cost_leaves_it_no_room(
    stand: Stand, dollars: float, effort: str | None
) -> None:
    stand.backend.scripts = {"a": GOOD}
    will_ask_for(stand, "high")
    limited = replace(FACTS, intent=replace(FACTS.intent, max_cost=dollars))
    async with stand.dispatcher.open(stand.job(limited)) as answer:
        assert answer.headers().get("x-roundhouse-effort") == effort
    assert stand.backend.requests[0].reasoning_effort == effort
