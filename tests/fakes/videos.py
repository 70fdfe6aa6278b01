"""Small videos whose brightness tells the time, made with PyAV."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np

from tests.fakes.pictures import decoded

FULL = 240.0
"""The brightness at the end; it grows evenly from 0."""
_FORMS = {
    "mp4": ("mp4", "mpeg4"),
    "webm": ("webm", "libvpx"),
    "mkv": ("matroska", "mpeg4"),
    "avi": ("avi", "mpeg4"),
    "ts": ("mpegts", "mpeg2video"),
}


def video(
    seconds: float = 4.0,
    *,
    kind: str = "mp4",
    rate: int | Fraction = 10,
    size: tuple[int, int] = (64, 48),
    sound: bool = False,
    every: int = 12,
) -> bytes:
    """A video of this length with a key frame ``every`` so many frames; the left half is brighter by 15."""
    form, codec = _FORMS[kind]
    out = io.BytesIO()
    count = round(seconds * rate)
    with av.open(out, "w", format=form) as file:
        stream: Any = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = every
        stream.bit_rate = 2_000_000
        tone: Any = file.add_stream("aac" if kind == "mp4" else "mp2", rate=44_100) if sound else None
        for at in range(count):
            pixels = np.full((size[1], size[0], 3), round(FULL * at / count), np.uint8)
            pixels[:, : size[0] // 2] += 15
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = at, 1 / Fraction(rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if tone is not None:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.int16), "s16", layout="mono")
            samples.sample_rate = 44_100
            file.mux(tone.encode(samples))
            file.mux(tone.encode(None))
    return out.getvalue()


def time_in(picture: bytes, seconds: float) -> float:
    """The time at which a frame of such a video was taken, by its brightness."""
    right = decoded(picture)[:, -10:].mean()
    return float(right) / FULL * seconds
