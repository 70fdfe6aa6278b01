"""Videos: they outlive their request, are fetched with OpenAI's SDK, cancelled, remixed, and deleted."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from openai import AsyncOpenAI
from openai.types import Video

from backends.wire.video.events import accepted, completed, progress
from catalog.errors import UndecodableMedia, UpstreamError, WorkerFailed
from server.storage import runner as runner_module
from tests.fakes.films import tiny_mp4
from tests.fakes.pictures import encoded, quarters
from tests.server.api.test_openai_sdk import sdk
from tests.server.conftest import Gateway, Start

pytestmark = pytest.mark.filterwarnings("ignore:.*Sora API:DeprecationWarning")
MP4 = tiny_mp4()
MADE = (progress(30), MP4[:100], MP4[100:], completed(2.0, size="64x48", seed=7, fps=4))
ASK: Any = {"model": "parrot", "prompt": "A fox at dawn."}


def form(**fields: str) -> dict[str, Any]:
    """A multipart form without a file, as OpenAI's SDKs send it."""
    return {name: (None, value) for name, value in fields.items()}


def dumped(**fields: str) -> str:
    return orjson.dumps(fields).decode()


def png(width: int, height: int) -> bytes:
    return encoded(quarters(width, height))


async def ended(client: AsyncOpenAI, name: str) -> Video:
    async with asyncio.timeout(20):
        while (video := await client.videos.retrieve(name)).status in ("queued", "in_progress"):
            await asyncio.sleep(0.02)
    return video


def files(gateway: Gateway) -> list[str]:
    runtime = gateway.services.runtime
    assert runtime is not None
    return sorted(path.name.partition(".")[2] for path in Path(runtime.files.folder).iterdir())


