"""The list of traces, and the end of the server's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
import structlog

from routing.calling.traces import TraceQuery, Traces, TraceSettings
from routing.clock import SystemClock
from server.observability.logging import configure_logging
from server.observability.settings import LogSettings
from server.peers import answer_peer, recent_log, recent_traces
from tests.server.api.test_chat import BODY, PATH
from tests.server.conftest import Gateway, Start
from tests.server.test_bad_input import error

KEYS = {"api_keys": "caller-key,other-key", "admin_keys": "admin-key"}
ADMIN = {"authorization": "Bearer admin-key"}
BEARER = {"authorization": "Bearer caller-key"}


async def traces(gateway: Gateway, query: str = "", **headers: str) -> Any:
    got = await gateway.client.get(f"/v1/traces{query}", headers=headers)
    assert got.status_code == 200, got.text
    return got.json()


async def ask(gateway: Gateway, **headers: str) -> str:
    return (await gateway.client.post(PATH, json=BODY, headers=headers)).headers["x-roundhouse-trace"]


async def test_traces_are_listed_newest_first(gateway: Gateway) -> None:
    asked = [await ask(gateway) for _ in range(3)]
    found = await traces(gateway)
    assert [trace["id"] for trace in found["data"]] == asked[::-1]
    newest = found["data"][0]
    assert (newest["status"], newest["answered_by"], newest["requested"]) == ("done", "parrot", BODY["model"])
    assert newest["attempts"] == 1
    assert found["has_more"] is False


async def test_a_page_goes_on_before_the_last_of_the_one_before(gateway: Gateway) -> None:
    asked = [await ask(gateway) for _ in range(3)]
    first = await traces(gateway, "?limit=2")
    assert first["has_more"] is True
    rest = await traces(gateway, f"?limit=2&before={first['data'][-1]['at']}")
    assert [trace["id"] for trace in first["data"] + rest["data"]] == asked[::-1]


async def test_traces_of_other_keys_are_for_administrators(start: Start) -> None:
    async with start(**KEYS) as gateway:
        own = await ask(gateway, **BEARER)
        other = await ask(gateway, **{"x-api-key": "other-key"})
        assert [trace["id"] for trace in (await traces(gateway, **BEARER))["data"]] == [own]
        assert [trace["id"] for trace in (await traces(gateway, **ADMIN))["data"]] == [other, own]


async def test_traces_are_filtered_by_status_and_model(gateway: Gateway) -> None:
    good = await ask(gateway)
    assert [trace["id"] for trace in (await traces(gateway, "?status=done&model=parrot"))["data"]] == [good]
    assert (await traces(gateway, "?status=failed"))["data"] == []
    assert (await traces(gateway, "?model=oracle"))["data"] == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=a", "before=-1", "before=x", "status=odd", "page=2"]
)
async def test_a_wrong_parameter_of_the_list_is_refused(gateway: Gateway, query: str) -> None:
    error(await gateway.client.get(f"/v1/traces?{query}"), 400, "invalid_request")


async def test_the_list_has_the_traces_of_every_process(gateway: Gateway) -> None:
    there = await ask(gateway)
    served = gateway.services.runtime
    assert served is not None

    class Others:
        async def ask(self, question: Any) -> Any:
            return None

        async def ask_all(self, question: Any) -> list[Any]:
            return [await answer_peer(served, question)]

    here = replace(served, traces=Traces(TraceSettings(), SystemClock()), peers=Others())
    assert [trace["id"] for trace in await recent_traces(here, TraceQuery(limit=5))] == [there]


@pytest.fixture
def logged() -> Iterator[None]:
    """The log of a real process, written to nowhere."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    configure_logging(LogSettings(format="console"), StringIO())
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = before[0], before[1]


async def test_the_log_is_shown_to_administrators(start: Start, logged: None) -> None:
    async with start(**KEYS) as gateway:
        structlog.get_logger().warning("boiler hot", degrees=99)
        logging.getLogger("engine").warning("valve open")
        got = await gateway.client.get("/v1/admin/log?lines=2", headers=ADMIN)
        first, second = got.text.splitlines()
        assert "boiler hot" in first
        assert "degrees=99" in first
        assert "valve open" in second
        error(await gateway.client.get("/v1/admin/log", headers=BEARER), 403, "permission_denied")
        error(await gateway.client.get("/v1/admin/log?lines=0", headers=ADMIN), 400, "invalid_request")


async def test_the_lines_of_all_processes_are_in_the_order_of_their_times(gateway: Gateway, logged: None) -> None:
    structlog.get_logger().info("ours")
    served = gateway.services.runtime
    assert served is not None

    class Others:
        async def ask(self, question: Any) -> Any:
            return None

        async def ask_all(self, question: Any) -> list[Any]:
            return [[[1.0, "theirs"]], [[4e9, "later"]]]

    lines = await recent_log(replace(served, peers=Others()), 3)
    assert (lines[0], lines[2]) == ("theirs", "later")
    assert "ours" in lines[1]
