"""A value of a wrong type in any field of any JSON body is the caller's error, never the server's.

The fuzz test (tests/security/test_fuzz.py) goes further, at endpoints that need no object of the caller's.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from server.api import ROUTERS
from server.edge.contracts import ContractRoute
from tests.server.asks import ASKS, Ask
from tests.server.conftest import Gateway
from tests.server.test_openapi import answer

WRONG = (b"null", b'"x"', b"[]", b"{}", b"1e400", b"true", b"-1", b"[null]")
JSON_ASKS = [ask for ask in ASKS if "json" in ask.given]
READS = {
    route.path_format: route.contract.reads
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, ContractRoute) and route.contract.reads is not None
}


def fields_of(ask: Ask) -> list[str]:
    """The fields that are sent, and all that the type of the body has."""
    kind = READS[ask.path]
    declared = [field.alias or name for name, field in getattr(kind, "model_fields", {}).items()]
    return list(dict.fromkeys([*ask.given["json"], *declared]))


@pytest.mark.parametrize("ask", JSON_ASKS, ids=str)
async def test_a_wrong_value_is_no_fault_of_the_server(gateway: Gateway, ask: Ask) -> None:
    good = await answer(gateway, ask)
    place, sent = good.request.url.raw_path.decode(), orjson.loads(good.request.content)
    headers = {"content-type": "application/json"}
    for name in fields_of(ask):
        rest: dict[str, Any] = {key: value for key, value in sent.items() if key != name}
        for wrong in WRONG:
            body = orjson.dumps({**rest, name: "@"}).replace(b'"@"', wrong)
            got = await gateway.client.request(ask.method, place, content=body, headers=headers)
            assert got.status_code < 500, (place, body, got.text)
            assert b"internal_error" not in got.content, (place, body, got.text)
