"""A request names a voice: an unknown one goes to no provider, and costs nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from catalog.model import UpstreamSource
from routing.facts import Facts
from routing.plan import Candidate, Plan, Strategy
from tests.server.conftest import Gateway, Start
from tests.server.fakes import VOICE

CLOUD = VOICE.model_copy(
    update={
        "id": "cloud-voice",
        "source": UpstreamSource(endpoint="cloud", model="tts-1"),
        "voices": (),
    }
)
OPERATOR = "sk-an-operator"


def planned(*models: Any) -> Plan:
    candidates = tuple(Candidate(model, 0.9, 0.8, 1.5, 0.0, "local", "it is loaded") for model in models)
    return Plan(candidates, (), Strategy.PROFILE, "the best")


async def asked(gateway: Gateway, voice: Any, model: str = "auto", key: str = OPERATOR) -> httpx.Response:
    body = {"model": model, "input": "Hello", "voice": voice}
    return await gateway.client.post("/v1/audio/speech", json=body, headers={"authorization": f"Bearer {key}"})


def opened(gateway: Gateway) -> list[Facts]:
    return gateway.dispatcher.facts


@pytest.mark.parametrize("listed", [(), ("wren", "lark")], ids=["lists no voices", "lists others"])
async def test_an_unknown_name_is_refused_before_any_model_is_asked(start: Start, listed: tuple[str, ...]) -> None:
    async with start(api_keys=[OPERATOR]) as gateway:
        gateway.dispatcher.plan = lambda _: planned(VOICE, CLOUD.model_copy(update={"voices": listed}))
        answer = await asked(gateway, "nobody")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "voice")
        assert "robin" in answer.json()["error"]["message"]
        assert gateway.dispatcher.spent == []  # no job was opened


@pytest.mark.parametrize("model", ["auto", "parrot"])
@pytest.mark.parametrize("voice", [{"id": "voice_1234"}, "voice_1234", {"id": "21m00Tcm4TlvDq8ikWAM"}])
async def test_an_id_of_an_account_is_its_operators_alone(start: Start, voice: Any, model: str) -> None:
    async with start(api_keys=[OPERATOR]) as gateway:
        gateway.dispatcher.plan = lambda _: planned(CLOUD)
        key = (await gateway.keys.create("web")).secret
        answer = await asked(gateway, voice, model, key)
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "voice")
        assert gateway.dispatcher.spent == []  # no job was opened
        operator = (await gateway.keys.create("operator", admin=True)).secret
        assert (await asked(gateway, voice, model, operator)).status_code == 200


async def test_a_voice_that_one_model_has_keeps_the_request_from_the_others(start: Start) -> None:
    async with start(api_keys=[OPERATOR]) as gateway:
        gateway.dispatcher.plan = lambda _: planned(VOICE, CLOUD)
        assert (await asked(gateway, "robin+wren(2)")).status_code == 200
        assert opened(gateway)[-1].intent.exclude == {"cloud-voice"}
        assert (await asked(gateway, "alloy")).status_code == 200
        assert opened(gateway)[-1].intent.exclude == frozenset()
