"""Keys over HTTP: the caller's own, and those that administrators create, rotate and revoke."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.api.test_chat import BODY, PATH
from tests.server.conftest import Gateway, Start
from tests.server.test_bad_input import error

KEYS = {"api_keys": "caller-key", "admin_keys": "admin-key"}
ADMIN = {"authorization": "Bearer admin-key"}
BEARER = {"authorization": "Bearer caller-key"}


async def create(gateway: Gateway, **fields: Any) -> Any:
    made = await gateway.client.post("/v1/admin/keys", json={"name": "laptop", **fields}, headers=ADMIN)
    assert made.status_code == 200, made.text
    return made.json()


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def test_a_created_key_is_told_once_and_works(start: Start) -> None:
    async with start(**KEYS) as gateway:
        limits = {"requests": {"minute": 5}, "spend": {"month": 2.5}}
        made = await create(gateway, models=["parrot"], limits=limits, expires_in_days=2)
        assert made["secret"].startswith("rh-")
        assert (await gateway.client.post(PATH, json=BODY, headers=bearer(made["secret"]))).status_code == 200
        listed = await gateway.client.get("/v1/admin/keys", headers=ADMIN)
        (row,) = listed.json()["data"]
        assert made["secret"] not in listed.text
        assert "digest" not in row
        assert (row["name"], row["models"], row["limits"]["requests"]["minute"]) == ("laptop", ["parrot"], 5)
        assert 86_400 < row["expires_at"] - row["created_at"] < 2 * 86_400 + 60


async def test_a_caller_sees_its_own_key(start: Start) -> None:
    async with start(**KEYS) as gateway:
        made = await create(gateway, limits={"spend": {"day": 1}})
        own = (await gateway.client.get("/v1/key", headers=bearer(made["secret"]))).json()
        assert (own["id"], own["name"], own["admin"], own["anonymous"]) == (made["id"], "laptop", False, False)
        assert own["caps"] == [{"scope": f"key/{made['id']}", "window": "day", "cap": 1.0, "spent": 0.0}]
        of_settings = (await gateway.client.get("/v1/key", headers=BEARER)).json()
        assert (of_settings["name"], of_settings["admin"], of_settings["models"]) == (None, False, [])


async def test_a_revoked_key_is_refused_and_stays_in_the_list(start: Start) -> None:
    async with start(**KEYS) as gateway:
        made = await create(gateway)
        gone = await gateway.client.delete(f"/v1/admin/keys/{made['id']}", headers=ADMIN)
        assert gone.json()["revoked_at"] is not None
        error(await gateway.client.get("/v1/key", headers=bearer(made["secret"])), 401, "invalid_api_key")
        (row,) = (await gateway.client.get("/v1/admin/keys", headers=ADMIN)).json()["data"]
        assert row["id"] == made["id"]
        again = await gateway.client.post(f"/v1/admin/keys/{made['id']}/rotate", headers=ADMIN)
        error(again, 400, "invalid_request")


async def test_a_rotated_key_has_a_new_secret(start: Start) -> None:
    async with start(**KEYS) as gateway:
        made = await create(gateway)
        path = f"/v1/admin/keys/{made['id']}/rotate"
        other = (await gateway.client.post(path, headers=ADMIN)).json()
        assert (await gateway.client.get("/v1/key", headers=bearer(other["secret"]))).json()["id"] == made["id"]
        error(await gateway.client.get("/v1/key", headers=bearer(made["secret"])), 401, "invalid_api_key")
        kept = (await gateway.client.post(path, headers=ADMIN, json={"grace": 600})).json()
        for secret in (other["secret"], kept["secret"]):
            assert (await gateway.client.get("/v1/key", headers=bearer(secret))).status_code == 200


async def test_keys_are_for_administrators(start: Start) -> None:
    async with start(**KEYS) as gateway:
        for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/key-1"), ("POST", "/key-1/rotate")):
            got = await gateway.client.request(method, f"/v1/admin/keys{path}", headers=BEARER)
            error(got, 403, "permission_denied")
        for method, path in (("DELETE", "/key-1"), ("POST", "/key-1/rotate")):
            got = await gateway.client.request(method, f"/v1/admin/keys{path}", headers=ADMIN)
            error(got, 404, "not_found")


async def test_the_first_key_of_an_open_server_is_an_administrators(gateway: Gateway) -> None:
    own = (await gateway.client.get("/v1/key")).json()
    assert (own["anonymous"], own["admin"]) == (True, True)
    refused = await gateway.client.post("/v1/admin/keys", json={"name": "laptop"})
    error(refused, 400, "invalid_request")
    assert refused.json()["error"]["param"] == "admin"
    made = (await gateway.client.post("/v1/admin/keys", json={"name": "me", "admin": True})).json()
    error(await gateway.client.get("/v1/key"), 401, "invalid_api_key")
    assert (await gateway.client.get("/v1/admin/keys", headers=bearer(made["secret"]))).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": ""}, "name"),
        ({"surname": "x"}, "surname"),
        ({"expires_in_days": 0}, "expires_in_days"),
        ({"limits": {"tokens": {"day": -1}}}, "limits.tokens.day"),
        ({"limits": {"tokens": {"day": 10**16}}}, "limits.tokens"),
        ({"limits": {"spend": {"day": 1e12}}}, "limits.spend.day"),
        ({"limits": {"words": 1}}, "limits.words"),
        ({"models": "parrot"}, "models"),
    ],
)
async def test_a_wrong_field_is_named(start: Start, fields: Any, param: str) -> None:
    async with start(**KEYS) as gateway:
        got = await gateway.client.post("/v1/admin/keys", json={"name": "a", **fields}, headers=ADMIN)
        error(got, 400, "invalid_request")
        assert got.json()["error"]["param"] == param


async def test_a_key_for_metrics_is_created_and_leaves_the_door_as_it_was(start: Start) -> None:
    async with start() as gateway:
        made = await gateway.client.post("/v1/admin/keys", json={"name": "prometheus", "metrics": True})
        assert made.json()["metrics"] is True
        scrape = await gateway.client.get("/metrics", headers=bearer(made.json()["secret"]))
        assert scrape.status_code == 200
        assert (await gateway.client.post(PATH, json=BODY)).status_code == 200
        more = await gateway.client.post("/v1/admin/keys", json={"name": "m", "metrics": True, "admin": True})
        error(more, 400, "invalid_request")


async def test_a_key_for_metrics_is_made_and_closes_no_door(gateway: Gateway) -> None:
    made = await gateway.client.post("/v1/admin/keys", json={"name": "prometheus", "metrics": True})
    assert made.json()["metrics"] is True
    assert (await gateway.client.get("/v1/key")).json()["anonymous"] is True
    assert (await gateway.client.get("/metrics", headers=bearer(made.json()["secret"]))).status_code == 200
    refused = await gateway.client.post("/v1/admin/keys", json={"name": "a", "metrics": True, "admin": True})
    error(refused, 400, "invalid_request")
