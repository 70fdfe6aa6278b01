"""A process that draws pictures: one anew, or frames of a video. Bytes come on standard input.

It runs apart from the gateway, because a decoder is native code that reads a stranger's bytes. It imports nothing
of Roundhouse. Arguments of ``picture``: its reader, the Exif orientation, and the longest side in pixels (0 for
any); a PNG or JPEG goes back. Arguments of ``film``: the demuxer, the most frames, the frames a second, the
longest side, the most seconds, and the most pixels of a frame; a line of JSON goes back, then the JPEGs.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import itertools
import json
import math
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

MEMORY = 3 * 1024**3
MOST_PACKETS = 1_000_000
MOST_DECODED = 30_000
"""Frames that are decoded, to reach those wanted."""

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
_BY_DEGREES = {0: 1, 90: 8, 180: 3, 270: 6}
"""Orientations by a video's counter-clockwise rotation."""


_CONTAINERS = frozenset({"gif", "mov", "ico"})
"""Demuxers of pictures; for other kinds the name of a decoder stands, whose packet is the whole file."""
_IMPRECISE = frozenset({"mpegts", "mpeg", "ogg"})
"""Formats without an index, in which a seek may end a key frame too late."""


def opened(data: bytes, demuxer: str) -> Any:
    """The file, by a demuxer that is named: a guess might find a format that refers to other files."""
    import av

    return av.open(io.BytesIO(data), format=demuxer)


def redrawn(data: bytes, reader: str, orientation: int, longest: int) -> bytes:
    """The first frame, upright and of at most ``longest`` pixels a side: JPEG for a JPEG, PNG for any other."""
    return drawn(_first(data, reader), orientation, longest, "mjpeg" if reader == "mjpeg" else "png")


def _first(data: bytes, reader: str) -> Any:
    import av

    if reader in _CONTAINERS:
        with opened(data, reader) as file:
            return next(file.decode(video=0))
    decoder: Any = av.CodecContext.create(reader, "r")
    decoder.thread_count = 1
    return next(frame for packet in (av.Packet(data), None) for frame in decoder.decode(packet))


def drawn(frame: Any, orientation: int, longest: int, codec: str) -> bytes:
    """A frame as a picture."""
    import av
    import numpy

    scale = min(1.0, longest / max(frame.width, frame.height)) if longest else 1.0
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    pixels = _TURNS[orientation](frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray())
    upright = av.VideoFrame.from_ndarray(numpy.ascontiguousarray(pixels), "rgb24")
    form = "yuvj444p" if codec == "mjpeg" else "rgb24"
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = upright.width, upright.height, form
    encoder.time_base = Fraction(1, 25)
    if codec == "mjpeg":
        encoder.qmin, encoder.qmax = 1, 2  # the best of 31
    made = upright.reformat(format=form)
    made.pts = 0
    return b"".join(bytes(packet) for packet in (*encoder.encode(made), *encoder.encode(None)))


class FilmRefused(Exception):
    """The film is not drawn; ``told`` says why, for the process that asked."""

    def __init__(self, **told: Any) -> None:
        super().__init__(str(told))
        self.told = told


