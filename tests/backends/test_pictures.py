"""Pictures are drawn anew where a local model would see them sideways, not at all, or larger than asked."""

from __future__ import annotations

import base64
import contextlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backends.fetch import Fetcher
from backends.notices import collect
from backends.pictures import apart, program
from backends.pictures.exif import orientation_of
from backends.pictures.media import with_media
from backends.pictures.redrawing import SMALL, STB, Redrawer
from backends.settings import FetchSettings
from backends.wire.pictures import KINDS, checked_picture
from catalog.errors import PayloadTooLarge, UndecodableMedia
from tests.fakes.pictures import Pixels, decoded, encoded, quarters

STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: np.transpose(upright, (1, 0, 2)),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.transpose(np.rot90(upright, 2), (1, 0, 2)),
    8: lambda upright: np.rot90(upright, -1),
}
"""How a camera stores an upright picture, by the orientation that it writes."""
UPRIGHT = quarters(96, 64)


async def seen(
    data: bytes,
    kind: str,
    *,
    detail: str = "auto",
    redrawer: Redrawer | None = None,
    reads: frozenset[str] | None = STB,
) -> bytes:
    """The bytes that a worker gets, by default one of llama.cpp."""
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": url, "detail": detail}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    made = await with_media(body, Fetcher(FetchSettings()), redrawer or Redrawer(), reads=reads)
    found: str = made["messages"][0]["content"][0]["image_url"]["url"]
    return base64.b64decode(found.partition(",")[2])


def close(one: Pixels, other: Pixels) -> bool:
    return one.shape == other.shape and float(np.abs(one.astype(int) - other).mean()) < 6


@pytest.mark.parametrize("orientation", range(2, 9))
async def test_a_photograph_is_turned_upright(orientation: int) -> None:
    stored = encoded(STORED[orientation](UPRIGHT), "jpeg", orientation=orientation)
    assert not close(decoded(stored), UPRIGHT)
    assert close(decoded(await seen(stored, "jpeg")), UPRIGHT)


@pytest.mark.parametrize("orientation", [3, 6])
async def test_a_png_with_an_orientation_is_turned_too(orientation: int) -> None:
    stored = encoded(STORED[orientation](UPRIGHT), "png", orientation=orientation)
    assert np.array_equal(decoded(await seen(stored, "png")), UPRIGHT)


async def test_an_upright_picture_stays_byte_for_byte_as_it_is() -> None:
    for data, kind in (
        (encoded(UPRIGHT, "jpeg"), "jpeg"),
        (encoded(UPRIGHT, "jpeg", orientation=1), "jpeg"),
        (encoded(UPRIGHT, "png"), "png"),
        (encoded(UPRIGHT, "bmp"), "bmp"),
    ):
        assert await seen(data, kind) == data


async def test_a_format_that_llama_cpp_does_not_read_becomes_one_that_it_does() -> None:
    made = await seen(encoded(UPRIGHT, "webp"), "webp")
    assert close(decoded(made), UPRIGHT)


@pytest.mark.parametrize("kind", ["tiff", "ppm", "pam", "jpeg2000", "ico", "avif"])
@pytest.mark.parametrize("reads", [STB, None])
async def test_a_rare_format_becomes_a_common_one_for_every_server(
    kind: str, reads: frozenset[str] | None
) -> None:
    data = encoded(UPRIGHT, kind)
    assert checked_picture(data)[1:] == (96, 64)
    made = await seen(data, kind, reads=reads)
    assert made.startswith(b"\x89PNG")
    assert close(decoded(made), UPRIGHT)


async def test_a_tiff_with_an_orientation_is_turned_upright() -> None:
    data = encoded(STORED[6](UPRIGHT), "tiff")
    assert data.startswith(b"II")
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    told = [struct.unpack_from("<HHI4s", data, start + 2 + 12 * at) for at in range(count)]
    told.append((0x0112, 3, 1, b"\6\0\0\0"))
    entries = b"".join(struct.pack("<HHI4s", *entry) for entry in sorted(told))
    turned = data[:4] + struct.pack("<I", len(data)) + data[8:] + struct.pack("<H", len(told)) + entries + bytes(4)
    assert close(decoded(await seen(turned, "tiff")), UPRIGHT)


@pytest.mark.parametrize("kind", ["tiff", "ppm", "pam", "jpeg2000", "ico", "avif"])
def test_a_rare_picture_that_is_cut_off_is_refused_or_read(kind: str) -> None:
    data = encoded(UPRIGHT, kind)
    for size in range(min(len(data), 600)):
        with contextlib.suppress(UndecodableMedia, PayloadTooLarge):
            assert checked_picture(data[:size]).kind in KINDS


async def test_low_detail_makes_a_large_picture_small() -> None:
    large = encoded(quarters(1600, 800))
    assert decoded(await seen(large, "png", detail="low")).shape == (SMALL // 2, SMALL, 3)
    assert await seen(large, "png", detail="high") == large
    small = encoded(UPRIGHT)
    assert await seen(small, "png", detail="low") == small


async def test_a_damaged_picture_is_refused() -> None:
    with pytest.raises(UndecodableMedia, match="cannot be decoded"):
        await seen(encoded(UPRIGHT, "webp")[:60], "webp")


async def test_a_decoder_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import sys\nsys.stdin.buffer.read()\nwhile True: pass\n")
    monkeypatch.setattr(program, "__file__", str(hanging))
    with pytest.raises(UndecodableMedia, match="too long"):
        await seen(encoded(UPRIGHT, "webp"), "webp", redrawer=Redrawer(limit=0.05))


async def test_without_a_decoder_what_cannot_be_kept_is_named_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "find_spec", lambda name: None)
    stored, large = encoded(STORED[6](UPRIGHT), "jpeg", orientation=6), encoded(quarters(1600, 800))
    names = collect()
    assert await seen(stored, "jpeg") == stored
    assert await seen(large, "png", detail="low") == large
    assert names.dropped == ["messages.image_url.orientation", "messages.image_url.detail"]
    with pytest.raises(UndecodableMedia, match="no webp pictures"):
        await seen(encoded(UPRIGHT, "webp"), "webp")


@pytest.mark.parametrize("cut", [3, 12, 20, 30, 40, 47])
def test_an_exif_block_that_is_cut_off_or_lies_means_upright(cut: int) -> None:
    stored = encoded(UPRIGHT, "jpeg", orientation=6)
    assert orientation_of(stored, "jpeg") == 6
    assert orientation_of(stored[:cut], "jpeg") in (1, 6)
    assert orientation_of(b"\xff\xd8" + b"\xff" * 100_000, "jpeg") == 1
    assert orientation_of(stored.replace(b"\x12\x01\x03\x00", b"\x12\x01\x04\x00"), "jpeg") == 1
