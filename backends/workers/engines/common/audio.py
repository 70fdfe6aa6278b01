"""Decodes any audio container to samples, and encodes samples in the API's six formats, with PyAV (FFmpeg)."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from backends.wire.audio import SpeechFormat
from catalog.errors import PayloadTooLarge, UndecodableMedia, UnsupportedValue

if TYPE_CHECKING:
    from av import AudioFrame, Packet
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer

Samples = NDArray[np.float32]
"""Mono samples in [-1, 1]."""

_CONTAINERS = (
    "wav,w64,mp3,flac,ogg,aac,mov,matroska,aiff,caf,au,amr,avi,mpegts,mpeg,asf,ape,wv,ac3,eac3,dts,flv,tta,gsm"
)
"""FFmpeg's demuxers for uploads, without playlists, which refer to other files and addresses."""

_UNREADABLE = (
    "The file is not audio that can be read, or it is damaged. WAV, MP3, FLAC, Ogg, MP4 and WebM can be read, "
    "among others."
)
"""FFmpeg's own reason is left out: for most damaged files it is an error number, such as 'Invalid argument'."""
_MAX_BAD_FRAMES = 100


def decode(data: bytes, *, rate: int, max_seconds: float, check: Callable[[], None]) -> Samples:
    """Decode the first audio track of a container to mono at ``rate`` Hz. ``check`` is called for every frame.

    Raises UndecodableMedia if ``data`` contains no audio, PayloadTooLarge beyond ``max_seconds``.
    """
    return np.concatenate(list(_decoded(data, rate=rate, max_seconds=max_seconds, check=check)))


