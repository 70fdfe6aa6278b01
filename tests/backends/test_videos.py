"""Videos at providers: asked for, looked at until they have finished, fetched, and never asked for twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from backends.base import Upstream
from backends.clouds.vertex.backend import VertexBackend
from backends.google import GoogleBackend
from backends.http import HttpClient
from backends.openai.backend import OpenAIBackend
from backends.settings import BackendSettings
from backends.wire.video.events import VideoItem
from backends.wire.video.request import DiscardRequest, VideoRequest
from catalog.clouds import CloudAccount
from catalog.errors import (
    CapabilityMismatch,
    InvalidRequest,
    RoundhouseError,
    UpstreamError,
    UpstreamProtocolError,
)
from catalog.types import Json
from tests.fakes.films import tiny_mp4
from tests.fakes.google_videos import FakeGoogleVideos
from tests.fakes.openai import FakeOpenAI
from tests.fakes.pictures import encoded, quarters
from tests.fakes.server import Fault

PICTURE = encoded(quarters(16, 16))
OMNI, VEO = "gemini-omni-1.2-flash", "veo-3.1-generate-001"


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient(BackendSettings(video_poll=0.01)) as client:
        yield client


def asked(**fields: Any) -> VideoRequest:
    return VideoRequest.model_validate({"model": "m", "prompt": "A fox at dawn.", **fields})


def at(fake: Any, model: str = "fake-film", protocol: str = "openai", **fields: Any) -> Upstream:
    return Upstream("x", protocol, fake.base_url, model, api_key=fields.pop("api_key", None), **fields)


async def made(backend: Any, upstream: Upstream, request: VideoRequest) -> tuple[list[Json], bytes]:
    """The events of a video, and its file."""
    events: list[Json] = []
    data = b""
    item: VideoItem
    async for item in backend.film(upstream, request):
        if isinstance(item, bytes):
            data += item
        else:
            events.append(item)
    return events, data


# ---- OpenAI's wire


async def test_a_video_of_openai_is_asked_for_in_its_form_looked_at_and_fetched(http: HttpClient) -> None:
    async with FakeOpenAI() as fake:
        fake.video_looks = 2
        request = asked(seconds="8", size="1280x720", image=PICTURE, image_type="image/png")
        events, data = await made(OpenAIBackend(http), at(fake), request)
        assert events == [
            {"type": "video.accepted", "id": "video_1"},
            {"type": "video.progress", "progress": 40},
            {"type": "video.progress", "progress": 40},
            {"type": "video.completed", "seconds": 8.0, "size": "1280x720"},
        ]
        assert data == tiny_mp4()
        call = fake.video_calls["video_1"]
        assert call.body == {
            "model": "fake-film", "prompt": "A fox at dawn.", "seconds": "8", "size": "1280x720",
        }  # fmt: skip
        assert call.files == {"input_reference": PICTURE}


async def test_other_servers_of_the_wire_get_the_samplers_by_their_names(http: HttpClient) -> None:
    async with FakeOpenAI() as fake:
        fake.takes_all = True
        request = asked(steps=7, fps=16, negative_prompt="hens", generate_audio=True, seed=3, flow_shift=5)
        assert OpenAIBackend(http).dropped(request, at(fake)) == ()
        await made(OpenAIBackend(http), at(fake), request)
        assert fake.video_calls["video_1"].body == {
            "model": "fake-film", "prompt": "A fox at dawn.", "seconds": "4", "num_inference_steps": "7",
            "fps": "16", "negative_prompt": "hens", "generate_sound": "true", "seed": "3", "flow_shift": "5",
        }  # fmt: skip


def test_what_openai_does_not_take_is_named() -> None:
    upstream = Upstream("openai", "openai", "https://api.openai.com/v1", "sora-2")
    request = asked(steps=7, fps=16, seed=3, size="1280x720", flow_shift=5)
    dropped = OpenAIBackend(HttpClient()).dropped(request, upstream)
    assert sorted(dropped) == ["flow_shift", "fps", "seed", "steps"]


async def test_a_remix_an_edit_and_an_extension_name_the_source_or_bring_it(http: HttpClient) -> None:
    async with FakeOpenAI() as fake:
        backend = OpenAIBackend(http)
        await made(backend, at(fake), asked())
        await made(backend, at(fake), asked(task="remix", source_id="video_1", source=b"unused"))
        await made(backend, at(fake), asked(task="edit", source_id="video_1"))
        await made(backend, at(fake), asked(task="extend", source=tiny_mp4(), seconds="12"))
        calls = [fake.video_calls[f"video_{number}"] for number in (2, 3, 4)]
        assert [call.path for call in calls] == [
            "/v1/videos/video_1/remix", "/v1/videos/edits", "/v1/videos/extensions",
        ]  # fmt: skip
        assert calls[0].body == {"prompt": "A fox at dawn."}
        assert calls[1].body == {"model": "fake-film", "prompt": "A fox at dawn.", "video[id]": "video_1"}
        assert calls[2].body == {"model": "fake-film", "prompt": "A fox at dawn.", "seconds": "12"}
        assert calls[2].files == {"video": tiny_mp4()}


async def test_work_that_was_accepted_is_looked_at_and_not_asked_for_again(http: HttpClient) -> None:
    async with FakeOpenAI() as fake:
        backend = OpenAIBackend(http)
        await made(backend, at(fake), asked())
        events, data = await made(backend, at(fake), asked(accepted="video_1"))
        assert events[0] == {"type": "video.accepted", "id": "video_1"}
        assert data == tiny_mp4()
        assert len(fake.video_calls) == 1


async def test_a_look_that_fails_is_made_again(http: HttpClient) -> None:
    async with FakeOpenAI() as fake:
        fake.script(Fault(), Fault(status=503), Fault(die_after=-1), Fault(status=500))
        events, data = await made(OpenAIBackend(http), at(fake), asked())
        assert data == tiny_mp4()
        assert len(fake.video_calls) == 1
        assert events[-1]["type"] == "video.completed"


async def test_a_look_that_keeps_failing_is_the_end_of_it(
    http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.videos.TROUBLE", 0.02)
    async with FakeOpenAI() as fake:
        fake.script(Fault())
        fake.fault = Fault(status=500)
        with pytest.raises(UpstreamError):
            await made(OpenAIBackend(http), at(fake), asked())


@pytest.mark.parametrize(
    ("code", "kind"), [("moderation_blocked", InvalidRequest), ("internal_error", UpstreamError)]
)
async def test_a_video_that_was_not_made_costs_no_second_and_says_why(
    http: HttpClient, code: str, kind: type[RoundhouseError]
) -> None:
    async with FakeOpenAI() as fake:
        fake.video_ending = {"status": "failed", "error": {"code": code, "message": "Because."}}
        last: VideoItem = b""
        with pytest.raises(kind, match="Because") as failed:
            async for item in OpenAIBackend(http).film(at(fake), asked()):
                last = item
        assert failed.value.code == code
        assert last == {"type": "video.completed", "seconds": 0}


async def test_a_page_where_a_video_was_asked_for_is_no_video(http: HttpClient) -> None:
    async with FakeOpenAI() as fake:
        fake.script(Fault(), Fault(), Fault(), Fault(content_type="text/html"))
        with pytest.raises(UpstreamProtocolError, match="text/html"):
            await made(OpenAIBackend(http), at(fake), asked())


async def test_a_video_that_is_gone_counts_as_deleted(http: HttpClient) -> None:
    async with FakeOpenAI() as fake:
        backend = OpenAIBackend(http)
        await made(backend, at(fake), asked())
        for _ in range(2):
            told = await backend.discard(at(fake), DiscardRequest(model="m", accepted="video_1"))
            assert told == {"deleted": True}
        assert fake.removed_videos == ["video_1"]


# ---- Google


def google(fake: FakeGoogleVideos, model: str = OMNI) -> Upstream:
    return at(fake, model, "google", api_key=fake.key)


async def test_gemini_omni_makes_a_video_in_the_background(http: HttpClient) -> None:
    async with FakeGoogleVideos() as fake:
        request = asked(seconds="8", size="1920x1080", image=PICTURE, image_type="image/png", seed=3)
        events, data = await made(GoogleBackend(http), google(fake), request)
        assert data == tiny_mp4()
        assert [event["type"] for event in events] == ["video.accepted", "video.progress", "video.completed"]
        body = fake.asked["v1_1"]
        assert body["response_format"] == {
            "type": "video", "delivery": "uri", "duration": "8s", "aspect_ratio": "16:9", "resolution": "1080p",
        }  # fmt: skip
        assert body["generation_config"] == {"video_config": {"task": "image_to_video"}, "seed": 3}
        assert [part["type"] for part in body["input"]] == ["image", "text"]
        assert (body["background"], body["store"]) == (True, True)


async def test_a_change_of_omnis_own_video_goes_on_from_its_interaction(http: HttpClient) -> None:
    async with FakeGoogleVideos() as fake:
        backend = GoogleBackend(http)
        await made(backend, google(fake), asked())
        await made(backend, google(fake), asked(task="remix", source_id="v1_1", source=tiny_mp4()))
        await made(backend, google(fake), asked(task="edit", source=tiny_mp4()))
        remix, edit = fake.asked["v1_2"], fake.asked["v1_3"]
        assert remix["previous_interaction_id"] == "v1_1"
        assert [part["type"] for part in remix["input"]] == ["text"]
        assert [part["type"] for part in edit["input"]] == ["video", "text"]
        assert edit["generation_config"]["video_config"] == {"task": "edit"}
        assert "duration" not in edit["response_format"]


async def test_the_key_goes_to_no_address_that_an_answer_names(http: HttpClient) -> None:
    async with FakeGoogleVideos() as fake, FakeGoogleVideos() as other:
        fake.file_host = other.origin
        _, data = await made(GoogleBackend(http), google(fake), asked())
        assert data == tiny_mp4()
        assert other.calls == []
        fake.file_host = "https://elsewhere.example/no-files"
        fake.ending = {
            "status": "completed",
            "steps": [{"content": [{"type": "video", "uri": "https://e.example/x"}]}],
        }
        with pytest.raises(UpstreamProtocolError, match="names no file"):
            await made(GoogleBackend(http), google(fake), asked())


async def test_veo_makes_a_video_by_an_operation(http: HttpClient) -> None:
    async with FakeGoogleVideos() as fake:
        request = asked(size="720x1280", negative_prompt="hens", image=PICTURE, generate_audio=False)
        events, data = await made(GoogleBackend(http), google(fake, VEO), request)
        assert data == tiny_mp4()
        name = f"models/{VEO}/operations/op1"
        assert events[0] == {"type": "video.accepted", "id": name}
        assert fake.asked[name]["parameters"] == {
            "durationSeconds": 4, "sampleCount": 1, "aspectRatio": "9:16", "resolution": "720p",
            "negativePrompt": "hens", "generateAudio": False,
        }  # fmt: skip
        assert fake.asked[name]["instances"][0]["image"]["mimeType"] == "image/png"


async def test_vertex_ai_gives_the_file_with_the_answer(http: HttpClient) -> None:
    async with FakeGoogleVideos(vertex=True) as fake:
        upstream = Upstream(
            "v",
            "vertex",
            fake.origin,
            VEO,
            api_key=fake.key,
            cloud=CloudAccount(region="us-central1", project="p"),
        )
        events, data = await made(VertexBackend(http), upstream, asked())
        assert data == tiny_mp4()
        assert events[0]["id"].startswith("projects/p/locations/us-central1/publishers/google/models/veo")


@pytest.mark.parametrize(
    ("model", "ending", "message"),
    [
        (OMNI, {"status": "failed", "errors": [{"code": "x/safety", "message": "Not this."}]}, "Not this"),
        (
            OMNI,
            {"status": "completed", "steps": [{"content": [{"type": "text", "text": "I cannot."}]}]},
            "I cannot",
        ),
        (OMNI, {"status": "incomplete"}, "does not say why"),
        (VEO, {"done": True, "error": {"code": 3, "message": "Not this."}}, "Not this"),
        (
            VEO,
            {"done": True, "response": {"generateVideoResponse": {"raiMediaFilteredReasons": ["A person."]}}},
            "A person",
        ),
    ],
)
async def test_google_says_why_it_made_no_video(http: HttpClient, model: str, ending: Json, message: str) -> None:
    async with FakeGoogleVideos() as fake:
        fake.ending = ending
        with pytest.raises(RoundhouseError, match=message):
            await made(GoogleBackend(http), google(fake, model), asked())


def test_what_google_does_not_make_is_refused_before_it_is_asked() -> None:
    backend = GoogleBackend(HttpClient())
    upstream = Upstream("g", "google", "http://127.0.0.1:1", OMNI)
    veo = Upstream("g", "google", "http://127.0.0.1:1", VEO)
    with pytest.raises(InvalidRequest, match="1280x720"):
        backend.dropped(asked(size="512x512"), upstream)
    with pytest.raises(CapabilityMismatch, match="changes no videos"):
        backend.dropped(asked(task="edit", source=b""), veo)
    request = asked(steps=3, negative_prompt="hens", seed=1, fps=24)
    assert backend.dropped(request, upstream) == ("fps", "negative_prompt", "steps")
    assert backend.dropped(request, veo) == ("fps", "steps")


async def test_an_interaction_is_cancelled_and_deleted(http: HttpClient) -> None:
    async with FakeGoogleVideos() as fake:
        backend = GoogleBackend(http)
        await made(backend, google(fake), asked())
        await backend.discard(google(fake), DiscardRequest(model="m", accepted="v1_1"))
        assert fake.ended == [("POST", "v1_1"), ("DELETE", "v1_1")]
