"""Small pictures in the formats that callers send, made with PyAV."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_FORMS = {
    "jpeg": ("mjpeg", "yuvj444p"),
    "png": ("png", "rgb24"),
    "webp": ("libwebp", "bgra"),
    "bmp": ("bmp", "bgr24"),
    "tiff": ("tiff", "rgb24"),
    "ppm": ("ppm", "rgb24"),
    "pam": ("pam", "rgb24"),
    "jpeg2000": ("jpeg2000", "rgb24"),
    "ico": ("bmp", "bgra"),
    "avif": ("libsvtav1", "yuv420p"),
}
_MUXED = frozenset({"ico", "avif"})
_DEMUXERS = {"jpeg": "jpeg_pipe", "png": "png_pipe"}


def quarters(width: int, height: int) -> Pixels:
    """A picture whose quarters are red, green, blue and white, so that no turn of it looks like another."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = slice(0, height // 2), slice(0, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    pixels[top, left], pixels[top, right] = (255, 0, 0), (0, 255, 0)
    pixels[bottom, left], pixels[bottom, right] = (0, 0, 255), (255, 255, 255)
    return pixels


def encoded(pixels: Pixels, kind: str = "png", *, orientation: int | None = None) -> bytes:
    """The file of a picture, with an Exif orientation if one is given."""
    codec, form = _FORMS[kind]
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24").reformat(format=form)
    if kind in _MUXED:
        return _muxed(frame, kind, codec)
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, form
    encoder.time_base = Fraction(1, 25)
    if codec == "tiff":
        encoder.options = {"compression_algo": "raw"}  # FFmpeg does not read all that it packs
    frame.pts = 0
    data = b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))
    return data if orientation is None else _oriented(data, kind, orientation)


def mask(width: int, height: int, hole: tuple[int, int, int, int]) -> bytes:
    """A PNG that is transparent within ``hole`` (left, top, right, bottom) and opaque elsewhere."""
    pixels = np.full((height, width, 4), 255, np.uint8)
    left, top, right, bottom = hole
    pixels[top:bottom, left:right] = 0
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "rgba", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(pixels, "rgba")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def decoded(data: bytes) -> Pixels:
    """The pixels of a JPEG or PNG."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    opening: Any = av.open(io.BytesIO(data), format=_DEMUXERS[kind])
    with opening as opened:
        pixels: Pixels = next(opened.decode(video=0)).to_ndarray(format="rgb24")
    return pixels


def _muxed(frame: av.VideoFrame, kind: str, codec: str) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as file:
        stream: Any = file.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def _oriented(data: bytes, kind: str, orientation: int) -> bytes:
    order, mark = (">", b"MM") if orientation % 2 else ("<", b"II")
    tiff = mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    if kind == "jpeg":
        block = b"Exif\0\0" + tiff
        return data[:2] + struct.pack(">HH", 0xFFE1, len(block) + 2) + block + data[2:]
    chunk = b"eXIf" + tiff
    return data[:33] + struct.pack(">I", len(tiff)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
