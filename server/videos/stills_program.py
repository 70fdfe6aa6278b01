"""A process that reads one video: its length and size, a still of it, or a sheet of stills.

It runs apart from the gateway, because a decoder is native code that reads bytes of another server. It imports
nothing of Roundhouse. Arguments: what to make, and the path of an MP4; the result goes to standard output.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from fractions import Fraction
from typing import Any

MEMORY = 3 * 1024**3
COLUMNS, ROWS = 4, 4
"""Stills of a sheet."""
WIDE = 320
"""Pixels of the longer side of a still on a sheet."""
MOST_FRAMES = 20_000


def described(path: str) -> bytes:
    """JSON with ``seconds``, ``width``, ``height``, ``fps``, and whether there is sound."""
    import av

    with av.open(path, format="mp4") as opened:
        stream = opened.streams.video[0]
        frame = next(opened.decode(stream))
        seconds = float(opened.duration or 0) / 1_000_000
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        told = {
            "seconds": round(seconds, 3),
            "width": frame.width,
            "height": frame.height,
            "fps": float(stream.average_rate or 0),
            "sound": bool(opened.streams.audio),
        }
    return json.dumps(told).encode()


def thumbnail(path: str) -> bytes:
    """The first frame as WebP."""
    import av

    with av.open(path, format="mp4") as opened:
        frame = next(opened.decode(video=0))
    return _encoded(frame, "libwebp", "yuv420p")


def spritesheet(path: str) -> bytes:
    """Stills at even distances, row by row, as JPEG."""
    import av
    import numpy

    with av.open(path, format="mp4") as opened:
        stream = opened.streams.video[0]
        total = min(stream.frames or sum(1 for _ in opened.decode(stream)), MOST_FRAMES)
    stills = COLUMNS * ROWS
    wanted = [round(at * max(0, total - 1) / (stills - 1)) for at in range(stills)]
    made: dict[int, Any] = {}
    with av.open(path, format="mp4") as opened:
        for number, frame in enumerate(opened.decode(video=0)):
            if number in wanted:
                scale = min(1.0, WIDE / max(frame.width, frame.height))
                width, height = (max(2, round(side * scale) // 2 * 2) for side in (frame.width, frame.height))
                made[number] = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
            if number >= total:
                break
    last = made[max(made)]
    cells = [made.get(number, last) for number in wanted]
    rows = [numpy.concatenate(cells[at : at + COLUMNS], axis=1) for at in range(0, stills, COLUMNS)]
    sheet = numpy.ascontiguousarray(numpy.concatenate(rows, axis=0))
    return _encoded(av.VideoFrame.from_ndarray(sheet, "rgb24"), "mjpeg", "yuvj420p")


def _encoded(frame: Any, codec: str, form: str) -> bytes:
    import av

    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, form
    encoder.time_base = Fraction(1, 25)
    if codec == "mjpeg":
        encoder.qmin, encoder.qmax = 2, 5
    made = frame.reformat(format=form)
    made.pts = 0
    return b"".join(bytes(packet) for packet in (*encoder.encode(made), *encoder.encode(None)))


def main() -> None:
    with contextlib.suppress(OSError, ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    make = {"describe": described, "thumbnail": thumbnail, "spritesheet": spritesheet}
    sys.stdout.buffer.write(make[sys.argv[1]](sys.argv[2]))


if __name__ == "__main__":
    main()
