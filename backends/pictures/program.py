"""A process that draws one picture anew: its bytes come on standard input, and a PNG or JPEG goes back.

It runs apart from the gateway, because a decoder is native code that reads a stranger's bytes. It imports nothing
of Roundhouse. Arguments: the kind, the Exif orientation, and the longest side in pixels (0 for any).
"""

from __future__ import annotations

import contextlib
import io
import resource
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

MEMORY = 3 * 1024**3
_DEMUXERS = {"png": "png_pipe", "jpeg": "jpeg_pipe", "webp": "webp_pipe", "bmp": "bmp_pipe", "gif": "gif"}
"""Named, because a guess might find a format that refers to other files."""

_TURNS: Mapping[int, Callable[[Any], Any]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
"""By orientation: rows and columns of the upright picture."""


def redrawn(data: bytes, kind: str, orientation: int, longest: int) -> bytes:
    """The first frame, upright and of at most ``longest`` pixels a side: JPEG for a JPEG, PNG for any other."""
    import av
    import numpy

    opening: Any = av.open(io.BytesIO(data), format=_DEMUXERS[kind])
    with opening as opened:
        frame = next(opened.decode(video=0))
    scale = min(1.0, longest / max(frame.width, frame.height)) if longest else 1.0
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    pixels = _TURNS[orientation](frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray())
    upright = av.VideoFrame.from_ndarray(numpy.ascontiguousarray(pixels), "rgb24")
    codec, form = ("mjpeg", "yuvj444p") if kind == "jpeg" else ("png", "rgb24")
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = upright.width, upright.height, form
    encoder.time_base = Fraction(1, 25)
    if codec == "mjpeg":
        encoder.qmin, encoder.qmax = 1, 2  # the best of 31
    made = upright.reformat(format=form)
    made.pts = 0
    return b"".join(bytes(packet) for packet in (*encoder.encode(made), *encoder.encode(None)))


def main() -> None:
    with contextlib.suppress(OSError, ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    kind, orientation, longest = sys.argv[1:]
    sys.stdout.buffer.write(redrawn(sys.stdin.buffer.read(), kind, int(orientation), int(longest)))


if __name__ == "__main__":
    main()
