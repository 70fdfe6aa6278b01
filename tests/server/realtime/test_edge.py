"""The door of realtime sessions: keys, subprotocols, client secrets, origins, limits, stopping, bad clients."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
from openai import AsyncOpenAI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from routing.accounts.virtual_keys import KeyLimits, Rate
from tests.server.conftest import Gateway, Start
from tests.server.fakes import ANSWER, chunk, usage_chunk
from tests.server.realtime.conversing import connected, of_type, say, until

KEY = "rh-a-long-key-of-the-settings"
TEXT: Any = {"type": "realtime", "output_modalities": ["text"]}


@asynccontextmanager
async def socket(
    gateway: Gateway, path: str = "/v1/realtime?model=parrot", **options: Any
) -> AsyncIterator[ClientConnection]:
    """A plain WebSocket, without the SDK."""
    address = gateway.server.url.replace("http", "ws") + path
    async with connect(address, compression=None, **options) as connection:
        yield connection


async def receive(connection: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(10):
        event: dict[str, Any] = orjson.loads(await connection.recv())
        return event


async def closed(connection: ClientConnection) -> tuple[list[dict[str, Any]], int | None]:
    """The events up to the close, and its code."""
    events = []
    async with asyncio.timeout(10):
        try:
            while True:
                events.append(orjson.loads(await connection.recv()))
        except ConnectionClosed as end:
            return events, end.rcvd.code if end.rcvd else None


async def refusal(gateway: Gateway, path: str = "/v1/realtime?model=parrot", **options: Any) -> tuple[int, str]:
    """The status and the code of a refused handshake."""
    with pytest.raises(InvalidStatus) as caught:
        async with socket(gateway, path, **options):
            pass
    response = caught.value.response
    assert response.headers["x-request-id"]
    error = orjson.loads(bytes(response.body or b""))["error"]
    assert error["message"]
    return response.status_code, error["code"]


async def test_a_session_needs_a_key_where_there_are_keys(serve: Start) -> None:
    async with serve(api_keys=KEY) as gateway:
        assert await refusal(gateway) == (401, "invalid_api_key")
        wrong = {"authorization": "Bearer rh-wrong"}
        assert await refusal(gateway, additional_headers=wrong) == (401, "invalid_api_key")
        for headers in ({"authorization": f"Bearer {KEY}"}, {"api-key": KEY}):
            async with socket(gateway, additional_headers=headers) as connection:
                assert (await receive(connection))["type"] == "session.created"
        async with connected(gateway, key=KEY) as session:
            await session.session.update(session=TEXT)
            await until(session, "session.updated")


async def test_a_browser_sends_its_key_as_a_subprotocol(serve: Start) -> None:
    async with serve(api_keys=KEY) as gateway:
        offers: Any = ["realtime", f"openai-insecure-api-key.{KEY}"]
        async with socket(gateway, subprotocols=offers) as connection:
            assert connection.subprotocol == "realtime"
            assert (await receive(connection))["type"] == "session.created"


async def test_a_browser_reads_a_refusal_as_an_event(serve: Start) -> None:
    async with serve(api_keys=KEY) as gateway:
        offers: Any = ["realtime", "openai-insecure-api-key.rh-wrong"]
        async with socket(gateway, subprotocols=offers) as connection:
            events, code = await closed(connection)
    assert [event["error"]["code"] for event in events] == ["invalid_api_key"]
    assert code == 1008


async def test_a_client_secret_opens_its_session_and_nothing_else(serve: Start) -> None:
    async with serve(api_keys=KEY) as gateway:
        async with AsyncOpenAI(base_url=f"{gateway.server.url}/v1", api_key=KEY) as client:
            made = await client.realtime.client_secrets.create(
                expires_after={"anchor": "created_at", "seconds": 60},
                session={"type": "realtime", "model": "parrot", "instructions": "Be brief."},
            )
        assert made.value.startswith("ek_")
        assert made.session.instructions == "Be brief."  # type: ignore[union-attr]
        offers: Any = ["realtime", f"openai-insecure-api-key.{made.value}"]
        async with socket(gateway, "/v1/realtime", subprotocols=offers) as connection:
            created = await receive(connection)
        assert created["session"]["instructions"] == "Be brief."
        assert created["session"]["model"] == "parrot"
        headers = {"authorization": f"Bearer {made.value}"}
        assert (await gateway.client.get("/v1/models", headers=headers)).status_code == 401
        unknown = {"authorization": "Bearer ek_unknown"}
        assert await refusal(gateway, additional_headers=unknown) == (401, "invalid_api_key")


async def secret_of(gateway: Gateway, session: dict[str, Any]) -> dict[str, str]:
    """The header of a new client secret."""
    made = await gateway.client.post("/v1/realtime/client_secrets", json={"session": session})
    assert made.status_code == 200, made.text
    return {"authorization": f"Bearer {made.json()['value']}"}


async def test_a_client_secret_opens_no_session_of_another_model(serve: Start) -> None:
    denied = (403, "permission_denied")
    async with serve() as gateway:
        headers = await secret_of(gateway, {"type": "realtime", "model": "parrot"})
        for name in ("auto", "auto:fast", "cloud/oracle"):
            assert await refusal(gateway, f"/v1/realtime?model={name}", additional_headers=headers) == denied
        transcripts = "/v1/realtime?intent=transcription"
        assert await refusal(gateway, transcripts, additional_headers=headers) == denied
        for address in ("/v1/realtime", "/v1/realtime?model=parrot", "/v1/realtime?model=polly"):
            async with socket(gateway, address, additional_headers=headers) as connection:
                assert (await receive(connection))["type"] == "session.created"
        headers = await secret_of(gateway, {"type": "realtime", "model": "auto"})
        assert await refusal(gateway, additional_headers=headers) == denied
        heard = {"transcription": {"model": "parrot"}}
        headers = await secret_of(gateway, {"type": "transcription", "audio": {"input": heard}})
        address = "/v1/realtime?model=cloud/oracle"
        assert await refusal(gateway, address, additional_headers=headers) == denied


async def test_a_client_secret_without_a_model_leaves_that_to_the_address(serve: Start) -> None:
    async with serve() as gateway:
        headers = await secret_of(gateway, {"type": "realtime", "instructions": "Be brief."})
        async with socket(gateway, additional_headers=headers) as connection:
            session = (await receive(connection))["session"]
    assert (session["model"], session["instructions"]) == ("parrot", "Be brief.")


async def test_a_client_secret_ends_with_its_time_and_with_its_key(serve: Start) -> None:
    async with serve() as gateway:
        boss = await gateway.keys.create("boss", admin=True)
        key = await gateway.keys.create("web")

        async def secret() -> str:
            answer = await gateway.client.post(
                "/v1/realtime/client_secrets", json={}, headers={"authorization": f"Bearer {key.secret}"}
            )
            assert answer.status_code == 200, answer.text
            value: str = answer.json()["value"]
            return value

        runtime = gateway.services.runtime
        assert runtime is not None
        first, second = await secret(), await secret()
        headers = {"authorization": f"Bearer {first}"}
        async with socket(gateway, additional_headers=headers) as connection:
            await receive(connection)
        kept, runtime.storage.now = runtime.storage.now, lambda: kept() + 601  # type: ignore[method-assign]
        assert await refusal(gateway, additional_headers=headers) == (401, "invalid_api_key")
        runtime.storage.now = kept  # type: ignore[method-assign]
        await gateway.keys.revoke(key.info.id)
        headers = {"authorization": f"Bearer {second}"}
        assert await refusal(gateway, additional_headers=headers) == (401, "invalid_api_key")
        assert boss.info.admin


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"session": {"type": "realtime", "output_modalities": ["smell"]}}, "output_modalities[0]"),
        ({"session": {"type": "guess"}}, "type"),
        ({"expires_after": {"seconds": 7201}}, "expires_after.seconds"),
        ({"more": 1}, "more"),
    ],
)
async def test_a_client_secret_of_a_wrong_configuration_is_refused(serve: Start, body: Any, param: str) -> None:
    async with serve() as gateway:
        answer = await gateway.client.post("/v1/realtime/client_secrets", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


async def test_a_page_of_another_origin_cannot_use_a_server_without_keys(serve: Start) -> None:
    async with serve() as gateway:
        assert await refusal(gateway, origin="https://evil.example") == (403, "permission_denied")
        async with socket(gateway, origin=gateway.server.url) as connection:
            await receive(connection)
    allowed = {"cors": {"origins": ["https://app.example"]}}
    async with serve(server=allowed) as gateway, socket(gateway, origin="https://app.example") as connection:
        await receive(connection)


async def test_a_foreign_host_a_wrong_path_and_a_wrong_model_are_refused(serve: Start) -> None:
    async with serve() as gateway:
        port = int(gateway.server.url.rpartition(":")[2])
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://evil.example:{port}/v1/realtime", host="127.0.0.1", port=port)
        assert caught.value.response.status_code == 403
        two = {"host": "localhost"}
        assert await refusal(gateway, additional_headers=two) == (400, "invalid_request")
        assert await refusal(gateway, "/v1/chat/completions") == (404, "not_found")
        assert await refusal(gateway, "/v1/realtime?model=nobody") == (404, "model_not_found")
        assert await refusal(gateway, "/v1/realtime?call_id=1") == (400, "invalid_request")
        plain = await gateway.client.get("/v1/realtime")
        assert plain.status_code == 400
        assert "WebSocket" in plain.json()["error"]["message"]


async def test_a_key_keeps_to_its_models_and_limits_within_a_session(serve: Start) -> None:
    async with serve() as gateway:
        await gateway.keys.create("boss", admin=True)
        bound = await gateway.keys.create("bound", models=("cloud/*",))
        headers = {"authorization": f"Bearer {bound.secret}"}
        assert await refusal(gateway, additional_headers=headers) == (403, "permission_denied")
        slow = await gateway.keys.create("slow", limits=KeyLimits(requests=Rate(minute=1)))
        async with connected(gateway, key=slow.secret) as connection:
            await connection.session.update(session=TEXT)
            await say(connection, "Hi")
            assert (await until(connection, "response.done"))[-1].response.status == "completed"
            await connection.response.create()
            failed = (await until(connection, "response.done"))[-1].response
            assert failed.status_details.error.code == "rate_limit_exceeded"
            await gateway.keys.revoke(slow.info.id)
            await connection.response.create()
            failed = (await until(connection, "response.done"))[-1].response
            assert failed.status_details.error.code == "invalid_api_key"


async def test_sessions_are_bounded_in_all_and_per_key(serve: Start) -> None:
    async with serve(realtime={"sessions": 2, "sessions_per_key": 1}) as gateway:
        async with socket(gateway) as connection:
            await receive(connection)
            assert await refusal(gateway) == (429, "rate_limit_exceeded")
        async with asyncio.timeout(5):
            while gateway.services.in_flight.sessions:
                await asyncio.sleep(0.01)
        async with socket(gateway) as connection:
            await receive(connection)
    async with serve(realtime={"sessions": 0}) as gateway:
        assert await refusal(gateway) == (503, "service_unavailable")


async def test_one_key_does_not_take_every_session(serve: Start) -> None:
    async with serve(realtime={"sessions": 4}) as gateway, AsyncExitStack() as stack:
        weak, other = await gateway.keys.create("weak"), await gateway.keys.create("other")
        greedy = {"authorization": f"Bearer {weak.secret}"}
        for _ in range(3):
            await receive(await stack.enter_async_context(socket(gateway, additional_headers=greedy)))
        assert await refusal(gateway, additional_headers=greedy) == (429, "rate_limit_exceeded")
        modest = {"authorization": f"Bearer {other.secret}"}
        await receive(await stack.enter_async_context(socket(gateway, additional_headers=modest)))


async def test_a_session_ends_after_its_time_and_after_silence(serve: Start) -> None:
    for settings, code in (
        ({"session_seconds": 0.2}, "session_expired"),
        ({"idle_seconds": 0.2}, "session_idle"),
    ):
        async with serve(realtime=settings) as gateway, socket(gateway) as connection:
            events, status = await closed(connection)
            assert events[-1]["error"]["code"] == code
            assert status == 1000


async def test_garbage_is_answered_and_too_much_of_it_ends_the_session(serve: Start) -> None:
    async with serve() as gateway:
        async with socket(gateway) as connection:
            await receive(connection)
            for data in (b"\x00\xff", os.urandom(100), "{", "[" * 100_000, '{"type": 1}', "null"):
                await connection.send(data)
                event = await receive(connection)
                assert (event["type"], event["error"]["type"]) == ("error", "invalid_request_error")
            await connection.send(orjson.dumps({"type": "session.update", "session": TEXT}).decode())
            assert (await receive(connection))["type"] == "session.updated"
            for _ in range(50):
                await connection.send("garbage")
            events, status = await closed(connection)
        assert events[-1]["error"]["code"] == "too_many_invalid_events"
        assert status == 1008


async def test_a_refused_handshake_is_no_error_of_the_server(serve: Start, caplog: Any) -> None:
    async with serve() as gateway:
        assert await refusal(gateway, "/v1/chat/completions") == (404, "not_found")
        assert await refusal(gateway, origin="https://evil.example") == (403, "permission_denied")
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_an_event_that_is_too_large_closes_the_session_alone(serve: Start, caplog: Any, logs: Any) -> None:
    async with (
        serve(realtime={"message_bytes": 10_000}) as gateway,
        connected(gateway) as other,
        socket(gateway) as connection,
    ):
        await receive(connection)
        gateway.backend.script = (chunk("Once"), asyncio.Event())
        await connection.send(orjson.dumps({"type": "session.update", "session": TEXT}).decode())
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "A story"}]}
        await connection.send(orjson.dumps({"type": "conversation.item.create", "item": item}).decode())
        await connection.send(b'{"type": "response.create"}')
        while (await receive(connection))["type"] != "response.output_text.delta":
            pass
        gateway.backend.script = ANSWER
        await connection.send("x" * 20_000)
        events, status = await closed(connection)
        assert status == 1009
        assert [event["type"] for event in events] == ["error"]
        assert events[0]["error"]["code"] == "payload_too_large"
        assert "10,000" in events[0]["error"]["message"]
        await other.session.update(session=TEXT)
        await say(other, "Hi")
        assert (await until(other, "response.done"))[-1].response.status == "completed"
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []
    assert "Traceback" not in logs.getvalue() + caplog.text


async def test_audio_faster_than_time_is_bounded(serve: Start) -> None:
    async with serve(realtime={"buffer_seconds": 2}) as gateway, connected(gateway) as connection:
        audio = base64.b64encode(bytes(48_000)).decode()
        await connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        for _ in range(3):
            await connection.input_audio_buffer.append(audio=audio)
        (error,) = of_type(await until(connection, "error"), "error")
        assert "2 seconds" in error.error.message
        await connection.input_audio_buffer.commit()
        await until(connection, "input_audio_buffer.committed")


async def test_a_client_that_vanishes_ends_its_response_and_its_upstream(serve: Start) -> None:
    async with serve() as gateway:
        gateway.backend.script = (chunk("Once"), asyncio.Event())
        async with connected(gateway) as connection:
            await connection.session.update(session=TEXT)
            await say(connection, "A story")
            await until(connection, "response.output_text.delta")
            connection._connection.transport.abort()
            await asyncio.wait_for(gateway.backend.closed.wait(), 5)
        async with asyncio.timeout(5):
            while gateway.services.in_flight.sessions or gateway.services.in_flight.count:
                await asyncio.sleep(0.01)
        assert not gateway.services.in_flight.works


async def test_stopping_ends_idle_sessions_at_once_and_others_after_their_response(serve: Start) -> None:
    held = asyncio.Event()
    async with serve() as gateway:
        gateway.backend.script = (chunk("Once"), held, chunk(finish="stop"), usage_chunk())
        async with connected(gateway) as busy, socket(gateway) as idle:
            await receive(idle)
            await busy.session.update(session=TEXT)
            await say(busy, "A story")
            await until(busy, "response.output_text.delta")
            gateway.services.in_flight.begin_drain()
            events, status = await closed(idle)
            assert (events[-1]["error"]["code"], status) == ("draining", 1012)
            assert await refusal(gateway) == (503, "draining")
            held.set()
            last = await until(busy, "error")
            assert of_type(last, "response.done")[0].response.status == "completed"
            assert last[-1].error.code == "draining"
        assert await gateway.services.in_flight.drained(5)


async def test_past_the_drains_deadline_a_session_is_told_and_ended(serve: Start) -> None:
    async with serve() as gateway:
        gateway.backend.script = (chunk("Once"), asyncio.Event())
        async with connected(gateway) as connection:
            await connection.session.update(session=TEXT)
            await say(connection, "A story")
            await until(connection, "response.output_text.delta")
            assert not await gateway.services.in_flight.drained(0.05, grace=5)
            events = await until(connection, "error")
            assert events[-1].error.code == "draining"
        assert not gateway.services.in_flight.count
    (item,) = of_type(events, "response.output_item.done")
    assert (item.item.status, item.item.content[0].text) == ("incomplete", "Once")
    (done,) = of_type(events, "response.done")
    assert (done.response.status, done.response.status_details.error.code) == ("failed", "draining")
    told = done.response.roundhouse
    assert told["model"] == "parrot"


async def test_a_session_that_is_ended_tells_the_end_of_its_response(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        gateway.backend.script = (chunk("Once"), asyncio.Event())
        await connection.session.update(session=TEXT)
        await say(connection, "A story")
        await until(connection, "response.output_text.delta")
        for _ in range(50):
            await connection._connection.send("garbage")
        events = await until(connection, "response.done")
        assert events[-1].response.status == "failed"
        assert events[-1].response.status_details.error.code == "too_many_invalid_events"
        assert (await until(connection, "error"))[-1].error.code == "too_many_invalid_events"


async def test_sessions_of_the_beta_keep_their_shapes(serve: Start) -> None:
    headers = {"openai-beta": "realtime=v1"}
    async with serve() as gateway, socket(gateway, additional_headers=headers) as connection:
        created = await receive(connection)
        assert created["session"]["modalities"] == ["audio", "text"]
        assert created["session"]["input_audio_format"] == "pcm16"
        assert created["session"]["turn_detection"]["type"] == "server_vad"
        assert (await receive(connection))["type"] == "conversation.created"
        update = {"modalities": ["text"], "voice": "wren", "input_audio_transcription": {"model": "auto"}}
        await connection.send(orjson.dumps({"type": "session.update", "session": update}).decode())
        updated = await receive(connection)
        assert updated["session"]["modalities"] == ["text"]
        assert updated["session"]["voice"] == "wren"
        content = [{"type": "input_text", "text": "Hi"}]
        item = {"type": "message", "role": "user", "content": content}
        await connection.send(orjson.dumps({"type": "conversation.item.create", "item": item}).decode())
        await connection.send(b'{"type": "response.create"}')
        kinds = []
        while (event := await receive(connection))["type"] != "response.done":
            kinds.append(event["type"])
        assert "response.text.delta" in kinds
        assert "conversation.item.created" in kinds
        assert event["response"]["output"][0]["content"][0]["type"] == "text"
