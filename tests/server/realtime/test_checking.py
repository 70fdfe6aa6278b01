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
from tests.server.realtime.conversing import connected, say, until
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


@pytest.mark.parametrize("voice", ["nobody", {"id": "voice_zz"}, "voice_zz"])
async def test_a_voice_that_is_not_the_callers_is_refused_in_a_session_and_in_a_response(
    serve: Start, voice: Any
) -> None:
    async with serve(api_keys=["sk-an-operator"]) as gateway:
        gateway.dispatcher.plan = plans(speak=SPEAKER)
        key = (await gateway.keys.create("web")).secret
        async with connected(gateway, key=key) as connection:
            await connection.session.update(session=output(voice=voice))
            assert (await until(connection, "error"))[-1].error.param == "session.audio.output.voice"
            await connection.response.create(response={"audio": {"output": {"voice": voice}}})
            assert (await until(connection, "error"))[-1].error.param == "response.audio.output.voice"
        assert gateway.dispatcher.spent == []  # no job was opened


async def test_routing_binds_the_hearing_and_the_speaking(serve: Start) -> None:
    """A model that may not be asked is refused when it is set; the facts of every part have the constraint."""
    async with serve() as gateway:
        remote = without("privacy", "it is remote, and only local models may be used")
        gateway.dispatcher.plan = lambda facts: remote if facts.intent.local_only else PLAN
        async with connected(gateway, model="auto") as connection:
            bound: Any = {"type": "realtime", "routing": {"local_only": True, "require": ["tools"]}}
            for session in (output(model="parrot"), heard("parrot")):
                both: Any = {**session, **bound}
                await connection.session.update(session=both)
                assert (await until(connection, "error"))[-1].error.code == "no_candidate"
            await connection.session.update(session=bound)
            await until(connection, "session.updated")
            await say(connection, "Hello")
            await until(connection, "response.done")
        assert len(gateway.dispatcher.facts) > 1
        for facts in gateway.dispatcher.facts:
            assert facts.intent.local_only
            assert bool(facts.intent.require) == (facts.capability is Capability.CHAT)


async def test_a_model_that_is_at_rest_is_no_mistake(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        gateway.dispatcher.plan = plans(transcribe=without("breaker_open", "it failed", rest=3.0))
        await connection.session.update(session=heard("parrot"))
        assert (await until(connection, "session.updated", "error"))[-1].type == "session.updated"


def turns(**fields: Any) -> Any:
    return {"type": "realtime", "audio": {"input": {"turn_detection": fields}}}


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"type": "realtime", "output_modalities": ["text", "audio"]}, "output_modalities"),
        ({"type": "realtime", "output_modalities": ["text", "text"]}, "output_modalities"),
        ({"type": "realtime", "tool_choice": "required"}, "session.tool_choice"),
        (turns(type="foo"), "session.audio.input.turn_detection.type"),
        (turns(type="server_vad", threshold=1.5), "audio.input.turn_detection.threshold"),
    ],
)
async def test_what_no_session_can_have_is_refused(serve: Start, session: Any, param: str) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session=session)
        told = (await until(connection, "error", "session.updated"))[-1].error
        assert told.param == param
        assert "tag" not in told.message


async def test_thresholds_are_from_0_to_1(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        for threshold in (0.0, 1.0):
            await connection.session.update(session=turns(type="server_vad", threshold=threshold))
            (updated,) = await until(connection, "session.updated", "error")
            assert updated.session.audio.input.turn_detection.threshold == threshold


async def test_a_response_needs_tools_that_it_must_call(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.response.create(response={"tool_choice": "required"})
        assert (await until(connection, "error"))[-1].error.param == "response.tool_choice"


async def test_an_error_in_an_item_names_the_item(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        item: Any = {"type": "message", "role": "boss", "content": []}
        await connection.conversation.item.create(item=item)
        assert (await until(connection, "error"))[-1].error.param == "item.role"


async def test_what_was_dropped_is_told_of_the_update_that_had_it(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session={"type": "realtime", "tracing": "auto"})
        (updated,) = await until(connection, "session.updated")
        assert updated.session.dropped == ["tracing"]
        await connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        (updated,) = await until(connection, "session.updated")
        assert "dropped" not in (updated.session.model_extra or {})


async def test_a_secret_tells_no_end_of_a_session_that_has_not_begun(serve: Start) -> None:
    async with serve() as gateway:
        made = (await gateway.client.post("/v1/realtime/client_secrets", json={})).json()
        assert "expires_at" not in made["session"]
        assert made["expires_at"] > 0


async def test_a_model_that_does_not_chat_opens_no_session(serve: Start) -> None:
    async with serve() as gateway:
        gateway.dispatcher.plan = plans(chat=without("capability", f"it cannot {Capability.CHAT}"))
        assert await refusal(gateway) == (400, "no_candidate")