def filmed(
    data: bytes, demuxer: str, most: int, rate: float, longest: int, seconds: float, pixels: int
) -> tuple[dict[str, Any], list[bytes]]:
    """The facts of a film, and frames of it at even times. Raises FilmRefused.

    Its length is that of the packets that are there, whatever the header says.
    """
    with opened(data, demuxer) as file:
        if not file.streams.video:
            raise FilmRefused(refused="no_pictures")
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        _check_size(stream.codec_context, pixels)
        times, keys = _times(file, stream)
        step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
        length = times[-1] - times[0] + step
        if length > seconds:
            raise FilmRefused(refused="too_long", seconds=round(length, 1))
        count = max(1, min(most, len(times), math.ceil(length * rate)))
        wanted = [times[0] + (at + 0.5) * length / count for at in range(count)]
        with contextlib.suppress(OSError, ValueError):
            file.seek(0)
        shots = [
            (time - times[0], drawn(frame, _BY_DEGREES.get(round(_rotation(frame)) % 360, 1), longest, "mjpeg"))
            for time, frame in _decoded(file, stream, wanted, keys, pixels)
        ]
        if not shots:
            raise FilmRefused(refused="undecodable")
        told = {
            "seconds": round(length, 3),
            "width": stream.codec_context.width,
            "height": stream.codec_context.height,
            "sound": bool(file.streams.audio),
            "times": [round(max(0.0, time), 3) for time, _ in shots],
            "sizes": [len(shot) for _, shot in shots],
        }
    return told, [shot for _, shot in shots]


def _check_size(sized: Any, pixels: int) -> None:
    if sized.width * sized.height > pixels:
        raise FilmRefused(refused="too_large", width=sized.width, height=sized.height)


def _times(file: Any, stream: Any) -> tuple[list[float], list[float]]:
    """The times of the packets with pictures, and of those that need no other, in seconds."""
    times, keys = [], []
    usual = 1 / float(stream.average_rate or 25)
    for at, packet in enumerate(itertools.islice(file.demux(stream), MOST_PACKETS)):
        if packet.size == 0:
            continue
        stamp = packet.pts if packet.pts is not None else packet.dts
        time = at * usual if stamp is None else float(stamp * packet.time_base)
        times.append(time)
        if packet.is_keyframe:
            keys.append(time)
    if not times:
        raise FilmRefused(refused="undecodable")
    return sorted(times), sorted(keys)


def _decoded(
    file: Any, stream: Any, wanted: Sequence[float], keys: Sequence[float], pixels: int
) -> Iterator[tuple[float, Any]]:
    """The frames that are shown at these times, each once."""
    import av

    left = MOST_DECODED
    frames = iter(file.decode(stream))
    shown: tuple[float, Any] | None = None
    ahead: tuple[float, Any] | None = None
    given: tuple[float, Any] | None = None
    for time in wanted:
        at = bisect.bisect_right(keys, time) - 1
        if file.format.name in _IMPRECISE:
            at -= 1
        if at >= 0 and ahead is not None and keys[at] > ahead[0]:
            with contextlib.suppress(OSError, ValueError):
                file.seek(int(keys[at] / stream.time_base), stream=stream)
                frames, shown, ahead = iter(file.decode(stream)), None, None
        while ahead is None or ahead[0] <= time + 1e-6:
            shown = ahead or shown
            try:
                frame = next(frames)
            except (StopIteration, av.error.FFmpegError):
                break
            left -= 1
            if left < 0:
                raise FilmRefused(refused="too_much")
            _check_size(frame, pixels)
            ahead = (time if frame.time is None else frame.time, frame)
        shown = shown or ahead
        if shown is not None and shown is not given:
            given = shown
            yield shown


def _rotation(frame: Any) -> float:
    """Degrees counter-clockwise, by the display matrix."""
    turn = getattr(frame, "rotation", 0)
    return float(turn) if isinstance(turn, int | float) else 0.0


def main() -> None:
    with contextlib.suppress(OSError, ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    mode, demuxer, *numbers = sys.argv[1:]
    data, out = sys.stdin.buffer.read(), sys.stdout.buffer
    if mode == "picture":
        orientation, longest = map(int, numbers)
        out.write(redrawn(data, demuxer, orientation, longest))
        return
    most, rate, side, seconds, pixels = numbers
    shots: list[bytes] = []
    try:
        told, shots = filmed(data, demuxer, int(most), float(rate), int(side), float(seconds), int(pixels))
    except FilmRefused as refusal:
        told = refusal.told
    out.write(json.dumps(told).encode() + b"\n")
    for shot in shots:
        out.write(shot)


if __name__ == "__main__":
    main()
