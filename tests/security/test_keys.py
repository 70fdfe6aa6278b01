"""Keys are created by command while a server runs, limited to models and rates, and stored as digests."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from catalog.errors import ConfigurationError, InvalidRequest
from routing.accounts.caps import Caps
from routing.accounts.virtual_keys import KeyInfo, KeyLimits, Rate
from routing.persistence import Persistence, PersistenceSettings
from server.app import create_app
from server.edge import auth
from server.edge.contracts import ContractRoute
from server.edge.gate import OPEN_BELOW, OPEN_PATHS
from server.processes.run import administration
from server.settings import Settings
from tests.fakes.server import Fault
from tests.routing.clocks import ManualClock
from tests.security.conftest import CHAT, OpenSite, Site, assert_error

ADMIN = "an-admin-key-of-the-settings"
AS_ADMIN = {"authorization": f"Bearer {ADMIN}"}


async def command(folder: Path, *arguments: str) -> tuple[str, str]:
    """Standard output and error of ``roundhouse keys ...``, run as a process on the same data folder."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server.cli", "keys", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"ROUNDHOUSE_DATA_DIR": str(folder), "PATH": "/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "200"},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().strip(), err.decode()


async def created(folder: Path, *arguments: str) -> tuple[str, str]:
    """Id and secret of a new key."""
    secret, told = await command(folder, "create", "tester", *arguments)
    return told.split()[0], secret


async def until(met: Callable[[], bool]) -> None:
    """Wait until the condition holds; fails after half a minute."""
    async with asyncio.timeout(30):
        while not met():
            await asyncio.sleep(0.01)


