"""Videos in a chat as pictures of them, for models that see pictures alone."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from backends.fetch import Fetcher
from backends.pictures.apart import Decoding, TookTooLong
from backends.pictures.redrawing import SMALL
from backends.wire.chat import ChatRequest, ContentPart, Message
from backends.wire.media import decoded, is_data_url, read_data_url
from backends.wire.pictures import MAX_PIXELS
from backends.wire.seeing.videos import MAX_FRAMES, MAX_VIDEO_BYTES, VideoAddress, video_of
from catalog.errors import InvalidRequest, PayloadTooLarge, RoundhouseError, UndecodableMedia, UnsupportedParameter
from catalog.installing import install_command
from catalog.types import Json

LIMIT = 60.0
"""Seconds for one video, with the start of its process."""
MAX_SECONDS = 3 * 3600.0
MAX_VIDEOS = 8
USUAL_FRAMES = 16
LONGEST = 768
"""The longest side in pixels of a frame whose ``detail`` is not "low"."""
_MAGIC = (
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (4, b"free", "mov"),
    (8, b"AVI ", "avi"),
    (0, b"FLV\x01", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\0\0\x01\xba", "mpeg"),
    (0, b"GIF8", "gif"),
)
"""Position, bytes, and FFmpeg's demuxer: formats that hold pictures themselves and refer to nothing else."""
_TRANSPORT, _SYNC = 188, 0x47


class SampledFilm(NamedTuple):
    """A video in pictures. ``seconds`` is its length, ``frames`` are times in seconds and JPEGs."""

    seconds: float
    sound: bool
    frames: Sequence[tuple[float, bytes]]


class Films:
    """Makes pictures of videos, in a process apart (:mod:`backends.pictures.program`)."""

    def __init__(self, fetcher: Fetcher, limit: float = LIMIT) -> None:
        self._fetcher = fetcher
        self._limit = limit
        self._decoding = Decoding()

    async def in_frames(self, request: ChatRequest) -> ChatRequest:
        """The chat with frames in the place of each video, and a line that tells their times.

        Raises InvalidRequest, UndecodableMedia and PayloadTooLarge for a video that cannot be read, and
        UnsupportedParameter where this server has no decoder.
        """
        if not self._decoding.is_able():
            raise UnsupportedParameter(
                "The model takes no videos, and this server cannot make pictures of them. Send pictures, name a "
                f"model that takes videos, or have the operator run: {install_command('speech')}",
                param="messages",
            )
        videos, pictures = _counted(request.messages)
        if videos > MAX_VIDEOS:
            raise PayloadTooLarge(f"A request may hold at most {MAX_VIDEOS} videos.", param="messages")
        each = (MAX_FRAMES - pictures) // videos
        if each < 1:
            raise PayloadTooLarge(
                f"A request may hold at most {MAX_FRAMES} pictures, frames of videos included.", param="messages"
            )
        messages = [await self._told(message, each) for message in request.messages]
        return request.model_copy(update={"messages": messages})

    async def check(self, url: str) -> str:
        """A data URL of a video whose length and size are within bounds. Raises as :meth:`in_frames`."""
        data = await self.read(url)
        if self._decoding.is_able():
            await self._film(data, VideoAddress(url="-", max_frames=1))
        if is_data_url(url):
            return url
        encoded = await asyncio.to_thread(base64.b64encode, data)
        return f"data:video/mp4;base64,{encoded.decode()}"

    async def read(self, url: str) -> bytes:
        """The bytes of a video. Raises InvalidRequest, UndecodableMedia and PayloadTooLarge."""
        if not is_data_url(url):
            data = await self._fetcher.fetch_video(url)
        else:
            if len(url) > MAX_VIDEO_BYTES * 4 // 3 + 1024:
                raise PayloadTooLarge(
                    f"A video is over the limit of {MAX_VIDEO_BYTES // 2**20} MiB.", param="messages"
                )
            kind, text = read_data_url(url)
            if not kind.startswith("video/") and kind not in ("image/gif", "application/octet-stream"):
                raise InvalidRequest("A video_url must hold a video.", param="messages")
            data = await asyncio.to_thread(decoded, text)
        if demuxer_of(data) is None:
            raise UndecodableMedia(
                "The data is no video in MP4, QuickTime, WebM, Matroska, AVI, FLV, MPEG, Ogg or GIF.",
                param="messages",
            )
        return data

    async def _told(self, message: Message, each: int) -> Message:
        if not isinstance(message.content, list) or all(part.type != "video_url" for part in message.content):
            return message
        content: list[ContentPart] = []
        for part in message.content:
            if part.type != "video_url":
                content.append(part)
                continue
            asked = video_of(part)
            film = await self._film(await self.read(asked.url), asked, each)
            content += _as_parts(film, asked.detail)
        return message.model_copy(update={"content": content})

    async def _film(self, data: bytes, asked: VideoAddress, each: int = MAX_FRAMES) -> SampledFilm:
        demuxer = demuxer_of(data)
        assert demuxer is not None, "read checks it"
        most = min(asked.max_frames or USUAL_FRAMES, each)
        longest = SMALL if asked.detail in (None, "low") else LONGEST
        arguments = ("film", demuxer, most, asked.fps or 1.0, longest, MAX_SECONDS, MAX_PIXELS)
        try:
            made = await self._decoding.run(*map(str, arguments), data=data, limit=self._limit)
        except TookTooLong:
            raise UndecodableMedia("The video takes too long to decode.", param="messages") from None
        if made is None:
            raise UndecodableMedia("The video cannot be decoded.", param="messages")
        head, _, rest = made.partition(b"\n")
        told: Json = json.loads(head)
        if "refused" in told:
            raise _refusal(told)
        frames, at = [], 0
        for time, size in zip(told["times"], told["sizes"], strict=True):
            frames.append((time, rest[at : at + size]))
            at += size
        return SampledFilm(told["seconds"], told["sound"], frames)


