"""Admin routes: the router's state, for admin keys only."""

from __future__ import annotations

import pytest

from catalog.model import Endpoint
from tests.server.conftest import Gateway, Start

USER, ADMIN = "user-key-0123456789", "admin-key-0123456789"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/admin/report"), ("GET", "/v1/admin/pins"), ("POST", "/v1/admin/pins")]
)
async def test_administration_needs_an_admin_key(start: Start, method: str, path: str) -> None:
    async with start(api_keys=USER, admin_keys=ADMIN) as gateway:
        refused = await gateway.client.request(method, path, headers=bearer(USER), json={"alias": "auto"})
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "permission_denied"


async def test_an_endpoint_whose_cloud_gives_no_credentials_is_not_ready(gateway: Gateway) -> None:
    async def fault(server: Endpoint) -> str | None:
        return f"'{server.id}' has no credentials" if server.id == "cloud" else None

    gateway.app.state.services.runtime.fault = fault
    (provider,) = (await gateway.client.get("/v1/admin/report")).json()["providers"]
    assert (provider["usable"], provider["reason"]) == (False, "'cloud' has no credentials")


async def test_the_report_has_models_providers_coverage_and_four_choices(gateway: Gateway) -> None:
    told = (await gateway.client.get("/v1/admin/report")).json()
    assert [row["model"] for row in told["models"]["usable"]] == ["parrot", "songbird"]
    assert told["models"]["not_usable"] == [
        {"model": "cloud/oracle", "reason": "no key is set for the endpoint 'cloud'"}
    ]
    assert told["coverage"]["chat"] == ["parrot"]
    assert told["coverage"]["vision"] == []
    (provider,) = told["providers"]
    assert (provider["provider"], provider["usable"], provider["models"]) == ("cloud", False, 1)
    assert [(each["scenario"], each["model"]) for each in told["scenarios"]] == [
        ("interactive text", "parrot"),
        ("background code", "parrot"),
        ("interactive tools", "parrot"),
        ("interactive vision", "parrot"),
    ]
    assert {each["scenario"]: each["workload"] for each in told["scenarios"]}["background code"] == "background"
    assert all(each["reason"] for each in told["scenarios"])
    asked = {(facts.task.value, tuple(sorted(facts.features))) for facts in gateway.dispatcher.facts}
    assert ("code", ()) in asked
    assert any("tools" in features for _, features in asked)
    assert any("vision" in features for _, features in asked)
    assert told["prior_files"] == {"files": [], "unknown_models": []}
    assert told["speech"]["voices"] == {"songbird": ["robin", "wren"]}
