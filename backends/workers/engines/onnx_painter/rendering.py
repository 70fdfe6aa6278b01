"""Puts a small picture on a canvas of any size, and encodes it: as PNG, or with PyAV (FFmpeg) as JPEG and WebP."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from catalog.errors import UnsupportedValue

ImageFormat = Literal["png", "jpeg", "webp"]
Pixels = NDArray[np.float32]
Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]
_SHARPNESS = 1.0
"""How much of the difference from its blurred copy an enlarged picture is given back."""

_MISSED = 0.03
"""Error of the network's opacities."""


def on_canvas(
    picture: Pixels, width: int, height: int, *, room: float, mirrored: bool, opaque: bool
) -> NDArray[np.uint8]:
    """``picture`` [side, side, 4], premultiplied, in the middle of ``width`` x ``height`` pixels, as RGB or RGBA.

    It takes ``room`` of the shorter side. The canvas is white if it is ``opaque``, else transparent.
    """
    size = room * min(width, height)
    source = picture[:, ::-1] if mirrored else picture
    enlarged = _resampled(source, width, height, size)
    alpha = enlarged[..., 3:]
    if opaque:
        return _bytes(enlarged[..., :3] + 1 - alpha)
    straight = np.where(alpha > 0, enlarged[..., :3] / np.maximum(alpha, 1e-4), 0)
    return _bytes(np.concatenate([straight, alpha], axis=-1))


def _bytes(values: Pixels) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(255 * values.clip(0, 1)).astype(np.uint8)
    return rounded


def _resampled(source: Pixels, width: int, height: int, size: float) -> Pixels:
    """Enlarge by cubic convolution, then sharpen within the values of the neighbourhood, so that nothing rings."""
    side = len(source)
    across, down = (_matrix(side, length, size, _cubic, 2.0) for length in (width, height))
    soft_across, soft_down = (_matrix(side, length, size, _linear, 1.0) for length in (width, height))
    blur = _matrix(side, side, side, _tent, 2.0)
    even, blurred = _applied(source, across, down), _applied(_applied(source, blur, blur), across, down)
    low, high = (_applied(extreme, soft_across, soft_down) for extreme in _extremes(source))
    return _settled(np.clip(even + _SHARPNESS * (even - blurred), low, high).clip(0, 1))


def _settled(pixels: Pixels) -> Pixels:
    """Opacities that the network missed by a little are made whole, and no colour is brighter than its opacity."""
    alpha = pixels[..., 3:]
    whole = ((alpha - _MISSED) / (1 - 2 * _MISSED)).clip(0, 1)
    rgb = pixels[..., :3] * np.where(alpha > _MISSED, whole / np.maximum(alpha, _MISSED), 0)
    settled: Pixels = np.concatenate([np.minimum(rgb, whole), whole], axis=-1)
    return settled


def _applied(source: Pixels, across: Pixels, down: Pixels) -> Pixels:
    made: Pixels = np.einsum(
        "hs,swc->hwc", down, np.einsum("wt,stc->swc", across, source, optimize=True), optimize=True
    )
    return made


def _matrix(side: int, length: int, size: float, kernel: Kernel, reach: float) -> Pixels:
    """The weights [length, side] of the source's pixels; transparent ones outside of it have the rest."""
    scale = max(1.0, side / size)
    beyond = int(np.ceil(reach * scale))
    places = (np.arange(length) + 0.5 - (length - size) / 2) * side / size - 0.5
    places = places.clip(-beyond, side - 1 + beyond)
    distance = np.abs(places[:, None] - np.arange(-2 * beyond, side + 2 * beyond)[None, :]) / scale
    weights = np.where(distance < reach, kernel(distance), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    inside: Pixels = weights[:, 2 * beyond : 2 * beyond + side].astype(np.float32)
    return inside


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys, "Cubic Convolution Interpolation for Digital Image Processing" (1981), a = -1/2."""
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)


def _tent(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return (2 - x).clip(0, 2) / 4


def _linear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return (1 - x).clip(0, 1)


def _extremes(source: Pixels) -> tuple[Pixels, Pixels]:
    """The least and the greatest value in the 3x3 neighbourhood of each pixel, with transparency around."""
    padded = np.pad(source, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    return windows.min((-2, -1)), windows.max((-2, -1))


def encode(pixels: NDArray[np.uint8], kind: ImageFormat, compression: int | None) -> bytes:
    """Encode RGB or RGBA; ``compression`` from 0 to 100 is the quality of JPEG and WebP, as in OpenAI's API.

    Raises UnsupportedParameter where PyAV, or its encoder, is not installed.
    """
    if kind == "png":
        return _png(pixels)
    return _encoded(pixels, kind, 100 if compression is None else compression)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Source: the PNG specification (W3C, third edition), sections 5, 9 and 11."""
    height, width, channels = pixels.shape
    lines = pixels.reshape(height, width * channels)
    differences = lines.copy()
    differences[1:] -= lines[:-1]  # the filter Up; the first line has none above
    rows = np.concatenate([np.full((height, 1), 2, np.uint8), differences], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, 6 if channels == 4 else 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _encoded(pixels: NDArray[np.uint8], kind: Literal["jpeg", "webp"], quality: int) -> bytes:
    try:
        import av
    except ImportError:
        raise UnsupportedValue(
            f"{kind} needs the package 'av' (extra 'speech'); ask for png.", param="output_format"
        ) from None
    height, width, channels = pixels.shape
    name, layout = ("mjpeg", "yuvj444p") if kind == "jpeg" else ("libwebp", "bgra" if channels == 4 else "yuv420p")
    try:
        encoder = av.CodecContext.create(name, "w")
    except ValueError:
        raise UnsupportedValue(
            f"This build of 'av' writes no {kind}; ask for png.", param="output_format"
        ) from None
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, layout
    encoder.time_base = Fraction(1)
    if kind == "jpeg":
        encoder.qmin = encoder.qmax = round(31 - 30 * quality / 100)
    else:
        encoder.options = {"quality": str(quality)}
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if channels == 4 else "rgb24").reformat(format=layout)
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))
