"""The line of a request: its model, tokens, time to first token and cost, within the width of a terminal."""

from __future__ import annotations

import asyncio
import io
import re
from typing import Any

import orjson
import pytest

from catalog.model import Capability
from routing.facts import Facts
from routing.outcomes import Outcome, Result, Usage
from server.edge.access_log import AccessLine, Served
from server.observability.logging import Console, configure_structlog
from server.observability.settings import LogSettings
from server.observability.totals import RequestTotals, Totals, begin_totals, end_totals
from tests.fakes.openai import FakeOpenAI
from tests.security.conftest import CHAT, OpenSite, logs, provider, site
from tests.server.conftest import Start

__all__ = ["logs", "provider", "site"]
AT = "2026-11-29T20:15:04.123456Z"
TRACE = "0123456789abcdef0123456789abcdef"


def served(totals: Totals | None = None, **fields: Any) -> Served:
    usual: dict[str, Any] = {
        "request_id": "req_1", "trace": TRACE, "method": "POST", "path": "/v1/chat/completions", "status": 200,
        "seconds": 1.519, "key": "anonymous", "client": "127.0.0.1",
    }  # fmt: skip
    return Served(**{**usual, **fields}, totals=totals or Totals())


def answered(**fields: Any) -> Totals:
    usual = {"model": "smollm2-135m-instruct", "attempts": 1, "input": 31, "output": 64, "counted": True}
    return Totals(**{**usual, "first": 0.2134, **fields})


TERMINAL = AccessLine(columns=80, colors=False)


@pytest.mark.parametrize(
    ("totals", "line"),
    [
        (answered(), "20:15:04 200 POST /v1/chat/completions smollm2-135m-instruct 0.21/1.52s 31+64 $0"),
        (
            answered(model="gpt-4o", cost=0.00123, first=0.0312),
            "20:15:04 200 POST /v1/chat/completions gpt-4o 0.031/1.52s 31+64 $0.0012",
        ),
        (
            answered(model="gpt-4o", cost=0.5, unknown=True),
            "20:15:04 200 POST /v1/chat/completions gpt-4o 0.21/1.52s 31+64 $0.50+",
        ),
        (
            answered(model="gpt-4o", unknown=True, counted=False, input=0, output=0, first=None),
            "20:15:04 200 POST /v1/chat/completions gpt-4o 1.52s $?",
        ),
        (Totals(), "20:15:04 200 POST /v1/chat/completions 1.52s"),
    ],
)
def test_the_line_for_people(totals: Totals, line: str) -> None:
    assert TERMINAL(served(totals), AT) == line


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("model", ["", "m", "an-endpoint/with-a-rather-long-name-of-a-model-2026-11-29"])
@pytest.mark.parametrize("path", ["/", "/v1/chat/completions", "/v1/" + "long/" * 39])
def test_a_line_fits_its_terminal_and_is_one_line(columns: int, model: str, path: str) -> None:
    busy = answered(model=model, input=1_234_567, output=12_345, cost=0.00000123) if model else Totals()
    line = AccessLine(columns=columns, colors=False)(served(busy, path=path, method="OPTIONS"), AT)
    assert len(line) <= columns
    assert "\n" not in line
    assert "20:15:04 200 OPTIONS /" in line
    if model:
        assert model[:10] in line
        assert "1234567+12345 $0.0000012" in line


def test_the_trace_follows_where_there_is_room_and_all_ids_in_a_file() -> None:
    assert AccessLine(columns=130, colors=False)(served(answered()), AT).endswith(f" trace={TRACE}")
    whole = AccessLine(columns=None, colors=False)(served(answered(), path="/v1/" + "long/" * 39), AT)
    assert whole.endswith(
        f"long/ smollm2-135m-instruct 0.21/1.52s 31+64 $0 request_id=req_1 trace={TRACE} key=anonymous"
    )


def test_nothing_in_a_request_writes_to_the_terminal() -> None:
    evil = "/v1/a\x1b[2J\nlevel=error Bearer abcdefghijkl"
    for columns in (80, None):
        line = AccessLine(columns=columns, colors=False)(served(path=evil, method="P\x1b", request_id="a\nb"), AT)
        assert line.isprintable()
        assert "abcdefghijkl" not in line


