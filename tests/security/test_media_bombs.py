"""Pictures and videos that claim or hold too much: clear errors, bounded memory, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import psutil
import pytest

from backends.pictures import program
from tests.fakes.pictures import encoded, quarters
from tests.fakes.videos import video
from tests.security.conftest import CHAT, OpenSite

MIB = 2**20


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG of one-bit grey that claims this size; ``pixels`` are compressed rows."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many zero bytes, compressed a thousandfold."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(MIB)) for _ in range(count // MIB)]) + packer.flush()


def of_pictures() -> bytes:
    """A zip of pictures."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(100):
            archive.writestr(f"{number}.png", encoded(quarters(64, 64)))
    return out.getvalue()


def tiff(width: int, height: int) -> bytes:
    entries = [(256, 4, width), (257, 4, height)]
    packed = b"".join(struct.pack("<HHII", tag, form, 1, value) for tag, form, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


def patched(data: bytes, box: bytes, at: int, *values: int) -> bytes:
    start = data.index(box) + 4 + at
    told = struct.pack(f">{len(values)}I", *values)
    return data[:start] + told + data[start + len(told) :]


def of_size(width: int, height: int) -> bytes:
    """A GIF film of two frames that claim this size."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\4\0\x0a\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x44\1\0"
    return b"GIF89a" + screen + frame * 2 + b"\x3b"


SVG = b"""<?xml version="1.0"?>
<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<svg xmlns="http://www.w3.org/2000/svg" width="100000" height="100000"><text>&b;</text>
<image href="file:///etc/passwd"/></svg>"""
_TOO_LARGE, _NONE = (413, "the limit is"), (400, "not a picture")
PICTURES: dict[str, tuple[Callable[[], bytes], tuple[int, str]]] = {
    "a PNG of a thousand million pixels": (lambda: png(50_000, 20_000), _TOO_LARGE),
    "a PNG of 2**31 a side": (lambda: png(2**31 - 1, 2**31 - 1), _TOO_LARGE),
    "a PNG that is one row": (lambda: png(40_000_000, 1), _TOO_LARGE),
    "a JPEG of 65535 a side": (
        lambda: b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(9),
        _TOO_LARGE,
    ),
    "a GIF of 65535 a side": (lambda: b"GIF89a" + b"\xff" * 4 + bytes(9), _TOO_LARGE),
    "a TIFF of a thousand million pixels": (lambda: tiff(50_000, 20_000), _TOO_LARGE),
    "a PPM of a thousand million pixels": (lambda: b"P6 50000 20000 255\n", _TOO_LARGE),
    "an SVG": (lambda: SVG, _NONE),
    "a zip of pictures": (of_pictures, _NONE),
    "a page": (lambda: b"<html><script>alert(1)</script></html>", _NONE),
    "a PDF": (lambda: b"%PDF-1.7\n" + bytes(100), _NONE),
    "nothing": (lambda: b"\0" * 100, _NONE),
}
_MANY = struct.pack(">HHIIIIIIIIH", 47, 0, 7000, 7000, 0, 0, 7000, 7000, 0, 0, 16384)
DRAWN: dict[str, bytes] = {
    "a TIFF without pixels": tiff(7_000, 7_000),
    "a PPM without pixels": b"P6 7000 7000 255\n",
    "an AVIF that is noise": b"\0\0\0\x1cftypavif"
    + bytes(16)
    + b"\0\0\0\x14ispe"
    + struct.pack(">III", 0, 7000, 7000)
    + b"x" * 4096,
    "an ICO that points beyond its end": b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0" + b"\xff\xff\xff\x7f" * 2 + b"x" * 100,
    "a JPEG 2000 of many components": b"\xff\x4f\xff\x51" + _MANY + b"\7\1\1" * 3,
}
"""Pictures that pass for small ones until they are decoded."""
VIDEOS: dict[str, tuple[Callable[[], bytes], str]] = {
    "packets that last for years": (
        lambda: video(14_000.0, kind="mkv", rate=Fraction(1, 2000)),
        "seconds; the limit is",
    ),
    "frames of a thousand million pixels": (lambda: of_size(32_000, 32_000), "pixels; the limit is|cannot be"),
    "an MP4 of a head alone": (lambda: video(2.0)[:200], "cannot be decoded"),
    "an MP4 with a box of 2**31 bytes": (
        lambda: b"\0\0\0\x18ftypisom\x7f\xff\xff\xffmoov" + bytes(64),
        "cannot be decoded",
    ),
    "an MP4 with a million samples of nothing": (
        lambda: patched(video(2.0), b"stsz", 4, 1, 2**31 - 1),
        "cannot be decoded|limit|too long|too many",
    ),
    "a list of other files": (lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "is no video"),
    "a list to be joined": (lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", "is no video"),
    "a zip": (of_pictures, "is no video"),
    "a sound": (lambda: b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "is no video"),
}


def asked(kind: str, data: bytes, media_type: str) -> dict[str, Any]:
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    part = {"type": kind, kind: {"url": url}}
    return {"model": "near", "messages": [{"role": "user", "content": [part, {"type": "text", "text": "Hi"}]}]}


@pytest.mark.parametrize("name", PICTURES)
async def test_a_picture_that_claims_too_much_or_is_none_is_refused_by_its_first_bytes(
    site: OpenSite, name: str
) -> None:
    make, (status, says) = PICTURES[name]
    async with site() as running:
        answer = await running.client.post("/v1/chat/completions", json=asked("image_url", make(), "image/png"))
        assert (answer.status_code, says in answer.json()["error"]["message"]) == (status, True), answer.text
        assert (await running.client.post("/v1/chat/completions", json=CHAT)).status_code == 200


@pytest.mark.parametrize("name", DRAWN)
async def test_a_picture_that_cannot_be_decoded_is_the_callers_mistake(site: OpenSite, name: str) -> None:
    async with site() as running:
        body = asked("image_url", DRAWN[name], "image/png")
        answer = await running.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "undecodable_media"


@pytest.mark.parametrize("name", VIDEOS)
async def test_a_video_that_lies_is_refused(site: OpenSite, name: str) -> None:
    make, says = VIDEOS[name]
    async with site() as running:
        answer = await running.client.post("/v1/chat/completions", json=asked("video_url", make(), "video/mp4"))
        assert answer.status_code in (400, 413), answer.text
        assert any(part in answer.json()["error"]["message"] for part in says.split("|")), answer.text
        assert (await running.client.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_a_picture_that_swells_is_decoded_to_its_claim_and_no_further(site: OpenSite) -> None:
    """2 GB of zeros for a picture of 64 by 64 turned pixels: the decoder stops at the picture's end."""
    swelling = png(64, 64, zeros(2048 * MIB))
    assert len(swelling) < 3 * MIB
    sideways = (
        swelling[:33] + chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0") + swelling[33:]
    )
    async with site() as running:
        before = psutil.Process().memory_info().rss
        answer = await running.client.post("/v1/chat/completions", json=asked("image_url", sideways, "image/png"))
        assert answer.status_code in (200, 400), answer.text
        assert psutil.Process().memory_info().rss - before < 200 * MIB


async def test_others_are_answered_while_bombs_are_looked_at(site: OpenSite) -> None:
    bombs = [*(asked("image_url", data, "image/png") for data in DRAWN.values()),
             *(asked("video_url", make(), "video/mp4") for make, _ in VIDEOS.values())]  # fmt: skip
    async with site() as running:
        assert (await running.client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        loop = asyncio.get_running_loop()
        looked_at = [asyncio.create_task(running.client.post("/v1/chat/completions", json=bomb)) for bomb in bombs]
        slowest = 0.0
        while not all(task.done() for task in looked_at):
            began = loop.time()
            answer = await running.client.post("/v1/chat/completions", json=CHAT)
            assert answer.status_code == 200
            slowest = max(slowest, loop.time() - began)
        assert {(await task).status_code for task in looked_at} <= {400, 413}
    assert slowest < 5.0


def test_the_process_that_decodes_has_a_limit_of_memory() -> None:
    assert program.MEMORY <= 4 * 1024 * MIB