async def test_a_video_is_made_looked_at_and_fetched(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gate = asyncio.Event()
        gateway.backend.video = (progress(30), gate, *MADE[1:])
        begun = await client.videos.create(seconds="4", size="720x1280", **ASK)
        assert (begun.object, begun.status, begun.seconds, begun.size) == ("video", "in_progress", "4", "720x1280")
        with pytest.raises(openai.BadRequestError, match="not finished"):
            await client.videos.download_content(begun.id)
        gate.set()
        done = await ended(client, begun.id)
        assert (done.status, done.progress, done.error, done.prompt) == ("completed", 100, None, "A fox at dawn.")
        assert (done.seconds, done.size, done.model) == ("2", "64x48", "parrot")
        assert done.completed_at is not None
        assert done.expires_at is not None
        notes = (done.model_extra or {})["x-roundhouse"]
        assert (notes["seed"], notes["reason"]) == (7, "named by the caller")
        assert (await client.videos.download_content(done.id)).read() == MP4
        assert [video.id async for video in client.videos.list()] == [done.id]


async def test_the_sdk_waits_for_a_video_until_it_is_there(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.video = MADE
        assert (await client.videos.create_and_poll(poll_interval_ms=20, **ASK)).status == "completed"


async def test_stills_are_a_webp_of_the_first_frame_and_a_jpeg_of_sixteen(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.video = MADE
        video = await client.videos.create_and_poll(poll_interval_ms=20, **ASK)
        for _ in range(2):
            thumbnail = (await client.videos.download_content(video.id, variant="thumbnail")).read()
            assert (thumbnail[:4], thumbnail[8:12]) == (b"RIFF", b"WEBP")
        sheet = (await client.videos.download_content(video.id, variant="spritesheet")).read()
        assert sheet[:3] == b"\xff\xd8\xff"
        assert files(gateway) == ["mp4", "spritesheet", "thumbnail"]
        await client.videos.delete(video.id)
        assert files(gateway) == []


async def test_a_refusal_of_the_model_is_the_answer_to_the_request(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.video = (UndecodableMedia("The picture cannot be decoded.", param="input_reference"),)
        with pytest.raises(openai.BadRequestError, match="cannot be decoded") as refused:
            await client.videos.create(**ASK)
        assert refused.value.param == "input_reference"
        assert [video async for video in client.videos.list()] == []
        assert files(gateway) == []


async def test_a_failure_later_is_told_in_the_video(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gate = asyncio.Event()
        gateway.backend.video = (progress(30), gate, MP4[:100], WorkerFailed("The worker died."))
        begun = await client.videos.create(**ASK)
        gate.set()
        failed = await ended(client, begun.id)
        assert failed.error is not None
        assert (failed.status, failed.error.code, failed.error.message) == (
            *("failed", "worker_failed", "The worker died."),
        )
        with pytest.raises(openai.BadRequestError, match="was not made: The worker died"):
            await client.videos.download_content(begun.id)
        assert files(gateway) == []


async def test_a_file_that_is_no_video_is_a_failure(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        for content in (b"<html>An error page of a proxy</html>", MP4[:40] + b"\0" * 400):
            gateway.backend.video = (progress(30), content, completed(2.0))
            failed = await client.videos.create_and_poll(poll_interval_ms=20, **ASK)
            assert failed.error is not None
            assert (failed.status, failed.error.code) == ("failed", "upstream_protocol_error")


async def test_cancelling_stops_the_model_and_deletes_what_a_provider_has(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.video = (accepted("op-1"), progress(30), asyncio.Event())
        begun = await client.videos.create(**ASK)
        answer = await gateway.client.post(f"/v1/videos/{begun.id}/cancel")
        assert (answer.json()["status"], answer.json()["error"]["code"]) == ("failed", "cancelled")
        async with asyncio.timeout(5):
            await gateway.backend.closed.wait()
        assert gateway.backend.discarded == ["op-1"]
        again = await gateway.client.post(f"/v1/videos/{begun.id}/cancel")
        assert again.json()["status"] == "failed"


async def test_deleting_a_video_in_the_making_stops_it(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.video = (progress(30), asyncio.Event())
        begun = await client.videos.create(**ASK)
        gone = await client.videos.delete(begun.id)
        assert (gone.deleted, gone.object) == (True, "video.deleted")
        async with asyncio.timeout(5):
            await gateway.backend.closed.wait()
        with pytest.raises(openai.NotFoundError):
            await client.videos.retrieve(begun.id)


async def test_deleting_a_finished_video_deletes_it_at_its_provider_too(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.video = (accepted("op-1"), *MADE)
        video = await client.videos.create_and_poll(poll_interval_ms=20, **ASK)
        await client.videos.delete(video.id)
        assert gateway.backend.discarded == ["op-1"]


async def test_a_remix_goes_on_from_the_video_and_its_providers_name_for_it(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.video = (accepted("op-1"), *MADE)
        first = await client.videos.create_and_poll(poll_interval_ms=20, seconds="8", **ASK)
        remixed = await client.videos.remix(first.id, prompt="At dusk.")
        assert (remixed.remixed_from_video_id, remixed.seconds, remixed.prompt) == (first.id, "8", "At dusk.")
        assert (await ended(client, remixed.id)).status == "completed"
        request = gateway.backend.requests[-1]
        assert (request.task, request.source_id, request.source) == ("remix", "op-1", MP4)
        with pytest.raises(openai.NotFoundError):
            await client.videos.remix("video_of_nobody", prompt="x")


async def test_an_edit_and_an_extension_take_a_video_by_its_id_or_as_a_file(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.video = MADE
        first = await client.videos.create_and_poll(poll_interval_ms=20, **{**ASK, "size": "64x48"})
        for sent in (
            form(prompt="In snow.", **{"video[id]": first.id}),
            form(prompt="x", video=dumped(id=first.id)),
        ):
            edited = await gateway.client.post("/v1/videos/edits", files=sent)
            assert edited.status_code == 200, edited.text
            await ended(client, edited.json()["id"])
            request = gateway.backend.requests[-1]
            assert (request.task, request.source, request.model, request.size) == ("edit", MP4, "parrot", "64x48")
        longer = await client.videos.extend(
            prompt="It runs.", seconds="8", video=("a.mp4", io.BytesIO(MP4)), extra_body={"model": "parrot"}
        )
        await ended(client, longer.id)
        request = gateway.backend.requests[-1]
        assert (request.task, request.source, request.seconds) == ("extend", MP4, "8")
        for given in ({}, {"video": {"id": first.id, "more": 1}}):
            answer = await gateway.client.post("/v1/videos/extensions", json={"prompt": "x", **given})
            assert answer.status_code == 400, answer.text
        no_video = ("a.mp4", io.BytesIO(b"GIF89a............"))
        with pytest.raises(openai.BadRequestError, match="MP4"):
            await client.videos.edit(prompt="x", video=no_video)


async def test_a_first_frame_comes_as_a_file_a_data_url_or_the_id_of_a_file(serve: Start) -> None:
    async with serve() as gateway, sdk(gateway) as client:
        picture = png(64, 48)
        url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        upload = await client.files.create(file=("a.png", picture), purpose="vision")
        gateway.backend.video = MADE
        sent = await client.videos.create_and_poll(
            input_reference=("a.png", io.BytesIO(picture)), poll_interval_ms=20, **ASK
        )
        assert sent.status == "completed"
        ways: tuple[Any, ...] = (
            {"files": form(**ASK, **{"input_reference[image_url]": url})},
            {"files": form(**ASK, **{"input_reference[file_id]": upload.id})},
            {"json": {**ASK, "input_reference": {"image_url": url}, "steps": 3}},
        )
        for way in ways:
            answer = await gateway.client.post("/v1/videos", **way)
            assert answer.status_code == 200, answer.text
            await ended(client, answer.json()["id"])
        assert [(each.image, each.image_type) for each in gateway.backend.requests] == [(picture, "image/png")] * 4
        assert gateway.backend.requests[-1].steps == 3
        assert not {"image", "source"} & set(files(gateway))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seconds": "0"}, "seconds"),
        ({"seconds": "121"}, "seconds"),
        ({"seconds": "4.5"}, "seconds"),
        ({"size": "720"}, "size"),
        ({"size": "99999x99999"}, "size"),
        ({"prompt": ""}, "prompt"),
        ({"steps": "many"}, "steps"),
        ({"fps": 0}, "fps"),
        ({"source_id": "op-1"}, "source_id"),
        ({"accepted": "op-1"}, "accepted"),
        ({"task": "remix"}, "task"),
        (
            {
                "input_reference": {
                    "image_url": f"data:image/png;base64,{base64.b64encode(encoded(quarters(8, 8))[:60]).decode()}"
                }
            },
            "input_reference.image_url",
        ),
        ({"input_reference": {"image_url": "data:image/svg+xml;base64,PHN2Zy8+"}}, "input_reference.image_url"),
        ({"input_reference": {"image_url": "http://169.254.169.254/x.png"}}, "input_reference.image_url"),
        ({"input_reference": {"file_id": "file-of-nobody"}}, "input_reference.file_id"),
        ({"input_reference": {}}, "input_reference"),
    ],
)
async def test_a_field_that_is_wrong_is_named(gateway: Gateway, fields: dict[str, Any], param: str) -> None:
    answer = await gateway.client.post("/v1/videos", json={**ASK, **fields})
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["param"] == param
    assert gateway.backend.requests == []


async def test_a_picture_with_a_billion_pixels_is_refused_by_its_head(gateway: Gateway) -> None:
    bomb = bytearray(png(4, 4))
    bomb[16:24] = (50_000).to_bytes(4, "big") + (20_000).to_bytes(4, "big")
    answer = await gateway.client.post(
        "/v1/videos", data=ASK, files={"input_reference": ("a.png", bytes(bomb), "image/png")}
    )
    assert answer.status_code == 413, answer.text
    assert answer.json()["error"]["param"] == "input_reference"


async def test_a_key_sees_its_own_videos_alone(serve: Start) -> None:
    async with serve(api_keys=["one-0123456789abcdef", "two-0123456789abcdef"]) as gateway:
        gateway.backend.video = MADE
        url = f"{gateway.client.base_url}/v1"
        async with (
            AsyncOpenAI(base_url=url, api_key="one-0123456789abcdef", max_retries=0) as one,
            AsyncOpenAI(base_url=url, api_key="two-0123456789abcdef", max_retries=0) as two,
        ):
            video = await one.videos.create_and_poll(poll_interval_ms=20, **ASK)
            assert [each async for each in two.videos.list()] == []
            for wrong in (
                two.videos.retrieve(video.id),
                two.videos.download_content(video.id),
                two.videos.remix(video.id, prompt="x"),
                two.videos.delete(video.id),
            ):
                with pytest.raises(openai.NotFoundError):
                    await wrong
            assert (await one.videos.retrieve(video.id)).status == "completed"


async def test_characters_are_refused_with_what_to_do_instead(gateway: Gateway) -> None:
    answer = await gateway.client.post("/v1/videos/characters", json={"name": "Mossy"})
    assert answer.status_code == 400
    assert "input_reference" in answer.json()["error"]["message"]


async def interrupted(gateway: Gateway) -> None:
    """Stop the work as a process that ends does, and begin anew."""
    runtime = gateway.services.runtime
    assert runtime is not None
    assert runtime.runner is not None
    await runtime.runner.stop()
    runtime.runner.start()


async def test_after_a_restart_work_at_a_provider_is_looked_at_and_not_asked_for_again(
    serve: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "LOOK", 0.05)
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.video = (accepted("op-1"), progress(30), asyncio.Event())
        begun = await client.videos.create(**ASK)
        gateway.backend.video = (accepted("op-1"), *MADE)
        await interrupted(gateway)
        assert (await ended(client, begun.id)).status == "completed"
        assert [request.accepted for request in gateway.backend.requests] == [None, "op-1"]


async def test_after_a_restart_a_local_video_is_begun_again(serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "LOOK", 0.05)
    async with serve() as gateway, sdk(gateway) as client:
        gateway.backend.video = (progress(30), asyncio.Event())
        begun = await client.videos.create(input_reference=("a.png", png(8, 8)), **ASK)
        gateway.backend.video = MADE
        await interrupted(gateway)
        assert (await ended(client, begun.id)).status == "completed"
        assert [request.image for request in gateway.backend.requests] == [png(8, 8)] * 2


async def test_work_that_no_request_waits_for_is_tried_again_where_that_may_help(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as gateway:
        monkeypatch.setattr("server.videos.work.rest_after", lambda _error, _tries: 0.0)
        tries = iter([(UpstreamError("Overloaded."),), (UpstreamError("Overloaded."),), MADE])
        original = gateway.backend.film

        def film(upstream: Any, request: Any) -> Any:
            gateway.backend.video = next(tries)
            return original(upstream, request)

        monkeypatch.setattr(gateway.backend, "film", film)
        monkeypatch.setattr("server.api.stored.videos.PATIENCE", 0.0)
        answer = await gateway.client.post("/v1/videos", json=ASK)
        async with asyncio.timeout(20):
            while (await gateway.client.get(f"/v1/videos/{answer.json()['id']}")).json()["status"] != "completed":
                await asyncio.sleep(0.02)
        assert len(gateway.backend.requests) == 3
