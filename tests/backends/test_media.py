"""Pictures of a chat are checked before a worker decodes them."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from backends.fetch import Fetcher
from backends.pictures.media import MAX_PIXELS_IN_ALL, with_media
from backends.pictures.redrawing import Redrawer
from backends.settings import FetchSettings
from catalog.errors import CapabilityMismatch, InvalidRequest, PayloadTooLarge
from catalog.model import Capability


def part(width: int, height: int) -> dict[str, Any]:
    """The head of a PNG of this size: a bomb has a few bytes more."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", width, height)
    url = f"data:image/png;base64,{base64.b64encode(head).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


async def checked(*messages: list[dict[str, Any]]) -> None:
    body = {"messages": [{"role": "user", "content": content} for content in messages]}
    assert await with_media(body, Fetcher(FetchSettings()), Redrawer()) == body


async def test_the_pixels_of_all_pictures_of_a_request_are_bounded_together() -> None:
    largest = part(10_000, 5_000)
    await checked([largest] * 4)
    with pytest.raises(PayloadTooLarge, match=f"{MAX_PIXELS_IN_ALL} pixels in all"):
        await checked([largest] * 5)
    with pytest.raises(PayloadTooLarge, match="pixels in all"):
        await checked([largest] * 4, [part(1, 1)])


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "data:video/mp4;base64,AAAA"])
async def test_a_video_is_the_lack_of_a_server_that_takes_none(url: str) -> None:
    with pytest.raises(CapabilityMismatch, match="takes no videos") as refused:
        await checked([{"type": "video_url", "video_url": {"url": url}}])
    assert refused.value.lacks == frozenset({Capability.VIDEO_INPUT})


@pytest.mark.parametrize(
    "address",
    [
        {"type": "input_video", "input_video": {"data": "http://169.254.169.254/"}},
        {"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}},
        {"type": "input_audio", "input_audio": {"url": "http://169.254.169.254/"}},
    ],
)
async def test_an_address_in_a_part_of_another_kind_does_not_reach_the_worker(address: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="Local models take no"):
        await checked([address])


async def test_one_picture_and_the_number_of_pictures_are_bounded() -> None:
    with pytest.raises(PayloadTooLarge, match="30000 x 30000 pixels"):
        await checked([part(30_000, 30_000)])
    with pytest.raises(PayloadTooLarge, match="at most 64 pictures"):
        await checked([part(1, 1)] * 65)