def test_colours_take_no_room() -> None:
    line = AccessLine(columns=80, colors=True)(served(answered(), status=503), AT)
    assert "\x1b[31m503\x1b[0m" in line
    assert len(re.sub(r"\x1b\[\d+m", "", line)) <= 80


async def test_a_console_writes_the_line_for_people(start: Start) -> None:
    stream = io.StringIO()
    configure_structlog(LogSettings(format="console"), stream)
    async with start(log={"access": True}) as gateway:
        await gateway.client.get("/v1/models")
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d 200 GET /v1/models \d\.\d{2,3}s request_id=\S+ trace=\w+ key=\S+\n", stream.getvalue()
    )
    assert Console(colors=False).descriptor is None


async def test_the_line_of_a_call_has_its_figures(site: OpenSite, logs: io.StringIO, provider: FakeOpenAI) -> None:
    async with site() as running:
        for stream in (False, True):
            await running.client.post("/v1/chat/completions", json={**CHAT, "model": "far", "stream": stream})
        await running.client.get("/v1/models")
    lines = [line for line in map(orjson.loads, logs.getvalue().splitlines()) if line["event"] == "request"]
    assert len(lines) == 3
    for line in lines[:2]:
        assert (line["model"], line["attempts"], line["client"]) == ("far", 1, "127.0.0.1")
        assert line["input_tokens"] > 0
        assert line["output_tokens"] > 0
        assert 0 < line["first_token_seconds"] <= line["seconds"]
        price = line["input_tokens"] * 1e-6 + line["output_tokens"] * 2e-6
        assert line["cost_dollars"] == pytest.approx(price)
        assert line["cost_complete"] is True
    assert "model" not in lines[2]


async def test_the_line_waits_for_answers_that_close_after_the_request(
    site: OpenSite, logs: io.StringIO, provider: FakeOpenAI
) -> None:
    async with site() as running:
        body = {"model": "mouth", "input": "Hello", "voice": "alloy"}
        assert (await running.client.post("/v1/audio/speech", json=body)).status_code == 200
        async with asyncio.timeout(10):
            while '"model":"mouth"' not in logs.getvalue().replace(" ", ""):
                await asyncio.sleep(0)
    lines = [line for line in map(orjson.loads, logs.getvalue().splitlines()) if line["event"] == "request"]
    assert [(line["path"], line["model"]) for line in lines] == [("/v1/audio/speech", "mouth")]


def test_a_request_is_told_once_when_its_last_answer_is_closed() -> None:
    totals, told = Totals(), []
    totals.hold()
    totals.hold()
    totals.release()
    totals.when_whole(lambda: told.append(totals.attempts))
    assert told == []
    totals.attempts = 2
    totals.release()
    assert told == [2]
    Totals().when_whole(lambda: told.append(0))
    assert told == [2, 0]


async def test_attempts_of_one_request_are_summed_and_apart_from_those_of_another() -> None:
    sink = RequestTotals()

    async def request(model: str, attempts: int) -> Totals:
        totals, token = begin_totals()
        for number in range(attempts):
            outcome = Outcome(
                TRACE, number, model, "cloud", Facts(Capability.CHAT), Result.SUCCESS, at=0.0,
                usage=Usage(input=10, output=1), cost=0.25 if number else None, first_chunk=float(number),
            )  # fmt: skip
            await asyncio.create_task(asyncio.sleep(0))
            await asyncio.create_task(recorded(sink, outcome))  # as a relay does, in a task of its own
        end_totals(token)
        return totals

    first, second = await asyncio.gather(request("a", 3), request("b", 1))
    assert (first.model, first.attempts, first.input, first.cost, first.first) == ("a", 3, 30, 0.5, 2.0)
    assert first.unknown
    assert (second.model, second.attempts, second.input) == ("b", 1, 10)
    sink.record(Outcome(TRACE, 1, "c", "cloud", Facts(Capability.CHAT), Result.SUCCESS, at=0.0))
    assert (first.attempts, second.attempts) == (3, 1)


async def recorded(sink: RequestTotals, outcome: Outcome) -> None:
    sink.record(outcome)
