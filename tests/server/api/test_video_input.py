"""Videos in chats: as they are for models that take them, as frames for models that see pictures."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from catalog.types import Json
from tests.fakes.openai import FakeOpenAI
from tests.fakes.videos import time_in, video
from tests.security.conftest import OpenSite, logs, provider, rows, site

__all__ = ["logs", "provider", "site"]
URL = f"data:video/mp4;base64,{base64.b64encode(video(3.0)).decode()}"


def asked(model: str, url: str = URL, **fields: Any) -> Json:
    content = [{"type": "text", "text": "What happens?"}, {"type": "video_url", "video_url": {"url": url}}]
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


def with_cinema(provider: FakeOpenAI) -> dict[str, Any]:
    """The rows of the site, and ``cinema``, which takes videos."""
    given = rows(provider)
    far = next(row for row in given["model"] if row["id"] == "far")
    cinema = {**far, "id": "cinema", "capabilities": [*far["capabilities"], "video_input"]}
    return {**given, "model": [*given["model"], cinema]}


async def test_a_model_that_sees_pictures_gets_frames_and_that_is_told(
    site: OpenSite, provider: FakeOpenAI
) -> None:
    async with site() as running:
        answer = await running.client.post("/v1/chat/completions", json=asked("far"))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-roundhouse-dropped"] == "messages.video_url"
    assert answer.headers["x-roundhouse-model"] == "far"
    content = provider.calls[-1].body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "text", *["text", "image_url"] * 3]
    pictures = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    times = [time_in(base64.b64decode(url.partition(",")[2]), 3.0) for url in pictures]
    assert times == pytest.approx([0.5, 1.5, 2.5], abs=0.15)
    assert content[1]["text"] == "[A video of 3.0 s, as 3 frames.]"


async def test_a_model_that_takes_videos_gets_it_as_it_is(site: OpenSite, provider: FakeOpenAI) -> None:
    async with site(**with_cinema(provider)) as running:
        for model in ("cinema", "auto"):
            answer = await running.client.post("/v1/chat/completions", json=asked(model))
            assert answer.headers["x-roundhouse-model"] == "cinema", model
            assert "x-roundhouse-dropped" not in answer.headers
            assert provider.calls[-1].body["messages"][0]["content"][1]["video_url"] == {"url": URL}
        address = "https://videos.example/a.mp4"
        await running.client.post("/v1/chat/completions", json=asked("auto", address))
        assert provider.calls[-1].body["messages"][0]["content"][1]["video_url"] == {"url": address}


async def test_auto_without_a_model_that_takes_videos_asks_one_that_sees(
    site: OpenSite, provider: FakeOpenAI
) -> None:
    async with site() as running:
        body = asked("auto", routing={"exclude": ["near"]})
        answer = await running.client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.headers["x-roundhouse-model"]) == (200, "far")


async def test_a_strict_request_and_a_blind_model_are_refused(site: OpenSite, provider: FakeOpenAI) -> None:
    async with site() as running:
        strict = await running.client.post("/v1/chat/completions", json=asked("far", routing={"strict": True}))
        assert strict.status_code == 400
        assert "video_input" in strict.json()["error"]["message"]
        blind = await running.client.post("/v1/chat/completions", json=asked("farther"))
        assert blind.status_code == 400
        assert "vision" in blind.json()["error"]["message"]
    assert provider.calls == []


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("data:video/mp4;base64,AAAA", 400, "is no video"),
        ("data:image/png;base64,AAAA", 400, "must hold a video"),
        ("https://videos.example/a.mp4", 400, "list hosts"),
        ("file:///etc/passwd", 400, "list hosts"),
    ],
)
async def test_a_video_that_cannot_be_read_is_refused_before_any_model_is_asked(
    site: OpenSite, provider: FakeOpenAI, url: str, status: int, says: str
) -> None:
    async with site() as running:
        answer = await running.client.post("/v1/chat/completions", json=asked("far", url))
    assert (answer.status_code, provider.calls) == (status, [])
    assert says in answer.json()["error"]["message"]


async def test_a_part_without_its_video_is_named(site: OpenSite) -> None:
    async with site() as running:
        body = {"model": "far", "messages": [{"role": "user", "content": [{"type": "video_url"}]}]}
        answer = await running.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "video_url" in answer.json()["error"]["message"]


async def test_a_local_worker_that_takes_no_videos_gets_frames(site: OpenSite) -> None:
    async with site() as running:
        answer = await running.client.post("/v1/chat/completions", json=asked("near"))
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-roundhouse-dropped"] == "messages.video_url"
