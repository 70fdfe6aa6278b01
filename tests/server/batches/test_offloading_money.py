"""Money of lines that a provider's own batch API answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from routing.accounts.caps import Caps
from routing.accounts.spend import Spend
from routing.accounts.virtual_keys import KeyLimits, Rate
from server.batches.journal import ResultJournal
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.server.batches.site import CHAT, PRICE, Open, line, paths


async def test_money_is_reserved_while_a_batch_is_away(site: Open, openai: FakeOpenAI) -> None:
    openai.finishing = False
    async with site(spend={"caps": {"day": 1.0}}) as s:
        batch = await s.send(line("a"), line("b"))
        await s.begun(batch)
        (usage,) = s.runtime.spend.cap_usage("")
        (told,) = await s.offloaded(batch)
        assert told["amount"] > 0
        assert usage.spent == pytest.approx(told["amount"])
        openai.finishing = True
        await s.until(batch, "completed")
        (usage,) = s.runtime.spend.cap_usage("")
        assert usage.spent == pytest.approx((await s.spent())["gpt"][1])


@pytest.mark.parametrize("dying", [0, 1, 2])
@pytest.mark.parametrize("caps", [{}, {"day": 1.0}])
async def test_a_line_that_was_booked_when_the_process_died_is_not_booked_again(
    site: Open, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, dying: int, caps: dict[str, float]
) -> None:
    async with site(spend={"caps": caps}) as s:
        reached = asyncio.Event()
        add, added = ResultJournal.add, list[Any]()

        async def die_before(journal: ResultJournal, *result: Any) -> None:
            if len(added) == dying:
                reached.set()
                await asyncio.Event().wait()
            added.append(result)
            await add(journal, *result)

        with monkeypatch.context() as patch:
            patch.setattr(ResultJournal, "add", die_before)
            patch.setattr(Spend, "release", lambda *_: None)  # a killed process releases nothing
            batch = await s.send(line("a"), line("b"), line("c"))
            async with asyncio.timeout(20):
                await reached.wait()
            await s.die()
        await s.runtime.spend.start()
        s.revive()
        done = await s.until(batch, "completed")
        assert sorted(await s.content(done["output_file_id"])) == ["a", "b", "c"]
        await s.runtime.spend.refresh()
        assert (await s.spent())["gpt"][0] == 3
        for usage in s.runtime.spend.cap_usage(""):
            assert usage.spent == pytest.approx((await s.spent())["gpt"][1])


@pytest.mark.parametrize("room", [1.3, 0.7, 0.3])
async def test_the_part_of_a_batch_that_fits_a_cap_is_sent_and_the_rest_is_refused_at_the_batch_price(
    site: Open, openai: FakeOpenAI, room: float
) -> None:
    one = (50 * PRICE["output"] + 9 * PRICE["input"]) / 1e6
    async with site(spend={"caps": {"day": room * one}}) as s:
        batch = await s.send(*(line(f"r{n}") for n in range(6)))
        done = await s.until(batch, "completed")
        assert CHAT not in paths(openai), "nothing is asked at the full price"
        assert done["request_counts"]["total"] == 6
        assert (await s.spent()).get("gpt", (0, 0.0))[1] <= room * one
        assert bool(openai.batches) == (room > 0.5), "a line costs half in a batch"
        assert (done["request_counts"]["completed"] >= 1) == (room > 0.5)
        refused = done["request_counts"]["failed"]
        if refused:
            errors = (await s.content(done["error_file_id"])).values()
            told = [error["response"]["body"]["error"] for error in errors]
            assert {error["code"] for error in told} == {"insufficient_quota"}
        if room == 0.7:
            assert f"{refused} lines were refused" in done["notice"]
            assert all("not asked at the full price" in error["message"] for error in told)


@pytest.mark.parametrize("how", ["no_api", "failed", "unanswered"])
async def test_the_operator_forbids_the_full_price(site: Open, openai: FakeOpenAI, how: str) -> None:
    if how == "no_api":
        openai.script(Fault(status=404, message="Invalid URL (POST /v1/files)"))
    elif how == "failed":
        openai.ends_as = "failed"
    else:
        openai.unanswered, openai.ends_as = {"2"}, "expired"
    async with site(storage={"batch_fallback": False}) as s:
        done = await s.until(await s.send(line("a"), line("b")), "completed")
        refused = 1 if how == "unanswered" else 2
        assert done["request_counts"] == {"total": 2, "completed": 2 - refused, "failed": refused}
        assert CHAT not in paths(openai)
        assert f"{refused} lines were refused" in done["notice"]
        error = (await s.content(done["error_file_id"]))["b"]["response"]["body"]["error"]
        assert "storage.batch_fallback" in error["message"]


async def test_a_batch_says_which_lines_were_asked_at_the_full_price_and_why(
    site: Open, openai: FakeOpenAI
) -> None:
    openai.ends_as = "failed"
    async with site() as s:
        done = await s.until(await s.send(line("a"), line("b")), "completed")
        assert "2 lines were asked one by one, at the full price" in done["notice"]
        assert "Enqueued token limit reached." in done["notice"]
        openai.ends_as = "completed"
        done = await s.until(await s.send(line("a")), "completed")
        assert "notice" not in done


@pytest.mark.parametrize("ends_as", ["completed", "failed"])
async def test_the_input_of_a_providers_batch_is_deleted_there(
    site: Open, openai: FakeOpenAI, ends_as: str
) -> None:
    openai.ends_as = ends_as
    async with site() as s:
        await s.until(await s.send(line("a"), line("b")), "completed")
        (made,) = openai.batches.values()
        assert made["input_file_id"] not in openai.contents


async def test_answers_are_booked_and_kept_though_the_cap_is_reached_meanwhile(
    site: Open, openai: FakeOpenAI
) -> None:
    openai.finishing = False
    async with site(spend={"caps": {"day": 1.0}}) as s:
        batch = await s.send(line("a"), line("b"))
        await s.begun(batch)
        s.runtime.spend.configure(
            s.settings.spend.model_copy(
                update={"caps": s.settings.spend.caps.model_copy(update={"day": 0.0000001})}
            )
        )
        openai.finishing = True
        done = await s.until(batch, "completed")
        assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
        assert paths(openai).count(CHAT) == 0


@pytest.mark.parametrize(
    ("limits", "sent"),
    [(KeyLimits(requests=Rate(minute=100)), False), (KeyLimits(), True), (KeyLimits(spend=Caps(day=1.0)), True)],
)
async def test_lines_of_a_key_with_limits_of_rate_are_asked_one_by_one(
    site: Open, openai: FakeOpenAI, limits: KeyLimits, sent: bool
) -> None:
    async with site(api_keys=["sk-admin-0123456789abcdef"]) as s:
        assert s.runtime.keys is not None
        made = await s.runtime.keys.create("app", limits=limits)
        mine = {"authorization": f"Bearer {made.secret}"}
        done = await s.until(await s.send(line("a"), line("b"), **mine), "completed", **mine)
        assert sorted(await s.content(done["output_file_id"], **mine)) == ["a", "b"]
        assert ("/v1/batches" in paths(openai)) is sent


async def test_a_providers_batch_is_made_once_the_account_is_open_again(site: Open, openai: FakeOpenAI) -> None:
    used_up = Fault(status=429, message="You exceeded your current quota.", code="insufficient_quota")
    openai.script(*[used_up] * 8)
    async with site() as s:
        done = await s.until(await s.send(line("a"), line("b")), "completed")
        assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
        assert CHAT not in paths(openai), "nothing is asked at the full price"
        assert len(openai.batches) == 1