def demuxer_of(data: bytes) -> str | None:
    """The name of FFmpeg's demuxer for a video, by its first bytes; None for what is no video."""
    if len(data) > _TRANSPORT and data[0] == data[_TRANSPORT] == _SYNC:
        return "mpegts"
    return next((name for at, magic, name in _MAGIC if data[at : at + len(magic)] == magic), None)


def _refusal(told: Json) -> RoundhouseError:
    match told["refused"]:
        case "too_long":
            return PayloadTooLarge(
                f"A video has {told['seconds']} seconds; the limit is {MAX_SECONDS:.0f}.", param="messages"
            )
        case "too_large":
            return PayloadTooLarge(
                f"A video has {told['width']} x {told['height']} pixels; the limit is {MAX_PIXELS} in all.",
                param="messages",
            )
        case "too_much":
            return PayloadTooLarge("A video has too many frames to decode; send a part of it.", param="messages")
        case "no_pictures":
            return UndecodableMedia("The video has no pictures.", param="messages")
        case _:
            return UndecodableMedia("The video cannot be decoded.", param="messages")


def _counted(messages: Sequence[Message]) -> tuple[int, int]:
    """The videos and the pictures of a chat."""
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    videos = sum(part.type == "video_url" for part in parts)
    return videos, sum(part.image_url is not None for part in parts)


def _as_parts(film: SampledFilm, detail: str | None) -> list[ContentPart]:
    without = ", without its sound" if film.sound else ""
    count = len(film.frames)
    head = f"[A video of {film.seconds:.1f} s, as {count} frame{'s' * (count != 1)}{without}.]"
    parts = [ContentPart(type="text", text=head)]
    for time, picture in film.frames:
        url = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
        address: dict[str, Any] = {"url": url, **({} if detail is None else {"detail": detail})}
        parts += [
            ContentPart(type="text", text=f"[{_clock(time)}]"),
            ContentPart(type="image_url", image_url=address),
        ]
    return parts


def _clock(seconds: float) -> str:
    """Minutes and seconds, as ``1:02.5``."""
    tenths = math.floor(seconds * 10 + 0.5)
    return f"{tenths // 600}:{tenths % 600 // 10:02d}.{tenths % 10}"