async def asked(site: Site, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return await site.client.post("/v1/chat/completions", json={**CHAT, **body}, headers=headers)


@pytest.fixture
def clock() -> ManualClock:
    """A clock at ten seconds past the minute, so that no window ends before the test advances it."""
    return ManualClock(wall=time.time() // 60 * 60 + 10)


@pytest.fixture
async def running(site: OpenSite, clock: ManualClock) -> AsyncIterator[Site]:
    async with site(admin_keys=ADMIN, persistence={"interval": 0.2}, clock=clock) as open_site:
        yield open_site


def knows(site: Site, key: str) -> Callable[[], bool]:
    keys = site.runtime.keys
    assert keys is not None
    return lambda: keys.authenticate(key) is not None


async def test_a_key_lives_and_dies_by_command_while_the_server_runs(running: Site, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    key, secret = await created(folder)
    assert re.fullmatch(r"rh-[\w-]{43}", secret)
    await until(knows(running, secret))
    assert (await asked(running, secret)).status_code == 200

    rotated, _ = await command(folder, "rotate", key)
    assert rotated != secret
    await until(knows(running, rotated))
    assert_error(await asked(running, secret), 401, "invalid_api_key")
    assert (await asked(running, rotated)).status_code == 200

    listed, _ = await command(folder, "list")
    assert key in listed
    assert rotated not in listed
    assert "tester" in (await command(folder, "list", "--json"))[0]

    await command(folder, "revoke", key)
    await until(lambda: not knows(running, rotated)())
    assert_error(await asked(running, rotated), 401, "invalid_api_key")


async def test_a_key_is_known_after_one_exchange_with_the_store_which_is_within_a_second(
    site: OpenSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanging: list[Persistence] = []

    async def never(persistence: Persistence) -> None:
        exchanging.append(persistence)

    monkeypatch.setattr(Persistence, "run", never)
    assert PersistenceSettings().interval <= 1.0
    async with site() as open_site:
        _, secret = await created(tmp_path / "data")
        assert not knows(open_site, secret)()
        await exchanging[0].exchange()
        assert knows(open_site, secret)()


async def test_the_first_virtual_key_closes_the_door_and_its_revocation_does_not_open_it(site: OpenSite) -> None:
    async with site() as open_site:
        assert (await asked(open_site)).status_code == 200
        keys = open_site.runtime.keys
        assert keys is not None
        made = await keys.create("first")
        assert_error(await asked(open_site), 401, "invalid_api_key")
        await keys.revoke(made.info.id)
        assert_error(await asked(open_site), 401, "invalid_api_key")


async def test_a_key_for_metrics_reads_them_and_nothing_else(running: Site, tmp_path: Path) -> None:
    _, secret = await created(tmp_path / "data", "--metrics")
    await until(knows(running, secret))
    headers = {"authorization": f"Bearer {secret}"}
    assert (await running.client.get("/metrics", headers=headers)).status_code == 200
    for method, path in routes():
        if path.startswith(("/ui", "/docs", *OPEN_BELOW)):
            continue  # files without data, and those whose names are their keys
        if method != "HEAD" and path not in {"/metrics", *OPEN_PATHS}:
            assert (await running.client.request(method, path, headers=headers)).status_code == 403, path
    keys = running.runtime.keys
    assert keys is not None
    for more in ({"admin": True}, {"models": ("near",)}, {"limits": KeyLimits(requests=Rate(minute=1))}):
        with pytest.raises(InvalidRequest, match="nothing else"):
            await keys.create("m", metrics=True, **more)
    rotated = await keys.rotate(next(info.id for info in keys.list() if info.metrics))
    assert rotated.info.metrics


async def test_a_key_for_metrics_closes_no_door_and_guards_no_address(site: OpenSite) -> None:
    async with site() as open_site:
        keys = open_site.runtime.keys
        assert keys is not None
        await keys.create("prometheus", metrics=True)
        assert (await asked(open_site)).status_code == 200
        assert not keys.any_calls
        await keys.create("app")
        assert (await asked(open_site)).status_code == 401
        assert keys.any_calls


def test_a_key_of_another_kind_is_stored_as_earlier_servers_read_it() -> None:
    """They share the state while they are replaced, and refuse a record with a field that they do not know."""
    info = KeyInfo(id="key-1", name="a", hint="rh-abc", digest="0" * 64, created_at=1.0)
    assert "metrics" not in info.stored()
    assert info.model_copy(update={"metrics": True}).stored()["metrics"] is True


async def test_only_digests_are_on_disk(running: Site, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _, secret = await created(folder)
    keys = running.runtime.keys
    assert keys is not None
    another = (await keys.create("in the process")).secret
    stored = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    for key in (secret, another):
        assert key.encode() not in stored
        assert key[10:].encode() not in stored
        assert hashlib.sha256(key.encode()).hexdigest().encode() in stored


async def test_a_key_reaches_its_models_only_by_name_by_alias_and_through_the_router(running: Site) -> None:
    keys = running.runtime.keys
    assert keys is not None
    bound = (await keys.create("bound", models=("far*",))).secret
    assert (await asked(running, bound, model="far")).status_code == 200
    for name in ("near", "NEAR", "local/near"):
        assert_error(await asked(running, bound, model=name), 403, "permission_denied")
    answers = [await asked(running, bound, model="auto") for _ in range(30)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-roundhouse-model"] for answer in answers} <= {"far", "farther"}
    for mode in ("auto:local", "auto:fast", "auto:best", "auto:cheap"):
        answer = await asked(running, bound, model=mode)
        if answer.status_code == 200:
            assert answer.headers["x-roundhouse-model"] in {"far", "farther"}
        else:
            assert_error(answer, 400, "no_candidate")
    headers = {"x-api-key": bound}
    assert_error(await running.client.get("/v1/models/near", headers=headers), 403, "permission_denied")
    listed = (await running.client.get("/v1/models", headers=headers)).json()["data"]
    assert {row["id"] for row in listed if not row.get("router")} == {"far", "farther"}
    explained = await running.client.post("/v1/route", json={**CHAT, "model": "auto"}, headers=headers)
    assert explained.json()["model"] in {"far", "farther"}
    assert "near" not in explained.text


async def test_a_key_without_any_model_that_can_answer_gets_no_answer(running: Site) -> None:
    keys = running.runtime.keys
    assert keys is not None
    bound = (await keys.create("bound", models=("nothing-here",))).secret
    assert_error(await asked(running, bound, model="auto"), 400, "no_candidate")


async def limited(site: Site, **limits: Any) -> str:
    """The secret of a key with these limits."""
    keys = site.runtime.keys
    assert keys is not None
    return (await keys.create("limited", limits=KeyLimits(**limits))).secret


WINDOWS = ["minute", "day", "month"]


async def at_once(site: Site, secret: str, number: int, **body: Any) -> Counter[int]:
    """Statuses of ``number`` concurrent requests, counted; every refusal has OpenAI's shape."""
    return statuses_of(await asyncio.gather(*(asked(site, secret, **body) for _ in range(number))))


def statuses_of(answers: list[httpx.Response]) -> Counter[int]:
    for answer in answers:
        if answer.status_code != 200:
            assert_error(answer, 429)
    return Counter(answer.status_code for answer in answers)


async def estimate(site: Site) -> int:
    """Tokens of the usual prompt by the gate's estimate."""
    explained = await site.client.post("/v1/route", json={**CHAT, "model": "far"}, headers=AS_ADMIN)
    return int(explained.json()["request"]["prompt_tokens"])


@pytest.mark.parametrize("window", WINDOWS)
async def test_limits_on_requests_are_exact_however_many_come_at_once(running: Site, window: str) -> None:
    secret = await limited(running, requests=Rate(**{window: 7}))
    assert await at_once(running, secret, 40, model="far") == {200: 7, 429: 33}
    refused = await asked(running, secret)
    assert_error(refused, 429, "rate_limit_exceeded")
    left = int(refused.headers["retry-after"])
    assert 1 <= left <= {"minute": 60, "day": 86_400, "month": 31 * 86_400}[window]


@pytest.mark.parametrize("window", WINDOWS)
async def test_limits_on_tokens_are_exact_however_many_come_at_once(running: Site, window: str) -> None:
    """The gate counts prompt and longest answer before any answer; no request ends before all were counted."""
    each_call = await estimate(running) + 10
    secret = await limited(running, tokens=Rate(**{window: 5 * each_call + each_call // 2}))
    running.provider.fault = Fault(hold_after=0)
    burst = [asyncio.create_task(asked(running, secret, model="far", max_tokens=10)) for _ in range(40)]
    await until(lambda: sum(each.done() for each in burst) == 35)
    running.provider.go.set()
    assert statuses_of(await asyncio.gather(*burst)) == {200: 5, 429: 35}
    larger = {"messages": [{"role": "user", "content": "word " * 1000}]}
    assert_error(await asked(running, secret, **larger), 429, "rate_limit_exceeded")


async def test_the_tokens_that_count_in_the_end_are_those_that_were_used(running: Site) -> None:
    prompt = await estimate(running)
    used = int((await asked(running, ADMIN, model="far")).json()["usage"]["total_tokens"])
    limit = 10 * used
    secret = await limited(running, tokens=Rate(day=limit))
    statuses = [(await asked(running, secret, model="far")).status_code for _ in range(15)]
    admitted = next(n for n in range(15) if n * used + prompt > limit)
    assert statuses == [200] * admitted + [429] * (15 - admitted)


@pytest.mark.parametrize("window", ["request", *WINDOWS, "total"])
async def test_a_call_that_the_key_cannot_pay_is_not_made(running: Site, window: str) -> None:
    secret = await limited(running, spend=Caps(**{window: 0.000001}))
    before = len(running.provider.calls)
    assert_error(await asked(running, secret, model="far", max_tokens=1000), 429, "insufficient_quota")
    assert len(running.provider.calls) == before


@pytest.mark.parametrize("window", [*WINDOWS, "total"])
async def test_limits_on_spend_hold_however_many_come_at_once(running: Site, window: str) -> None:
    """A call reserves its highest cost, so that a burst never exceeds the cap, and is charged its real cost."""
    once = await asked(running, ADMIN, model="far", max_tokens=10)
    usage = once.json()["usage"]
    price = (usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1e6
    cap = 12.5 * price
    secret = await limited(running, spend=Caps(**{window: cap}))
    before = len(running.provider.calls)
    statuses = Counter[int]()
    for _ in range(10):
        statuses += await at_once(running, secret, 20, model="far", max_tokens=10)
    made = len(running.provider.calls) - before
    assert statuses.keys() == {200, 429}
    assert statuses[200] == made
    assert made * price <= cap
    assert made >= 9, "what was set aside and not used was not given back"
    await asyncio.sleep(0)
    report = (await running.client.get("/v1/usage?by=key", headers={"x-api-key": secret})).json()["data"]
    assert sum(float(row["cost"]) for row in report) == pytest.approx(made * price, abs=1e-9)


async def test_the_command_sets_every_limit(tmp_path: Path) -> None:
    rates = {f"{what}-per-{window}": 7 for what in ("requests", "tokens") for window in WINDOWS}
    spend = {f"spend-per-{window}": 7 for window in ("request", *WINDOWS)} | {"spend-total": 7}
    options = [part for name, value in {**rates, **spend}.items() for part in (f"--{name}", str(value))]
    await created(tmp_path, "--model", "far*", "--model", "near", "--expires-in-days", "2", *options)
    (listed,) = json.loads((await command(tmp_path, "list", "--json"))[0])
    every = {"minute": 7, "day": 7, "month": 7}
    assert listed["limits"]["requests"] == listed["limits"]["tokens"] == every
    assert {"request": 7, **every, "total": 7}.items() <= listed["limits"]["spend"].items()
    assert listed["models"] == ["far*", "near"]
    assert listed["expires_at"] == pytest.approx(time.time() + 2 * 86_400, abs=60)


async def test_an_expired_key_is_no_key(running: Site, clock: ManualClock) -> None:
    keys = running.runtime.keys
    assert keys is not None
    secret = (await keys.create("brief", expires_at=clock.wall() + 60)).secret
    clock.advance(59)
    assert (await asked(running, secret)).status_code == 200
    clock.advance(2)
    assert_error(await asked(running, secret), 401, "invalid_api_key")


async def test_every_way_of_sending_a_key_is_one_path(running: Site) -> None:
    keys = running.runtime.keys
    assert keys is not None
    secret = (await keys.create("any")).secret
    for headers in ({"authorization": f"Bearer {secret}"}, {"x-api-key": secret}, {"api-key": secret}):
        assert (await running.client.get("/v1/models", headers=headers)).status_code == 200
        wrong = {name: value[:-1] + ("x" if value[-1] != "x" else "y") for name, value in headers.items()}
        assert_error(await running.client.get("/v1/models", headers=wrong), 401, "invalid_api_key")
    assert_error(await running.client.get(f"/v1/models?key={secret}&api_key={secret}"), 401, "invalid_api_key")


def test_keys_are_compared_in_constant_time() -> None:
    source = inspect.getsource(auth.Keys.authenticate)
    assert "compare_digest" in source
    assert not re.search(r"(digest|wanted|key)\s*==\s*(digest|wanted|key)", source)


def routes() -> list[tuple[str, str]]:
    """All methods and paths of the app, with a value in place of each path parameter."""
    app = create_app(Settings(), open_runtime=None)
    found = []
    for route in app.routes:
        path = re.sub(r"\{[^}]*\}", "near", str(getattr(route, "path", "")))
        found += [(method, path) for method in sorted(getattr(route, "methods", None) or ())]
    return found


async def test_everything_but_health_ready_and_the_console_wants_a_key(running: Site) -> None:
    asked_for = routes()
    assert len(asked_for) > 25
    for method, path in asked_for:
        for headers in ({}, {"authorization": "Bearer rh-" + "a" * 43}, {"authorization": "Basic " + ADMIN}):
            answer = await running.client.request(method, path, headers=headers)
            if path.startswith(OPEN_BELOW):
                assert answer.status_code == 404, "the name of a picture is its key; none has this one"
                continue
            if path.startswith(("/ui", "/docs")):
                assert answer.status_code in (200, 307, 404), (method, path, headers)
                continue
            probed = method == "HEAD" and path in ("/", "/api/hello")
            expected = 200 if path in OPEN_PATHS or probed else 401
            assert answer.status_code == expected, (method, path, headers)


def admin_routes() -> list[tuple[str, str]]:
    """The routes of the app that need an administrator."""
    app = create_app(Settings(), open_runtime=None)
    return [
        (method, re.sub(r"\{[^}]*\}", "near", route.path))
        for route in app.routes
        if isinstance(route, ContractRoute) and route.contract.admin
        for method in sorted(route.methods or ())
        if method != "HEAD"  # the same route as GET, without the body that is looked at
    ]


async def test_admin_routes_want_an_admin_key(running: Site) -> None:
    keys = running.runtime.keys
    assert keys is not None
    plain, admin = (await keys.create("plain")).secret, (await keys.create("boss", admin=True)).secret
    assert len(admin_routes()) >= 8
    for method, path in admin_routes():
        refused = await running.client.request(method, path, headers={"x-api-key": plain})
        assert_error(refused, 403, "permission_denied")
    assert (await running.client.get("/v1/admin/workers", headers={"x-api-key": admin})).status_code == 200
    assert (await running.client.get("/v1/admin/workers", headers=AS_ADMIN)).status_code == 200


async def test_administration_can_have_an_address_of_its_own(site: OpenSite) -> None:
    async with (
        site(admin_keys=ADMIN, server={"admin_port": 0}) as open_site,
        administration(open_site.app, open_site.settings) as admin_url,
        httpx.AsyncClient(base_url=str(admin_url), trust_env=False, headers=AS_ADMIN) as admin,
    ):
        assert admin_url != open_site.url
        nowhere = await open_site.client.get("/v1/nowhere", headers=AS_ADMIN)
        for method, path in admin_routes():
            hidden = await open_site.client.request(method, path, headers=AS_ADMIN)
            error = assert_error(hidden, 404, "not_found")
            assert method == "HEAD" or error["message"] == nowhere.json()["error"]["message"], path
        assert (await admin.get("/v1/admin/workers")).status_code == 200
        assert (await admin.post("/v1/models/near/load", json={})).status_code == 200
        assert_error(await admin.get("/v1/admin/workers", headers={"authorization": ""}), 401)
        assert (await asked(open_site, ADMIN)).status_code == 200


async def test_an_open_address_is_guarded_by_virtual_keys_too(site: OpenSite) -> None:
    async with site() as first:
        keys = first.runtime.keys
        assert keys is not None
        secret = (await keys.create("guard")).secret
    async with site(server={"host": "0.0.0.0"}) as open_site:
        url = open_site.url.replace("0.0.0.0", "127.0.0.1")
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            assert_error(await client.get("/v1/models"), 401, "invalid_api_key")
            assert (await client.get("/v1/models", headers={"x-api-key": secret})).status_code == 200


async def test_an_open_address_whose_keys_are_lost_does_not_start(site: OpenSite, tmp_path: Path) -> None:
    async with site() as first:
        keys = first.runtime.keys
        assert keys is not None
        await keys.create("guard")
    for file in (tmp_path / "data").glob("state.sqlite3*"):
        file.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigurationError, match=r"Refusing to serve on 0\.0\.0\.0"):
        async with site(server={"host": "0.0.0.0"}):
            pass
