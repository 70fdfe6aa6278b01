"""Lines for a provider with a batch API: sent once, followed over restarts, answered as their door answers."""

from __future__ import annotations

import asyncio
import io

import orjson
import pytest

from catalog.errors import ConfigurationError
from catalog.model import Price
from server.batches import offloading
from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.openai import FakeOpenAI
from tests.fakes.server import Fault
from tests.server.batches.site import CHAT, EMBED, MESSAGES, RESPONSES, Open, line, paths, timeless


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


@pytest.mark.parametrize("when", ["begin", "look"])
async def test_a_batch_api_that_fails_is_told_of_while_it_does_and_logged_once(
    site: Open, openai: FakeOpenAI, logs: io.StringIO, when: str
) -> None:
    openai.finishing = False
    async with site() as s:
        if when == "begin":
            openai.fault = Fault(status=500, message="Out of order.")
        batch = await s.send(line("a"))
        if when == "look":
            await s.begun(batch)
            openai.fault = Fault(status=500, message="Out of order.")
        async with asyncio.timeout(20):
            while "notice" not in (told := (await s.client.get(f"/v1/batches/{batch['id']}")).json()):
                await asyncio.sleep(0.01)
            failed = len(openai.calls)
            while len(openai.calls) < failed + 5:
                await asyncio.sleep(0.01)
        assert told["status"] == "in_progress"
        assert "The provider's batch API fails at present" in told["notice"]
        assert "Out of order." in told["notice"]
        event = "batch.not_begun" if when == "begin" else "batch.not_seen"
        assert logs.getvalue().count(event) == 1
        openai.fault, openai.finishing = Fault(), True
        done = await s.until(batch, "completed")
        assert (done["request_counts"]["completed"], "notice" in done) == (1, False)
        assert paths(openai).count(CHAT) == 0
        assert logs.getvalue().count(event) == 1


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
        asked = len(fake.calls)
        s.revive()
        if model == "claude":
            async with asyncio.timeout(20):
                while len(fake.calls) < asked + 3:  # some looks
                    await asyncio.sleep(0.01)
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


async def test_batches_that_wait_for_a_provider_stop_no_other_batch(
    site: Open, openai: FakeOpenAI, anthropic: FakeAnthropic
) -> None:
    openai.finishing = False
    async with site(storage={"batches": 1}) as s:
        away = [await s.send(line("a")), await s.send(line("b"))]
        for batch in away:
            await s.begun(batch)
        done = await s.until(await s.send(line("c", "claude")), "completed")
        assert list(await s.content(done["output_file_id"])) == ["c"]
        openai.finishing = True
        for batch in away:
            await s.until(batch, "completed")