def decode_pieces(
    data: bytes,
    *,
    rate: int,
    max_seconds: float,
    check: Callable[[], None],
    seconds: float,
    quiet: float,
    first: float | None = None,
) -> Iterator[Samples]:
    """As :func:`decode`, in pieces of at most ``seconds``: hours of audio do not fit in memory at once.

    The ``first`` piece may have a length of its own.
    A piece ends at the quietest moment of its last ``quiet`` seconds. Raises as :func:`decode`, also after the
    first piece, if the container does not tell its length.
    """
    size, margin, moment = int((first or seconds) * rate), int(quiet * rate), rate // 10
    kept: list[Samples] = []
    count = 0
    for part in _decoded(data, rate=rate, max_seconds=max_seconds, check=check):
        kept.append(part)
        count += len(part)
        while count > size:
            joined = np.concatenate(kept)
            tail = joined[size - margin : size]
            tail = tail[: len(tail) // moment * moment].reshape(-1, moment)
            end = size - margin + int(np.abs(tail).sum(axis=1).argmin()) * moment + moment // 2
            yield joined[:end]
            kept, count, size = [joined[end:]], len(joined) - end, int(seconds * rate)
    if count:
        yield np.concatenate(kept)


def length_of(data: bytes) -> float | None:
    """The seconds of a container as it tells them, perhaps as an estimate; ``None`` if it does not.

    Nothing is decoded. A file that cannot be read has no length; decoding it tells why.
    """
    import av

    try:
        with _opened(data) as container:
            return container.duration / av.time_base if container.duration else None
    except (av.error.FFmpegError, ValueError):
        return None


_EXACT = frozenset({"flac", "ogg", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
"""FFmpeg's formats that store their length; of others it is an estimate."""


def _opened(data: bytes) -> InputContainer:
    import av

    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    return av.open(io.BytesIO(data), "r", metadata_errors="ignore", container_options=options)


def _decoded(data: bytes, *, rate: int, max_seconds: float, check: Callable[[], None]) -> Iterator[Samples]:
    """The samples as they are decoded. Raises as :func:`decode`."""
    import av

    limit = int(max_seconds * rate)
    too_long = PayloadTooLarge(f"The audio is longer than {max_seconds:g} seconds.", param="file")
    total = 0
    try:
        with _opened(data) as container:
            if not container.streams.audio:
                raise UndecodableMedia("The file has no audio track.", param="file")
            if container.format.name in _EXACT and (container.duration or 0) > max_seconds * av.time_base:
                raise too_long
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
            for frame in chain(_frames(container.decode(audio=0)), (None,)):
                check()
                for piece in resampler.resample(frame):
                    samples = piece.to_ndarray().reshape(-1).astype(np.float32, copy=False)
                    total += len(samples)
                    if total > limit:
                        raise too_long
                    yield samples
    except (av.error.FFmpegError, ValueError) as error:
        raise UndecodableMedia(_UNREADABLE, param="file") from error
    if not total:
        raise UndecodableMedia("The file's audio track is empty.", param="file")


def _frames(frames: Iterator[AudioFrame]) -> Iterator[AudioFrame]:
    """Yield the frames; damaged ones are skipped, up to a limit."""
    import av

    bad = 0
    while bad < _MAX_BAD_FRAMES:
        try:
            frame = next(frames)
        except StopIteration:
            return
        except av.error.InvalidDataError:
            bad += 1
            continue
        frame.pts = None
        yield frame
    raise UndecodableMedia("The file's audio is damaged.", param="file")


# ---- encoding


@dataclass(frozen=True, slots=True)
class _Codec:
    name: str
    container: str
    sample_format: str
    options: dict[str, str]


_CODECS: dict[str, _Codec] = {
    "mp3": _Codec("libmp3lame", "mp3", "fltp", {"write_xing": "0", "id3v2_version": "0"}),
    "opus": _Codec("libopus", "ogg", "flt", {"page_duration": "100000"}),
    "aac": _Codec("aac", "adts", "fltp", {}),
    "flac": _Codec("flac", "flac", "s16", {}),
}


def check_rate(audio_format: SpeechFormat, rate: int) -> None:
    """Check that the format supports ``rate`` Hz. Raises UnsupportedParameter with the supported rates."""
    import av

    codec = _CODECS.get(audio_format)
    rates = av.Codec(codec.name, "w").audio_rates if codec else None
    if rates and rate not in rates:
        listed = ", ".join(str(each) for each in sorted(rates) if 8000 <= each <= 48000)
        raise UnsupportedValue(
            f"{audio_format} cannot be written at {rate} Hz. Possible are {listed}.", param="sample_rate"
        )


def encode(
    chunks: Iterable[Samples], *, audio_format: SpeechFormat, source_rate: int, rate: int, tempo: float = 1.0
) -> Iterator[bytes]:
    """Encode samples as ``audio_format`` at ``rate`` Hz; yield bytes as soon as the encoder returns some.

    ``tempo`` is the factor by which the result plays faster, at the same pitch. A ``wav`` is a stream: its two
    size fields are 0xFFFFFFFF, which players read as "until the end". ``pcm`` is 16 bits, little-endian.
    """
    codec = _CODECS.get(audio_format)
    sink = _Encoded(codec, rate) if codec else _Plain(wav=audio_format == "wav", rate=rate)
    shape = _Shaper(source_rate, rate, codec.sample_format if codec else "s16", tempo)
    for chunk in chunks:
        if data := sink.write(shape.push(chunk)):
            yield data
    if data := sink.write(shape.flush()) + sink.close():
        yield data


class _Shaper:
    """Converts tempo, sample rate and sample format."""

    def __init__(self, source_rate: int, rate: int, sample_format: str, tempo: float) -> None:
        import av
        from av.filter import Graph

        self._rate = source_rate
        self._resampler = av.AudioResampler(format=sample_format, layout="mono", rate=rate)
        self._graph: Graph | None = None
        if tempo != 1.0:
            self._graph = Graph()
            source = self._graph.add_abuffer(sample_rate=source_rate, format="flt", layout="mono")
            filters = [source, self._graph.add("atempo", f"{tempo:.6f}"), self._graph.add("abuffersink")]
            self._graph.link_nodes(*filters).configure()

    def push(self, chunk: Samples) -> list[AudioFrame]:
        import av

        if not len(chunk):
            return []
        plane = np.ascontiguousarray(chunk, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(plane, format="flt", layout="mono")
        frame.sample_rate = self._rate
        frame.pts = None
        return self._resampled(self._tempo(frame))

    def flush(self) -> list[AudioFrame]:
        return [*self._resampled(self._tempo(None)), *self._resampler.resample(None)]

    def _tempo(self, frame: AudioFrame | None) -> list[AudioFrame]:
        import av

        if self._graph is None:
            return [frame] if frame else []
        self._graph.push(frame)
        found: list[AudioFrame] = []
        while True:
            try:
                pulled = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return found
            assert isinstance(pulled, av.AudioFrame)
            pulled.pts = None
            found.append(pulled)

    def _resampled(self, frames: list[AudioFrame]) -> list[AudioFrame]:
        return [piece for frame in frames for piece in self._resampler.resample(frame)]


class _Plain:
    """Writes 16-bit samples unencoded, after a header for WAV."""

    def __init__(self, *, wav: bool, rate: int) -> None:
        self._header = wav_header(rate) if wav else b""

    def write(self, frames: list[AudioFrame]) -> bytes:
        data = b"".join(frame.to_ndarray().astype("<i2", copy=False).tobytes() for frame in frames)
        if not data:
            return b""
        header, self._header = self._header, b""
        return header + data

    def close(self) -> bytes:
        return b""


def wav_header(rate: int, size: int = 0xFFFFFFFF) -> bytes:
    """Make the 44 bytes before ``size`` bytes of mono 16-bit samples. Source: RIFF WAVE, 1991."""
    whole = size if size == 0xFFFFFFFF else size + 36
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", whole, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size
    )


class _Sink:
    """An output file for FFmpeg that cannot seek, so that bytes already sent are never changed."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


class _Encoded:
    """Encodes with a codec into its container."""

    def __init__(self, codec: _Codec, rate: int) -> None:
        import av

        self._sink = _Sink()
        options = {**codec.options, "flush_packets": "1"}
        self._container: OutputContainer = av.open(
            self._sink, "w", format=codec.container, container_options=options
        )
        stream = self._container.add_stream(codec.name, rate=rate, layout="mono", format=codec.sample_format)
        assert isinstance(stream, av.AudioStream)
        self._stream = stream

    def write(self, frames: list[AudioFrame]) -> bytes:
        for frame in frames:
            frame.pts = None
            self._mux(self._stream.encode(frame))
        return self._sink.take()

    def close(self) -> bytes:
        self._mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()

    def _mux(self, packets: list[Packet[AudioStream]]) -> None:
        for packet in packets:
            self._container.mux(packet)
