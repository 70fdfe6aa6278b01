"""Videos as frames for models that see pictures, made in a process apart."""

from __future__ import annotations

import base64
import struct
from fractions import Fraction
from typing import Any

import pytest

from backends.fetch import Fetcher
from backends.pictures import films as module
from backends.pictures import program
from backends.pictures.films import Films, demuxer_of
from backends.settings import FetchSettings
from backends.wire.chat import ChatRequest, ContentPart
from catalog.errors import InvalidRequest, PayloadTooLarge, RoundhouseError, UndecodableMedia, UnsupportedParameter
from tests.fakes.pictures import decoded
from tests.fakes.videos import time_in, video

ENDLESS = video(14_000.0, kind="mkv", rate=Fraction(1, 2000))
"""Seven frames of two thousand seconds each."""


def url_of(data: bytes, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def asked(*videos: dict[str, Any], pictures: int = 0) -> ChatRequest:
    content: list[dict[str, Any]] = [{"type": "text", "text": "What happens?"}]
    content += [{"type": "video_url", "video_url": one} for one in videos]
    content += [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}] * pictures
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": content}]})


def the_films(**options: Any) -> Films:
    return Films(Fetcher(FetchSettings()), **options)


async def seen(*videos: dict[str, Any], pictures: int = 0, films: Films | None = None) -> list[ContentPart]:
    request = await (films or the_films()).in_frames(asked(*videos, pictures=pictures))
    content = request.messages[0].content
    assert isinstance(content, list)
    return content[1:]


def frames(parts: list[ContentPart]) -> list[bytes]:
    return [
        base64.b64decode(part.image_url["url"].partition(",")[2]) for part in parts if part.image_url is not None
    ]


async def test_a_video_becomes_frames_with_their_times() -> None:
    parts = await seen({"url": url_of(video(4.0))})
    assert [part.text for part in parts if part.text is not None] == [
        "[A video of 4.0 s, as 4 frames.]",
        "[0:00.5]",
        "[0:01.5]",
        "[0:02.5]",
        "[0:03.5]",
    ]
    assert [part.type for part in parts] == ["text", *["text", "image_url"] * 4]
    assert [time_in(frame, 4.0) for frame in frames(parts)] == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.15)
    assert all("detail" not in part.image_url for part in parts if part.image_url is not None)


@pytest.mark.parametrize("kind", ["mp4", "webm", "mkv", "avi", "ts"])
async def test_videos_are_read_in_every_common_form(kind: str) -> None:
    data = video(3.0, kind=kind)
    assert demuxer_of(data) is not None
    parts = await seen({"url": url_of(data, "video/x-any")})
    assert [time_in(frame, 3.0) for frame in frames(parts)] == pytest.approx([0.5, 1.5, 2.5], abs=0.2)


async def test_the_caller_chooses_how_densely_a_video_is_looked_at() -> None:
    data = url_of(video(4.0))
    assert len(frames(await seen({"url": data, "fps": 2}))) == 8
    assert len(frames(await seen({"url": data, "fps": 2, "max_frames": 3}))) == 3
    assert len(frames(await seen({"url": data, "fps": 30}))) == 16, "the usual bound"
    assert len(frames(await seen({"url": data, "fps": 30, "max_frames": 64}))) == 40, "no frame is shown twice"
    assert len(frames(await seen({"url": data, "fps": 0.1}))) == 1


@pytest.mark.parametrize(("detail", "expected"), [(None, 512), ("low", 512), ("high", 768)])
async def test_frames_are_small_unless_detail_is_asked_for(detail: str | None, expected: int) -> None:
    given = {"url": url_of(video(0.5, size=(1024, 512))), **({"detail": detail} if detail else {})}
    (frame,) = frames(await seen(given))
    assert decoded(frame).shape == (expected // 2, expected, 3)


async def test_sound_that_is_left_out_is_told() -> None:
    parts = await seen({"url": url_of(video(2.0, sound=True))})
    assert str(parts[0].text).endswith("as 2 frames, without its sound.]")


async def test_several_videos_and_pictures_share_the_bound() -> None:
    data = url_of(video(4.0))
    dense = {"url": data, "fps": 30, "max_frames": 64}
    assert len(frames(await seen(dense, dense, pictures=4))) == 30 + 30 + 4
    with pytest.raises(PayloadTooLarge, match="at most 8 videos"):
        await seen(*[{"url": data}] * 9)
    with pytest.raises(PayloadTooLarge, match="at most 64 pictures"):
        await seen({"url": data}, pictures=64)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "video_url.url"),
        ({"url": "data:video/mp4;base64,", "fps": 0}, "video_url.fps"),
        ({"url": "x", "max_frames": 65}, "video_url.max_frames"),
        ({"url": "x", "detail": "ultra"}, "video_url.detail"),
        ({"url": url_of(b"GIF", "image/png")}, "must hold a video"),
        ({"url": "https://videos.example/a.mp4"}, "list hosts"),
        ({"url": url_of(b"PK\3\4" + b"x" * 500)}, "is no video"),
        ({"url": url_of(video(1.0)[:300])}, "cannot be decoded"),
    ],
)
async def test_a_video_that_cannot_be_had_is_the_callers_mistake(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        await seen(given)


async def test_a_video_that_is_cut_off_is_seen_up_to_there() -> None:
    whole = video(4.0, kind="mkv")
    parts = await seen({"url": url_of(whole[: len(whole) // 2])})
    assert frames(parts)
    assert all(time_in(frame, 4.0) < 3.0 for frame in frames(parts))


def lying(data: bytes, box: bytes, at: int, value: int) -> bytes:
    """The MP4 with another 32-bit number at a place of its first box of this name."""
    start = data.index(box) + 4 + at
    return data[:start] + struct.pack(">I", value) + data[start + 4 :]


async def test_a_header_that_lies_about_the_length_is_not_believed() -> None:
    honest = video(4.0)
    for box, at in ((b"mvhd", 16), (b"mdhd", 16), (b"tkhd", 20)):
        for told in (0, 2**31 - 1):
            parts = await seen({"url": url_of(lying(honest, box, at, told))})
            assert parts[0].text == "[A video of 4.0 s, as 4 frames.]", (box, told)


async def test_packets_spread_over_years_are_too_long() -> None:
    with pytest.raises(PayloadTooLarge, match=r"14000.* seconds; the limit is 10800"):
        await seen({"url": url_of(ENDLESS)})


async def test_a_frame_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(PayloadTooLarge, match="64 x 48 pixels"):
        await seen({"url": url_of(video(1.0))})


async def test_a_decoder_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(program, "__file__", str(hanging))
    with pytest.raises(UndecodableMedia, match="too long"):
        await seen({"url": url_of(video(1.0))}, films=the_films(limit=0.05))


async def test_without_a_decoder_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    films = the_films()
    monkeypatch.setattr(films._decoding, "_able", False)
    with pytest.raises(UnsupportedParameter, match="pip install"):
        await seen({"url": url_of(b"\0\0\0\x18ftypmp42")}, films=films)


async def test_a_video_for_a_server_that_takes_some_is_checked_and_stays_as_it_is() -> None:
    films = the_films()
    given = url_of(video(1.0))
    assert await films.check(given) == given
    for bad in (url_of(b"\0\0\0\x18ftypmp42" + b"x" * 100), url_of(ENDLESS)):
        with pytest.raises(RoundhouseError):
            await films.check(bad)
