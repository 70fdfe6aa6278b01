"""MP4 files: frames and sound into bytes, and bytes into frames. Format: ISO/IEC 14496-12 with H.264 and AAC.

Frames are arrays of shape (frames, height, width, 3), 8 bits a channel; sound is of shape (channels, samples),
float in [-1, 1].
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.errors import ModelUnavailable, UndecodableMedia

Frames = NDArray[np.uint8]
_ENCODERS = ("libx264", "h264_videotoolbox", "libopenh264", "mpeg4")
"""Encoders in the order of preference; PyAV's wheels have the first."""
_OPTIONS = {"libx264": {"crf": "18", "preset": "medium"}, "mpeg4": {"q": "3"}}
MAX_FRAMES = 2_000
MAX_PIXELS = 500_000_000
"""Pixels of all frames of a video that is read: three bytes each."""


@dataclass(frozen=True, slots=True)
class Sound:
    """Sound beside frames: ``samples`` of shape (channels, samples), ``rate`` in Hz."""

    samples: NDArray[np.float32]
    rate: int


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames with their rate per second."""

    frames: Frames
    fps: float


def encoded(frames: Frames, fps: float, sound: Sound | None, check: Callable[[], None]) -> bytes:
    """Encode an MP4 whose index stands first, so that it plays while it is read.

    ``check`` is called for each frame, and may raise. Raises ModelUnavailable where PyAV has no encoder.
    """
    import av

    name = next((each for each in _ENCODERS if _can_encode(each)), None)
    if name is None:
        raise ModelUnavailable("PyAV has no encoder of H.264 or MPEG-4 here. Install PyAV from its wheel.")
    rate = Fraction(fps).limit_denominator(1001)
    with tempfile.TemporaryDirectory(prefix="roundhouse-video-") as folder:
        path = Path(folder) / "video.mp4"
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as opened:
            stream: Any = opened.add_stream(name, rate=rate, options=_OPTIONS.get(name, {}))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            aac: Any = None
            if sound is not None:
                aac = opened.add_stream("aac", rate=sound.rate)
                aac.layout = "mono" if sound.samples.shape[0] == 1 else "stereo"
            for pixels in frames:
                check()
                opened.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
            opened.mux(stream.encode(None))
            if sound is not None:
                samples = np.ascontiguousarray(sound.samples[:2], dtype=np.float32)
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=aac.layout.name)
                frame.sample_rate = sound.rate
                for part in (frame, None):
                    opened.mux(aac.encode(part))
        return path.read_bytes()


def _can_encode(name: str) -> bool:
    from av.codec import Codec

    try:
        Codec(name, "w")
    except ValueError:  # UnknownCodecError
        return False
    return True


def read_clip(data: bytes) -> Clip:
    """The frames of an MP4.

    Raises UndecodableMedia for bytes that are none, and for a video with too many frames or pixels.
    """
    import av

    found: list[Frames] = []
    try:
        opening: Any = av.open(io.BytesIO(data), format="mp4")
        with opening as opened:
            stream = opened.streams.video[0]
            fps = float(stream.average_rate or 0) or 24.0
            for frame in opened.decode(stream):
                if len(found) >= MAX_FRAMES or (len(found) + 1) * frame.width * frame.height > MAX_PIXELS:
                    raise UndecodableMedia("The video is too long, or its pictures are too large.", param="video")
                found.append(frame.to_ndarray(format="rgb24"))
    except (av.FFmpegError, IndexError, ValueError):
        raise UndecodableMedia("The video cannot be decoded.", param="video") from None
    if not found:
        raise UndecodableMedia("The video has no pictures.", param="video")
    return Clip(np.stack(found), fps)
