"""A configuration is checked when it is sent: a mistake in it does not wait for the first turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from catalog.model import Capability
from routing.facts import Facts
from routing.plan import Candidate, Exclusion, Plan, Strategy
from tests.server.conftest import Start
from tests.server.fakes import PLAN, VOICE
from tests.server.realtime.conversing import connected, until
from tests.server.realtime.test_edge import refusal

SPEAKER = Plan((Candidate(VOICE, 0.9, 0.8, 1.5, 0.0, "local", "it is loaded"),), (), Strategy.PROFILE, "the best")


def without(code: str, reason: str, *, rest: float | None = None) -> Plan:
    return Plan((), (Exclusion("parrot", code, reason, rest),), Strategy.EXPLICIT, "named")


def plans(**chosen: Plan) -> Callable[[Facts], Plan]:
    """Plans by the capability of the request."""
    return lambda facts: chosen.get(facts.capability.value, PLAN)


def output(**fields: Any) -> Any:
    return {"type": "realtime", "audio": {"output": fields}}


def heard(model: str) -> Any:
    return {"type": "realtime", "audio": {"input": {"transcription": {"model": model}}}}


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        (output(voice="nobody"), "unsupported_value", "session.audio.output.voice"),
        (output(model="nobody"), "model_not_found", "session.audio.output.model"),
        (heard("nobody"), "model_not_found", "session.audio.input.transcription.model"),
        (heard("parrot"), "model_unavailable", "session.audio.input.transcription.model"),
    ],
)
async def test_a_mistake_is_told_when_it_is_set(serve: Start, session: Any, code: str, param: str) -> None:
    async with serve() as gateway:
        keyless = without("no_key", "no key is set for the endpoint 'cloud'")
        gateway.dispatcher.plan = plans(speak=SPEAKER, transcribe=keyless)
        made = await gateway.client.post("/v1/realtime/client_secrets", json={"session": session})
        error = made.json()["error"]
        assert (error["code"], error["param"]) == (code, param)
        async with connected(gateway) as connection:
            await connection.session.update(session=session)
            told = (await until(connection, "error"))[-1].error
            assert (told.code, told.param) == (code, param)


@pytest.mark.parametrize("voice", ["wren", "WREN", "alloy", {"id": "voice_1"}, "robin+wren", None])
async def test_a_voice_that_a_speaker_may_have_is_taken(serve: Start, voice: Any) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        gateway.dispatcher.plan = plans(speak=SPEAKER)
        await connection.session.update(session=output(voice=voice))
        assert (await until(connection, "session.updated", "error"))[-1].type == "session.updated"


async def test_a_model_that_is_at_rest_is_no_mistake(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        gateway.dispatcher.plan = plans(transcribe=without("breaker_open", "it failed", rest=3.0))
        await connection.session.update(session=heard("parrot"))
        assert (await until(connection, "session.updated", "error"))[-1].type == "session.updated"


async def test_a_model_that_does_not_chat_opens_no_session(serve: Start) -> None:
    async with serve() as gateway:
        gateway.dispatcher.plan = plans(chat=without("capability", f"it cannot {Capability.CHAT}"))
        assert await refusal(gateway) == (400, "no_candidate")
