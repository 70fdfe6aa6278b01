"""Videos of a provider through the whole gateway: keys, money, limits, traces, learning, and a restart."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from catalog.types import Json
from server.app import create_app
from server.assembly import open_runtime
from server.settings import Settings
from tests.backends.workers.conftest import fake_engines
from tests.fakes.films import tiny_mp4
from tests.fakes.google_videos import FakeGoogleVideos
from tests.fakes.openai import FakeOpenAI
from tests.fakes.pictures import encoded, quarters
from tests.fakes.server import Fault

ASK: Json = {"model": "film", "prompt": "A fox at dawn.", "seconds": "8", "size": "1280x720"}


def row(name: str, endpoint: str, *, model: str = "fake-film", **fields: Any) -> Json:
    return {
        "id": name,
        "capabilities": ["video", "vision", "video_input"],
        "source": {"kind": "upstream", "endpoint": endpoint, "model": model},
        **fields,
    }


@asynccontextmanager
async def gateway(
    folder: Path, fake: FakeOpenAI | FakeGoogleVideos, models: list[Json], **more: Any
) -> AsyncIterator[httpx.AsyncClient]:
    endpoint = {"id": "x", "base_url": fake.base_url, **more.pop("endpoint", {})}
    settings = Settings.model_validate(
        {
            "data_dir": folder / "data",
            "endpoint": [endpoint],
            "model": models,
            "backends": {"video_poll": 0.01},
            "routing": {"unnoticed": 60.0},
            **more,
        }
    )
    app = create_app(settings, open_runtime=partial(open_runtime, engines=fake_engines()))
    async with AsyncExitStack() as held:
        await held.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=app)
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)
        yield await held.enter_async_context(client)


async def made(client: httpx.AsyncClient, body: Json, **sent: Any) -> tuple[httpx.Response, Json]:
    """The answer to a request for a video, and the video once it has ended."""
    answer = await client.post("/v1/videos", json=body, **sent)
    if answer.status_code != 200:
        return answer, {}
    async with asyncio.timeout(20):
        while True:
            video: Json = (await client.get(f"/v1/videos/{answer.json()['id']}", **sent)).json()
            if video["status"] in ("completed", "failed"):
                return answer, video
            await asyncio.sleep(0.02)


async def test_a_second_of_video_is_paid_for_and_told(tmp_path: Path) -> None:
    async with (
        FakeOpenAI() as fake,
        gateway(tmp_path, fake, [row("film", "x", price={"video": 0.1})]) as client,
    ):
        answer, video = await made(client, ASK)
        assert (video["status"], video["error"]) == ("completed", None)
        assert answer.headers["x-roundhouse-model"] == "film"
        usage = (await client.get("/v1/usage")).json()
        assert float(usage["total"]["cost"]) == pytest.approx(0.8)
        trace = (await client.get(f"/v1/traces/{video['x-roundhouse']['trace']}")).json()
        assert trace["attempts"][0]["cost"] == pytest.approx(0.8)
        told = (
            await client.post("/v1/outcomes", json={"trace": video["x-roundhouse"]["trace"], "accepted": True})
        ).status_code
        assert told == 200
        fake.video_ending = {"status": "failed", "error": {"code": "internal_error", "message": "It broke."}}
        _, failed = await made(client, ASK)
        assert (failed["status"], failed["error"]["code"]) == ("failed", "internal_error")
        assert "It broke" in failed["error"]["message"]
        assert float((await client.get("/v1/usage")).json()["total"]["cost"]) == pytest.approx(0.8)


async def test_a_cap_refuses_a_video_that_may_cost_more(tmp_path: Path) -> None:
    async with (
        FakeOpenAI() as fake,
        gateway(tmp_path, fake, [row("film", "x", price={"video": 0.1})], spend={"caps": {"day": 1.0}}) as client,
    ):
        assert (await made(client, ASK))[1]["status"] == "completed"
        refused, _ = await made(client, ASK)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert len(fake.video_calls) == 1
        assert (await made(client, {**ASK, "routing": {"max_cost": 0.01}}))[0].status_code in (400, 429)


async def test_the_keys_limits_hold_and_a_key_that_was_revoked_gets_no_video(tmp_path: Path) -> None:
    admin = {"authorization": "Bearer admin-0123456789abcdef"}
    async with (
        FakeOpenAI() as fake,
        gateway(
            tmp_path, fake, [row("film", "x"), row("other", "x")], admin_keys=["admin-0123456789abcdef"]
        ) as client,
    ):
        limits = {"name": "team", "models": ["film"], "limits": {"requests": {"minute": 1}}}
        key = (await client.post("/v1/admin/keys", json=limits, headers=admin)).json()
        headers = {"authorization": f"Bearer {key['secret']}"}
        assert (await made(client, ASK, headers=headers))[1]["status"] == "completed"
        limited, _ = await made(client, ASK, headers=headers)
        assert limited.status_code == 429, limited.text
        denied, _ = await made(client, {**ASK, "model": "other"}, headers=headers)
        assert (denied.status_code, denied.json()["error"]["code"]) == (403, "permission_denied")
        assert len(fake.video_calls) == 1


async def test_what_the_provider_does_not_take_is_named_and_refused_if_strict(tmp_path: Path) -> None:
    endpoint = {"protocol": "google", "key_env": ["VIDEO_TEST_KEY"]}
    async with FakeGoogleVideos() as fake:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VIDEO_TEST_KEY", fake.key)
            models = [row("film", "x", model="gemini-omni-1.2-flash")]
            async with gateway(tmp_path, fake, models, endpoint=endpoint) as client:
                body = {**ASK, "steps": 3, "fps": 24}
                answer, video = await made(client, body)
                assert answer.headers["x-roundhouse-dropped"] == "fps, steps"
                assert video["x-roundhouse"]["dropped"] == ["fps", "steps"]
                strict, _ = await made(client, {**body, "routing": {"strict": True}})
                assert (strict.status_code, strict.json()["error"]["code"]) == (400, "unsupported_parameter")
                wrong, _ = await made(client, {**ASK, "size": "512x512"})
                assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "size")
                long, _ = await made(client, {**ASK, "seconds": "60"})
                assert long.status_code == 400
                assert "from 3 to 15" in long.json()["error"]["message"]
                assert len(fake.asked) == 1


async def test_the_router_chooses_by_what_a_video_is_made_from_and_falls_back(tmp_path: Path) -> None:
    models = [row("film", "x"), {**row("text", "x"), "capabilities": ["video"]}]
    async with FakeOpenAI() as fake, gateway(tmp_path, fake, models) as client:
        answer, _ = await made(client, {**ASK, "model": "text", "task": "create"})
        assert answer.status_code == 400
        picture = {"image_url": f"data:image/png;base64,{b64encode(encoded(quarters(8, 8))).decode()}"}
        refused, _ = await made(client, {**ASK, "model": "text", "input_reference": picture})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_capability_mismatch")
        chosen, video = await made(client, {**ASK, "model": "auto", "input_reference": picture})
        assert chosen.headers["x-roundhouse-model"] == "film"
        assert video["status"] == "completed"
        fake.script(Fault(status=503))
        fell, video = await made(client, {**ASK, "model": "auto"})
        assert (fell.headers["x-roundhouse-attempts"], video["status"]) == ("2", "completed")
        listed = (await client.get("/v1/models/film")).json()
        assert "video" in listed["capabilities"]
        plan = (await client.post("/v1/route", json={**ASK, "capability": "video"})).json()
        assert (plan["endpoint"], plan["request"]["capability"]) == ("/v1/videos", "video")
        assert "film" in plan["order"]


async def test_after_a_restart_the_same_work_is_fetched_with_the_key_that_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEO_TEST_KEYS", "one-key-0123456789,two-key-0123456789,three-key-0123456789")
    endpoint = {"key_env": ["VIDEO_TEST_KEYS"]}
    models = [row("film", "x", price={"video": 0.1})]
    async with FakeOpenAI() as fake:
        fake.video_looks = 1_000_000
        async with gateway(tmp_path, fake, models, endpoint=endpoint) as client:
            begun = (await client.post("/v1/videos", json=ASK)).json()
            assert begun["status"] == "in_progress"
            await fake.call(2)
        asked = fake.calls[0].headers["authorization"]
        fake.video_looks = 0
        before = len(fake.calls)
        async with gateway(tmp_path, fake, models, endpoint=endpoint) as client:
            async with asyncio.timeout(20):
                while (video := (await client.get(f"/v1/videos/{begun['id']}")).json())["status"] != "completed":
                    assert video["status"] != "failed", video
                    await asyncio.sleep(0.05)
            assert (await client.get(f"/v1/videos/{begun['id']}/content")).content == tiny_mp4()
            assert len(fake.video_calls) == 1
            assert {call.headers["authorization"] for call in fake.calls[before:]} == {asked}
            await client.delete(f"/v1/videos/{begun['id']}")
            assert fake.removed_videos == ["video_1"]
            assert fake.calls[-1].headers["authorization"] == asked


async def test_a_video_that_a_provider_may_have_been_asked_for_is_not_asked_for_twice(tmp_path: Path) -> None:
    models = [row("film", "x")]
    async with FakeOpenAI() as fake:
        fake.script(Fault(hold_after=0))
        async with gateway(tmp_path, fake, models) as client:
            begun = (await client.post("/v1/videos", json=ASK)).json()
            assert begun["status"] == "queued"
            await fake.call(0)
        async with gateway(tmp_path, fake, models) as client:
            async with asyncio.timeout(20):
                while (video := (await client.get(f"/v1/videos/{begun['id']}")).json())["status"] == "queued":
                    await asyncio.sleep(0.05)
            assert video["status"] == "failed"
            assert "stopped while it asked" in video["error"]["message"]
            assert len([call for call in fake.calls if call.method == "POST"]) == 1
