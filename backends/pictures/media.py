"""Checks pictures and other media in a chat before a worker gets them."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from backends.fetch import Fetcher
from backends.notices import DROPPED, note
from backends.pictures.films import Films
from backends.pictures.redrawing import Redrawer
from backends.pictures.sizes import note_fetched, upright_size
from backends.wire.chat import ContentPart
from backends.wire.media import decoded, is_data_url, read_data_url
from backends.wire.pictures import checked_picture
from backends.wire.seeing.videos import takes_no_videos, video_of
from catalog.errors import InvalidRequest, PayloadTooLarge
from catalog.types import Json

MAX_PICTURES = 64
_KINDS = frozenset({"text", "image_url", "input_audio", "refusal"})
"""The parts that are sent on, beside videos. llama-server and vLLM know others, whose addresses they fetch."""
MAX_PIXELS_IN_ALL = 200_000_000
"""Of all pictures of a request: a worker holds them decoded, three bytes a pixel, at the same time."""


async def with_media(
    body: Json,
    fetcher: Fetcher,
    redrawer: Redrawer,
    *,
    reads: frozenset[str] | None = None,
    films: Films | None = None,
) -> Json:
    """The chat's body with every picture in it as a ``data:`` URL of checked bytes, upright.

    ``reads`` are the kinds of pictures that the server decodes, None for all; ``films`` checks the videos of a
    server that takes some. Workers fetch nothing and open no files, so a URL is fetched here or refused. Raises
    InvalidRequest, UndecodableMedia, PayloadTooLarge, and CapabilityMismatch for a video without ``films``.
    """
    pictures = pixels = 0
    messages = []
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, list):
            pictures += sum(_is_picture(part) for part in content)
            if pictures > MAX_PICTURES:
                raise PayloadTooLarge(f"A request may hold at most {MAX_PICTURES} pictures.", param="messages")
            parts = []
            for part in content:
                if isinstance(part, dict) and part.get("video_url") is not None:
                    parts.append(await _video(part, films))
                    continue
                checked, size = await _part(part, fetcher, redrawer, reads)
                parts.append(checked)
                pixels += size
                if pixels > MAX_PIXELS_IN_ALL:
                    raise PayloadTooLarge(
                        f"The pictures of a request may have {MAX_PIXELS_IN_ALL} pixels in all.",
                        param="messages",
                    )
            message = {**message, "content": parts}
        messages.append(message)
    return {**body, "messages": messages}


def _is_picture(part: Any) -> bool:
    return isinstance(part, dict) and part.get("image_url") is not None


async def _part(
    part: Json, fetcher: Fetcher, redrawer: Redrawer, reads: frozenset[str] | None
) -> tuple[Json, int]:
    """The checked part, and its pixels."""
    if _is_picture(part):
        url = part["image_url"].get("url")
        if not isinstance(url, str) or not url:
            raise InvalidRequest("An image_url part needs image_url.url.", param="messages")
        low = part["image_url"].get("detail") == "low"
        checked, pixels = await _picture(url, fetcher, redrawer, reads, low=low)
        return {**part, "image_url": {**part["image_url"], "url": checked}}, pixels
    kind = part.get("type")
    if kind == "file" or part.get("file") is not None:
        raise InvalidRequest("Local models take no files in a chat.", param="messages")
    if kind not in _KINDS or "url" in (part.get("input_audio") or {}):
        raise InvalidRequest(
            f"Local models take no {str(kind)[:40]!r} parts of this form in a chat; they take "
            f"{', '.join(sorted(_KINDS))}.",
            param="messages",
        )
    return part, 0


async def _video(part: Json, films: Films | None) -> Json:
    if films is None:
        raise takes_no_videos("The model")
    asked = video_of(ContentPart(type="video_url", video_url=part["video_url"]))
    for name in ("fps", "max_frames", "detail"):
        if getattr(asked, name) not in (None, "auto"):
            note({DROPPED: f"messages.video_url.{name}"})
    return {"type": "video_url", "video_url": {"url": await films.check(asked.url)}}


async def _picture(
    url: str, fetcher: Fetcher, redrawer: Redrawer, reads: frozenset[str] | None, *, low: bool
) -> tuple[str, int]:
    address = None if is_data_url(url) else url
    if address is not None:
        url = await fetcher.fetch(address)
    kind, data = read_data_url(url)
    if not kind.startswith("image/"):
        raise InvalidRequest("An image_url must hold a picture.", param="messages")
    raw = await asyncio.to_thread(decoded, data)
    picture = checked_picture(raw)
    if address is not None:
        note_fetched(address, upright_size(raw, picture))
    made = await redrawer.redraw(raw, picture, reads=reads, low=low)
    if made is not None:
        form = "jpeg" if picture.kind == "jpeg" else "png"
        encoded = await asyncio.to_thread(base64.b64encode, made)
        url = f"data:image/{form};base64,{encoded.decode()}"
    return url, picture.width * picture.height
