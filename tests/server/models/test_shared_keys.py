"""Keys that are made, rotated and revoked where several gateways share a state."""

from __future__ import annotations

from typing import Any

from tests.server.models.conftest import OpenShop, PeerOf, Shop


async def test_a_change_of_a_key_holds_in_every_gateway_before_its_answer(open_shop: OpenShop) -> None:
    keyed: Any = {"admin_keys": "admin"}

    async def status(shop: Shop, secret: str) -> int:
        answer = await shop.client.get("/v1/models", headers={"authorization": f"Bearer {secret}"})
        return answer.status_code

    async with open_shop(**keyed) as here, open_shop(**keyed) as there:
        here.runtime.peers, there.runtime.peers = PeerOf(there), PeerOf(here)
        made = (await here.client.post("/v1/admin/keys", json={"name": "n"})).json()
        assert await status(there, made["secret"]) == 200
        answer = await there.client.post(f"/v1/admin/keys/{made['id']}/rotate")
        assert answer.headers["cache-control"] == "no-store"
        assert [await status(here, made["secret"]), await status(here, answer.json()["secret"])] == [401, 200]
        await here.client.delete(f"/v1/admin/keys/{made['id']}")
        assert await status(there, answer.json()["secret"]) == 401
