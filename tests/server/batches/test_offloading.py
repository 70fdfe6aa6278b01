"""Lines for a provider with a batch API: sent once, followed over restarts, answered as their door answers."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from catalog.errors import ConfigurationError
from catalog.model import Price
from catalog.types import Json
from routing.accounts.caps import Caps
from routing.accounts.spend import Spend
from routing.accounts.virtual_keys import KeyLimits, Rate
from server.app import create_app
from server.assembly import open_runtime
from server.batches import offloading
from server.batches.journal import ResultJournal
from server.settings import Settings
from tests.backends.workers.conftest import fake_engines
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.server.batches.site import CHAT, EMBED, MESSAGES, PRICE, RESPONSES, Site, line, paths, timeless

Open = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloading, "FIRST_LOOK", 0.01)
    monkeypatch.setattr(offloading, "LAST_LOOK", 0.02)


@pytest.fixture
async def openai() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI(key="sk-fake") as running:
        yield running


@pytest.fixture
async def anthropic() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, openai: FakeOpenAI, anthropic: FakeAnthropic, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setenv("FAKE_OPENAI_KEY", "sk-fake")
    monkeypatch.setenv("FAKE_ANTHROPIC_KEY", anthropic.key)

    def row(name: str, endpoint: str, model: str, capability: str) -> Json:
        source = {"kind": "upstream", "endpoint": endpoint, "model": model}
        return {"id": name, "capabilities": [capability], "source": source, "price": PRICE}

    @asynccontextmanager
    async def opened(*, batches: bool = True, **overrides: Any) -> AsyncIterator[Site]:
        far = {"id": "far", "base_url": openai.base_url, "key_env": ["FAKE_OPENAI_KEY"], "batches": batches}
        messages = {"id": "claudes", "protocol": "anthropic", "base_url": anthropic.origin, "batches": batches}
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path / "data",
                "endpoint": [far, messages | {"key_env": ["FAKE_ANTHROPIC_KEY"]}],
                "model": [
                    row("gpt", "far", "fake-chat", "chat"),
                    row("reasoner", "far", "fake-chat", "chat") | {"wire": "responses"},
                    row("vector", "far", "fake-embed", "embed"),
                    row("claude", "claudes", "fake-claude", "chat"),
                ],
                **overrides,
            }
        )
        app = create_app(settings, open_runtime=partial(open_runtime, engines=fake_engines()))
        async with AsyncExitStack() as held:
            await held.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app=app)
            client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)
            await held.enter_async_context(client)
            yield Site(client, app.state.services, settings)

    return opened


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_lines_are_answered_by_one_batch_of_the_provider_at_half_the_price(
    site: Open, model: str, openai: FakeOpenAI, anthropic: FakeAnthropic
) -> None:
    async with site() as s:
        done = await s.until(await s.send(*(line(f"r{n}", model) for n in range(5))), "completed", "failed")
        assert done["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
        made = ["/v1/files", "/v1/batches"] if model == "gpt" else ["/v1/messages/batches"]
        assert paths(openai if model == "gpt" else anthropic) == made
        calls, cost = (await s.spent())[model]
        assert calls == 5
        direct = await s.client.post(CHAT, json=line("r0", model)["body"])
        whole = (await s.spent())[model][1] - cost
        assert cost == pytest.approx(5 * whole / 2)
        results = await s.content(done["output_file_id"])
        assert sorted(results) == [f"r{n}" for n in range(5)]
        for result in results.values():
            told = timeless(result["response"]["body"])
            told.pop("service_tier", None)
            plain = timeless(direct.json())
            plain.pop("service_tier", None)
            assert told == plain
        found = await s.client.get(f"/v1/traces/{results['r0']['response']['request_id']}")
        assert found.status_code == 200


async def test_a_batch_of_messages_goes_to_anthropic_as_it_is(site: Open, anthropic: FakeAnthropic) -> None:
    async with site() as s:
        body = {"model": "claude", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
        asked = {"requests": [{"custom_id": f"r{n}", "params": body} for n in range(3)]}
        made = (await s.client.post("/v1/messages/batches", json=asked)).json()
        async with asyncio.timeout(20):
            while (told := (await s.client.get(f"/v1/messages/batches/{made['id']}")).json())[
                "processing_status"
            ] != "ended":
                await asyncio.sleep(0.01)
        assert told["request_counts"]["succeeded"] == 3
        results = (await s.client.get(f"/v1/messages/batches/{made['id']}/results")).content
        rows = [orjson.loads(row) for row in results.splitlines()]
        assert {row["custom_id"] for row in rows} == {"r0", "r1", "r2"}
        direct = (await s.client.post("/v1/messages", json=body)).json()
        assert rows[0]["result"]["message"]["content"] == direct["content"]
        assert rows[0]["result"]["message"]["stop_reason"] == direct["stop_reason"]
        assert paths(anthropic)[0] == "/v1/messages/batches"


async def test_embeddings_are_sent_too(site: Open, openai: FakeOpenAI) -> None:
    async with site() as s:
        lines = [line(f"e{n}", "vector", EMBED, input=f"text {n}") for n in range(3)]
        done = await s.until(await s.send(*lines, endpoint=EMBED), "completed", "failed")
        results = await s.content(done["output_file_id"])
        direct = await s.client.post(EMBED, json=lines[1]["body"])
        assert results["e1"]["response"]["body"]["data"] == direct.json()["data"]
        assert paths(openai)[:2] == ["/v1/files", "/v1/batches"]


@pytest.mark.parametrize("url", [RESPONSES, CHAT])
async def test_a_row_of_the_responses_api_is_asked_over_it(site: Open, openai: FakeOpenAI, url: str) -> None:
    async with site() as s:
        asked = {"input": "Hi"} if url == RESPONSES else {}
        done = await s.until(
            await s.send(line("a", "reasoner", url, **asked), endpoint=url), "completed", "failed"
        )
        got = (await s.content(done["output_file_id"]))["a"]["response"]["body"]
        direct = (await s.client.post(url, json=line("a", "reasoner", url, **asked)["body"])).json()
        part = "output" if url == RESPONSES else "choices"
        assert timeless(got[part]) == timeless(direct[part])
        assert (await s.spent())["reasoner"][0] == 2
        assert [batch["endpoint"] for batch in openai.batches.values()] == [RESPONSES]


async def test_nothing_is_sent_unless_the_operator_wants_it(site: Open, openai: FakeOpenAI) -> None:
    async with site(batches=False) as s:
        await s.until(await s.send(line("a"), line("b")), "completed")
        assert paths(openai) == [CHAT, CHAT]


async def test_each_provider_has_its_own_lines_and_the_rest_is_asked_one_by_one(
    site: Open, openai: FakeOpenAI, anthropic: FakeAnthropic
) -> None:
    async with site() as s:
        batch = await s.send(
            line("a"), line("b", "claude"), line("c", "gpt", temperature="hot"), line("d", "auto")
        )
        told = await s.until(batch, "completed", "failed")
        assert told["status"] in ("completed", "failed")
        batch = await s.send(line("a"), line("b", "claude"))
        done = await s.until(batch, "completed")
        assert sorted(await s.content(done["output_file_id"])) == ["a", "b"]
        assert {told["model"] for told in await s.offloaded(batch)} == {"gpt", "claude"}


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_a_line_that_the_provider_refuses_is_an_error_of_its_own(
    site: Open, model: str, openai: FakeOpenAI, anthropic: FakeAnthropic
) -> None:
    openai.failing, anthropic.failing = {"2": 400}, {"2": "invalid_request_error"}
    async with site() as s:
        done = await s.until(await s.send(line("a", model), line("b", model), line("c", model)), "completed")
        assert done["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
        errors = await s.content(done["error_file_id"])
        assert errors["b"]["response"]["status_code"] == 400
        assert "This line was refused." in errors["b"]["response"]["body"]["error"]["message"]
        assert (await s.spent())[model][0] == 3


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_a_line_without_a_result_is_asked_as_any_other(
    site: Open, model: str, openai: FakeOpenAI, anthropic: FakeAnthropic
) -> None:
    openai.unanswered = anthropic.unanswered = {"2"}
    openai.ends_as = "expired"
    async with site() as s:
        done = await s.until(await s.send(line("a", model), line("b", model), line("c", model)), "completed")
        assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
        assert paths(openai if model == "gpt" else anthropic).count(CHAT if model == "gpt" else MESSAGES) == 1


async def test_a_fault_of_the_provider_at_a_line_is_no_result(site: Open, openai: FakeOpenAI) -> None:
    openai.failing = {"1": 500}
    async with site() as s:
        done = await s.until(await s.send(line("a"), line("b")), "completed")
        assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
        assert paths(openai).count(CHAT) == 1


@pytest.mark.parametrize("how", ["no_api", "failed", "gone"])
async def test_a_batch_that_the_provider_does_not_take_is_asked_line_by_line(
    site: Open, openai: FakeOpenAI, logs: io.StringIO, how: str
) -> None:
    if how == "no_api":
        openai.script(Fault(status=404, message="Invalid URL (POST /v1/files)"))
    elif how == "failed":
        openai.ends_as = "failed"
    else:
        openai.script(Fault(), Fault(), Fault(status=404, message="No batch found with this id."))
    async with site() as s:
        batch = await s.send(line("a"), line("b"))
        done = await s.until(batch, "completed")
        assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
        assert paths(openai).count(CHAT) == 2
        (told,) = await s.offloaded(batch)
        assert told["failure"]
        assert "batch.not_offloaded" in logs.getvalue()


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_a_batch_that_is_followed_after_a_death_is_not_sent_again(
    site: Open, model: str, openai: FakeOpenAI, anthropic: FakeAnthropic
) -> None:
    fake = openai if model == "gpt" else anthropic
    fake.finishing = False
    async with site() as s:
        batch = await s.send(line("a", model), line("b", model))
        await s.begun(batch)
        await s.die()
        fake.finishing = True
        s.revive()
        done = await s.until(batch, "completed")
        assert sorted(await s.content(done["output_file_id"])) == ["a", "b"]
        assert len(fake.batches) == 1
        assert (await s.spent())[model][0] == 2


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_a_batch_whose_id_was_lost_is_found_again(
    site: Open, model: str, openai: FakeOpenAI, anthropic: FakeAnthropic
) -> None:
    fake = openai if model == "gpt" else anthropic
    fake.script(
        *[Fault()] * (model == "gpt"), Fault(hold_after=0)
    )  # the batch is made, and its answer never comes
    async with site() as s:
        batch = await s.send(line("a", model), line("b", model))
        async with asyncio.timeout(20):
            while not fake.batches:
                await asyncio.sleep(0.01)
        await s.die()
        assert "id" not in (await s.offloaded(batch))[0]
        if model == "claude":  # its name is in its results alone
            for each in fake.batches.values():
                each["status"] = "in_progress"
        s.revive()
        if model == "claude":
            await asyncio.sleep(0.1)
            assert len(fake.batches) == 1, "a batch that may be ours is waited for"
            for each in fake.batches.values():
                each["status"] = "ended"
        done = await s.until(batch, "completed")
        assert sorted(await s.content(done["output_file_id"])) == ["a", "b"]
        assert len(fake.batches) == 1


@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_cancelling_cancels_at_the_provider_and_keeps_what_is_answered(
    site: Open, model: str, openai: FakeOpenAI, anthropic: FakeAnthropic
) -> None:
    fake = openai if model == "gpt" else anthropic
    fake.finishing = False
    fake.unanswered = {"2"}
    async with site() as s:
        batch = await s.send(line("a", model), line("b", model))
        await s.begun(batch)

        def untouched() -> bool:
            return all(each["status"] == "in_progress" for each in fake.batches.values())

        assert untouched()
        cancelling = asyncio.create_task(s.client.post(f"/v1/batches/{batch['id']}/cancel"))
        async with asyncio.timeout(20):
            while untouched():
                await asyncio.sleep(0.01)
        fake.finishing = True
        await cancelling
        done = await s.until(batch, "cancelled")
        assert any(path.endswith("/cancel") for path in paths(fake))
        assert sorted(await s.content(done["output_file_id"])) == ["a"]
        assert (await s.content(done["error_file_id"]))["b"]["error"]["code"] == "batch_cancelled"
        assert (await s.spent())[model][0] == 1


async def test_a_batch_that_expires_keeps_what_is_answered(site: Open, openai: FakeOpenAI) -> None:
    openai.finishing = False
    openai.unanswered = {"2"}
    async with site() as s:
        batch = await s.send(line("a"), line("b"))
        await s.begun(batch)
        await s.die()
        records, changed = s.runtime.storage.records, None
        while changed is None:
            record = await records.get("batch", batch["id"])
            assert record is not None
            changed = await records.replace(record.changed(expires_at=int(s.runtime.storage.now()) - 1))
        openai.finishing = True
        s.revive()
        done = await s.until(batch, "expired")
        assert sorted(await s.content(done["output_file_id"])) == ["a"]
        assert (await s.content(done["error_file_id"]))["b"]["error"]["code"] == "batch_expired"


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


async def test_a_key_asks_its_own_models_alone(site: Open, openai: FakeOpenAI) -> None:
    async with site(api_keys=["sk-admin-0123456789abcdef"]) as s:
        assert s.runtime.keys is not None
        made = await s.runtime.keys.create("app", models=("claude",))
        mine = {"authorization": f"Bearer {made.secret}"}
        done = await s.until(await s.send(line("a"), line("b", "claude"), **mine), "completed", **mine)
        assert sorted(await s.content(done["output_file_id"], **mine)) == ["b"]
        assert (await s.content(done["error_file_id"], **mine))["a"]["response"]["status_code"] == 403
        assert paths(openai) == []


async def test_a_batch_is_split_into_batches_that_the_provider_takes(
    site: Open, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offloading, "MOST_LINES", 2)
    async with site() as s:
        done = await s.until(await s.send(*(line(f"r{n}") for n in range(5))), "completed")
        assert len(openai.batches) == 3
        assert len(await s.content(done["output_file_id"])) == 5


async def test_the_files_of_a_batch_that_was_away_are_removed(site: Open) -> None:
    async with site() as s:
        batch = await s.send(line("a"))
        await s.until(batch, "completed")
        assert not list(s.runtime.files.folder.glob(f"{batch['id']}.*"))


def test_batches_need_a_protocol_that_has_them() -> None:
    from backends.registry import check_protocols
    from catalog.model import Endpoint

    with pytest.raises(ConfigurationError, match="batches: 'ollama' has no batch API"):
        check_protocols([Endpoint(id="g", protocol="ollama", base_url="https://g.example", batches=True)])


def test_the_batch_price_is_half_or_as_the_row_says() -> None:
    usual = Price(input=3.0, output=15.0, cache_read=0.3, web_search=10.0)
    half = usual.in_batches()
    assert (half.input, half.output, half.cache_read, half.web_search) == (1.5, 7.5, 0.15, 10.0)
    assert half.rates.of(("batch",), 1)[0].input == half.rates.standard.input
    assert Price(input=3.0, tiers={"batch": 0.25}).in_batches().input == 0.75
